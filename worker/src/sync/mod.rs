//! Keeps the table equal to the coordinator's store. Events are hints: they come by Redis or by
//! the coordinator's own stream, are numbered by generation, and are made good by a full fetch
//! wherever one may be missing. One task (`keeper`) changes the table, and `state` alone decides
//! what a message means. The room also tells the coordinator that the worker lives and serves,
//! leaves marks of use in Redis or, without one, with the coordinator, and keeps shared rate limits
//! in Redis. It refuses to know requests and listeners: `wiring` starts it, `proxy` and `stream`
//! leave marks in [`Activity`], `setup` borrows [`Coordinator`].

mod acknowledge;
mod activity;
mod backoff;
mod client;
mod heartbeat;
mod inbox;
mod join;
mod keeper;
mod ledger;
mod redis_link;
mod route_report;
mod services;
mod snapshot;
mod sse;
mod state;
mod status;
mod stream;
mod subscriber;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trial;
mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::circuit::Slot;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use activity::Activity;
pub use client::{CallError, Coordinator, Registered};
pub use join::registration;
pub use ledger::RedisLedger;
pub use route_report::RouteReporter;
pub use services::Services;
pub use snapshot::Snapshot;
pub use status::{Bus, Reach, RedisState, Status};
pub use tunnels::TunnelTeller;

use crate::config::Config;
use crate::table::Table;
use activity::Writer;
use heartbeat::Heart;
use inbox::{Inbox, Outlet};
use keeper::{Keeper, Tools};
use redis_link::RedisLink;
use status::Board;

/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// Says which slots are served here: a circuit on a port that could not be bound is not
/// acknowledged.
pub trait Serving: Send + Sync + 'static {
    /// Whether requests that come to this slot reach the table.
    fn serves(&self, slot: &Slot) -> bool;
}

/// Every slot is served.
#[derive(Clone, Copy, Debug)]
pub struct Everywhere;

impl Serving for Everywhere {
    fn serves(&self, _: &Slot) -> bool {
        true
    }
}

/// The room at work. Its tasks end with [`Link::stop`] or when it is dropped.
#[derive(Debug)]
pub struct Link {
    coordinator: Coordinator,
    activity: Arc<Activity>,
    services: Option<watch::Receiver<Services>>,
    board: Board,
    beating: CancellationToken,
    working: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Starts to keep `table` equal to what the coordinator of `config` says, on the current
    /// runtime.
    ///
    /// # Errors
    /// [`CallError::Unusable`]; an unreachable coordinator is not an error but waited for.
    pub fn start(
        config: &Config,
        table: Arc<Table>,
        serving: Arc<dyn Serving>,
    ) -> Result<Self, CallError> {
        let working = CancellationToken::new();
        let mut link = Self {
            coordinator: Coordinator::new(config)?,
            activity: Arc::new(Activity::new(true)),
            services: None,
            board: Board::new(config.redis.is_some()),
            beating: working.child_token(),
            working,
            tasks: TaskTracker::new(),
        };
        let services = link.keep_services(config);
        let redis = config.redis.clone().map(RedisLink::new);
        let (inbox, outlet) = inbox::inbox();
        let (acknowledger, sender) =
            acknowledge::acknowledger(redis.as_ref(), link.coordinator.clone(), link.board.clone());
        let tools = Tools {
            coordinator: link.coordinator.clone(),
            table,
            serving,
            acknowledger,
            board: link.board.clone(),
            stranger: Arc::new(Notify::new()),
        };
        link.spawn(&link.working, sender.run());
        if let Some(redis) = &redis {
            let hearing = subscriber::run(
                redis.clone(),
                inbox.clone(),
                services.clone(),
                link.board.clone(),
            );
            link.spawn(&link.working, hearing);
        }
        let writer = match &redis {
            Some(redis) => Writer::for_redis(redis.clone()),
            None => Writer::for_coordinator(link.coordinator.clone(), link.board.clone()),
        };
        link.tasks.spawn(writer.run(
            Arc::clone(&link.activity),
            config.sync.activity_interval.0,
            link.working.clone(),
        ));
        link.join(config, tools, (inbox, outlet), services);
        Ok(link)
    }

