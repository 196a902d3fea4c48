//! Registered and connected, or on the way back to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use patchbay_common::lifecycle::{Drain, Notify};
use patchbay_common::tunnel::mux::{AgentEnd, Settings};
use patchbay_common::tunnel::{Registered, Transport};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::carry::Carrier;
use crate::config::Config;
use crate::control::{CallError, Control};
use crate::gauge::Gauge;
use crate::poll::Poller;

/// How long long polling goes on before the multiplexed connection is tried again.
const RETRY_MUX: Duration = Duration::from_secs(60);
/// A multiplexed connection that ends sooner than this does not get through.
const SHORTEST: Duration = Duration::from_secs(2);
/// Such connections in a row before long polling is turned to.
const SHORT_ONES: u32 = 3;

/// Keeps an agent in touch with one of its gateways.
pub struct Keeper {
    /// What the operator decided.
    pub config: Config,
    /// Makes the calls.
    pub control: Control,
    /// Carries streams.
    pub carrier: Arc<Carrier>,
    /// Answers by long polling.
    pub poller: Arc<Poller>,
    /// Counts.
    pub gauge: Arc<Gauge>,
    /// Says when to stop.
    pub drain: Drain,
    /// The session there is.
    pub session: watch::Sender<Option<Registered>>,
    /// The gateway can reach us.
    pub up: AtomicBool,
}

impl Keeper {
    /// Registers, serves, and comes back, until the task is dropped.
    pub async fn run(&self) {
        let mut backoff = Backoff::default();
        let mut said = String::new();
        loop {
            match self.control.register(&self.config).await {
                Ok(session) => {
                    backoff.reset();
                    said.clear();
                    self.gauge.registrations.fetch_add(1, Ordering::Relaxed);
                    self.session.send_replace(Some(session.clone()));
                    self.serve(&session).await;
                    self.session.send_replace(None);
                    self.connected(false);
                }
                Err(error) => {
                    // The same sentence at every try would hide everything else.
                    let text = error.to_string();
                    if said != text {
                        log::warn!("not connected to {}: {text}", self.control.gateway());
                        said = text;
                    }
                    let wait = match error {
                        CallError::Refused { .. } => backoff.refused(),
                        _ => backoff.unreachable(),
                    };
                    sleep(wait).await;
                }
            }
        }
    }

    /// Serves a session until the gateway does not know it any more.
    async fn serve(&self, session: &Registered) {
        let mut backoff = Backoff::default();
        let mut short = 0;
        let may_mux = session.transports.contains(&Transport::Mux)
            && self.config.transport != Some(Transport::Poll);
        loop {
            let use_mux = may_mux && short < SHORT_ONES;
            let began = tokio::time::Instant::now();
            let outcome = if use_mux {
                self.by_mux(session).await
            } else {
                self.by_poll(session, may_mux).await
            };
            self.connected(false);
            let lasted = began.elapsed();
            if lasted > SHORTEST {
                backoff.reset();
            }
            match outcome {
                Err(CallError::Session) => return,
                Err(CallError::NotUpgraded(status)) if self.config.transport.is_none() => {
                    log::warn!(
                        "the connection cannot be upgraded ({status}): long polling instead"
                    );
                    short = SHORT_ONES;
                    continue;
                }
                Ok(()) if use_mux && lasted < SHORTEST => short += 1,
                Ok(()) => short = 0,
                Err(error) => {
                    log::debug!("{error}");
                    // The mux was not broken by a middlebox: there was nobody at all.
                    short = 0;
                }
            }
            sleep(backoff.unreachable()).await;
        }
    }

    fn connected(&self, up: bool) {
        let count = &self.gauge.connected;
        match (self.up.swap(up, Ordering::Relaxed), up) {
            (false, true) => count.fetch_add(1, Ordering::Relaxed),
            (true, false) => count.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }

    fn ready(&self, session: &Registered, transport: &str) {
        self.connected(true);
        let all = session
            .tunnels
            .iter()
            .map(|tunnel| match tunnel.path.as_str() {
                "" => tunnel.id.to_string(),
                path => format!("{}{path}", self.control.gateway()),
            });
        let all: Vec<String> = all.collect();
        let text = format!("connected by {transport}: {}", all.join(" "));
        log::info!("{text}");
        Notify.ready(&text);
    }

    async fn by_mux(&self, session: &Registered) -> Result<(), CallError> {
        let upgraded = self.control.connect(&session.session_id).await?;
        let settings = Settings::default();
        let begun = timeout(settings.ping_patience, AgentEnd::begin(upgraded, settings)).await;
        let Ok(Ok(end)) = begun else {
            return Ok(());
        };
        self.ready(session, "mux");
        if let Err(cause) = end.run(|call| self.carrier.take(call)).await {
            log::warn!("the connection to the gateway broke off: {cause}");
        } else {
            log::warn!("the gateway has ended the connection");
        }
        Ok(())
    }

    /// Long polling; for a while only where the multiplexed connection may get through later.
    async fn by_poll(&self, session: &Registered, may_mux: bool) -> Result<(), CallError> {
        self.ready(session, "long polling");
        let polling = self.poller.run(session);
        if may_mux {
            timeout(RETRY_MUX, polling).await.unwrap_or(Ok(()))
        } else {
            polling.await
        }
    }
}