    /// Without circuits: there are at most services to keep, and nothing to wait for.
    ///
    /// # Errors
    /// [`CallError::Unusable`].
    pub fn alone(config: &Config) -> Result<Self, CallError> {
        let working = CancellationToken::new();
        let board = Board::new(false);
        board.write(|status| {
            status.ready = true;
            status.coordinator_reach = status::Reach::ok();
        });
        let mut link = Self {
            coordinator: Coordinator::new(config)?,
            activity: Arc::new(Activity::new(false)),
            services: None,
            board,
            beating: working.child_token(),
            working,
            tasks: TaskTracker::new(),
        };
        link.keep_services(config);
        Ok(link)
    }

    /// Begins to keep the gateway's services, if they are the coordinator's too.
    fn keep_services(&mut self, config: &Config) -> Option<services::Inbox> {
        let follows = config.gateway.as_ref().is_some_and(|it| it.follows);
        if !follows {
            return None;
        }
        let every = config.sync.refetch_interval.0;
        let (keeper, inbox, known) = services::Keeper::new(self.coordinator.clone(), every);
        let listening = services::listen(self.coordinator.clone(), inbox.clone(), known.clone());
        self.spawn(&self.working, keeper.run());
        self.spawn(&self.working, listening);
        self.services = Some(known);
        Some(inbox)
    }

    /// The coordinator's services and every change of them, if they are followed.
    pub fn services(&self) -> Option<watch::Receiver<Services>> {
        self.services.clone()
    }

    /// Registers, then starts what needs the worker's key.
    fn join(
        &self,
        config: &Config,
        tools: Tools,
        (inbox, outlet): (Inbox, Outlet),
        services: Option<services::Inbox>,
    ) {
        let registration = join::registration(config);
        let heart = Heart {
            coordinator: self.coordinator.clone(),
            registration: registration.clone(),
            inbox: inbox.clone(),
            services,
            board: self.board.clone(),
            period: config.heartbeat_period.0,
            stranger: Arc::clone(&tools.stranger),
        };
        let keeper = Keeper::new(tools, &config.authority, config.sync.refetch_interval.0);
        let stream = stream::run(self.coordinator.clone(), inbox, self.board.clone());
        let (coordinator, board) = (self.coordinator.clone(), self.board.clone());
        let (beating, working) = (self.beating.clone(), self.working.clone());
        let tasks = self.tasks.clone();
        self.spawn(&self.working, async move {
            join::register(&coordinator, &registration, &board).await;
            tasks.spawn(until(beating, heart.run()));
            tasks.spawn(until(working.clone(), keeper.run(outlet)));
            tasks.spawn(until(working, stream));
        });
    }

    fn spawn(&self, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(until(stop.clone(), work));
    }

    /// Completes when the circuits were fetched for the first time.
    pub async fn ready(&self) {
        self.board.until(|status| status.ready).await;
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        self.board.read()
    }

    /// How things stand, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.board.watch()
    }

    /// Where traffic leaves its marks.
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Says goodbye to the coordinator, which then opens no more circuits here. Changes to open
    /// circuits are still heard and marks still written, for as long as the process drains.
    pub async fn leave(&self) {
        self.beating.cancel();
        let Some(worker) = self.board.worker() else {
            return;
        };
        let goodbye = tokio::time::timeout(GOODBYE, self.coordinator.leave(worker));
        match goodbye.await {
            Ok(Ok(())) => log::info!("left the coordinator"),
            Ok(Err(cause)) => log::warn!("the goodbye failed: {cause}"),
            Err(_) => log::warn!("the goodbye took more than {} s", GOODBYE.as_secs()),
        }
    }

    /// A successor speaks for the worker now. Changes to open circuits are still heard and marks
    /// still written, for as long as this process serves connections.
    pub fn retire(&self) {
        self.beating.cancel();
    }

    /// Ends all work; the last marks are written.
    pub async fn stop(&self) {
        self.working.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.working.cancel();
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
