//! Everything a scenario usually needs, put together: coordinator, worker, app, and the parts
//! they stand on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use patchbay_common::id::CircuitId;
use reqwest::Url;
use tempfile::TempDir;

use crate::app::App;
use crate::browser::{Answer, Browser};
use crate::coordinator::{Coordinator, Store};
use crate::eventually::eventually;
use crate::load::Target;
use crate::opener::{Opened, Opener, Order};
use crate::postgres::Database;
use crate::redis::RedisServer;
use crate::worker::{Frontend, Plan, Worker};

/// Longest until a change takes effect after a part's return.
const EFFECT: Duration = Duration::from_secs(2);

/// What a rig stands on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// PostgreSQL and Redis; otherwise SQLite and the coordinator's own stream.
    pub servers: bool,
    /// Where the worker's slots are.
    pub frontend: Frontend,
    /// Sections added to the coordinator's file.
    pub coordinator: String,
    /// Sections added to the worker's file.
    pub worker: String,
    /// Whether plain requests take the fast lane; as [`Plan`] has it if `None`.
    pub fast_lane: Option<bool>,
}

impl Parts {
    /// One machine: SQLite, no Redis, eight ports.
    pub fn embedded() -> Self {
        Self {
            servers: false,
            frontend: Frontend::Ports(8),
            coordinator: String::new(),
            worker: String::new(),
            fast_lane: None,
        }
    }

    /// PostgreSQL and Redis, eight ports.
    pub fn servers() -> Self {
        Self {
            servers: true,
            ..Self::embedded()
        }
    }

    /// With this many ports.
    #[must_use]
    pub fn ports(mut self, count: u16) -> Self {
        self.frontend = Frontend::Ports(count);
        self
    }

    /// With subdomains.
    #[must_use]
    pub fn wildcard(mut self) -> Self {
        self.frontend = Frontend::Wildcard;
        self
    }

    /// With these sections in the worker's file.
    #[must_use]
    pub fn worker(mut self, sections: &str) -> Self {
        self.worker.push_str(sections);
        self
    }

    /// With the fast lane or without it.
    #[must_use]
    pub fn fast_lane(mut self, on: bool) -> Self {
        self.fast_lane = Some(on);
        self
    }

    /// With these sections in the coordinator's file.
    #[must_use]
    pub fn coordinator(mut self, sections: &str) -> Self {
        self.coordinator.push_str(sections);
        self
    }
}

/// A running installation.
#[derive(Debug)]
pub struct Rig {
    /// The worker. First, so that it ends first.
    pub worker: Worker,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// Redis, if there is one.
    pub redis: Option<RedisServer>,
    /// Where the coordinator keeps its state.
    pub store: Store,
    /// An app to open.
    pub app: App,
    /// The Manager.
    pub opener: Opener,
    /// Configuration, logs, state.
    pub folder: TempDir,
}

/// A circuit somebody has opened and can use.
#[derive(Clone, Debug)]
pub struct Door {
    /// The circuit.
    pub circuit: CircuitId,
    /// Base URL of the app, without a trailing slash.
    pub url: String,
    /// The browser that holds the permit.
    pub browser: Browser,
    /// The order it was opened with.
    pub order: Order,
    /// What the opening call answered.
    pub opened: Opened,
}

impl Rig {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// If a part does not come up.
    pub async fn start(parts: Parts) -> anyhow::Result<Self> {
        if parts.servers {
            let database = Database::create().await?;
            return Self::start_in(parts, database).await;
        }
        let folder = tempfile::tempdir()?;
        let store = Store::Sqlite(folder.path().join("patchbay.db"));
        Self::start_on(parts, folder, store, None).await
    }

    /// Starts everything on this database, with a Redis of its own.
    ///
    /// # Errors
    /// If a part does not come up.
    pub async fn start_in(parts: Parts, database: Database) -> anyhow::Result<Self> {
        let redis = Some(RedisServer::start().await?);
        let store = Store::Postgres(database);
        Self::start_on(parts, tempfile::tempdir()?, store, redis).await
    }

    async fn start_on(
        parts: Parts,
        folder: TempDir,
        store: Store,
        redis: Option<RedisServer>,
    ) -> anyhow::Result<Self> {
        let section = redis.as_ref().map(RedisServer::section).unwrap_or_default();
        let sections = &parts.coordinator;
        let coordinator =
            Coordinator::start(folder.path(), "coordinator", &store, &section, sections).await?;
        let mut plan = Plan::new(parts.frontend, coordinator.url());
        plan.redis = section;
        plan.more = parts.worker;
        plan.fast_lane = parts.fast_lane.unwrap_or(plan.fast_lane);
        let worker = Worker::start(folder.path(), &plan).await?;
        let opener = Opener::new(&coordinator.url())?;
        Ok(Self {
            worker,
            coordinator,
            redis,
            store,
            app: App::start().await?,
            opener,
            folder,
        })
    }

    /// Its Redis.
    ///
    /// # Errors
    /// If the rig has none.
    pub fn redis(&mut self) -> anyhow::Result<&mut RedisServer> {
        self.redis.as_mut().context("this rig has no Redis")
    }

    /// An order for the rig's app.
    pub fn order(&self, name: &str) -> Order {
        Order::http(name, self.app.address)
    }

    /// Opens a circuit to the rig's app and goes through `/setup` with a fresh browser.
    ///
    /// # Errors
    /// If any step fails.
    pub async fn open(&self, name: &str) -> anyhow::Result<Door> {
        self.open_order(&self.order(name)).await
    }

    /// Opens a circuit and goes through `/setup` with a fresh browser.
    ///
    /// # Errors
    /// If any step fails.
    pub async fn open_order(&self, order: &Order) -> anyhow::Result<Door> {
        let opened = self.opener.open(order).await?;
        let browser = Browser::new()?;
        let url = enter(&browser, &opened).await?;
        Ok(Door {
            circuit: opened.circuit,
            url,
            browser,
            order: order.clone(),
            opened,
        })
    }

    /// Opens many circuits to the rig's app.
    ///
    /// # Errors
    /// If one fails.
    pub async fn open_many(&self, count: usize) -> anyhow::Result<Vec<Door>> {
        let mut doors = Vec::new();
        for number in 0..count {
            doors.push(self.open(&format!("app-{number}")).await?);
        }
        Ok(doors)
    }
}

impl Rig {
    /// Opens a circuit, uses it, closes it and waits until it is gone: what must work within 2 s
    /// after any part came back.
    ///
    /// # Errors
    /// If a step fails, or all together take longer.
    pub async fn changes_take_effect(&self, when: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        let both = async {
            let door = eventually("an opening succeeds", EFFECT, async || {
                self.open("newcomer").await
            })
            .await?;
            door.get("/hello").await?.expect(200)?;
            self.opener.close(door.circuit).await?;
            eventually("the closed circuit is gone", EFFECT, async || {
                door.get("/hello").await?.expect(400)
            })
            .await
        };
        both.await.with_context(|| format!("a change {when}"))?;
        let took = begin.elapsed();
        ensure!(took < EFFECT, "changes {when} took {took:?} to take effect");
        Ok(())
    }
}

/// Follows the setup link up to the app's own address, permit in hand; answers with its base URL.
///
/// # Errors
/// If a step on the way fails.
pub async fn enter(browser: &Browser, opened: &Opened) -> anyhow::Result<String> {
    let mut answer = browser.get(&opened.setup).await?.expect(302)?;
    let mut next = target(&answer)?;
    if next.path() == "/.patchbay/permit" {
        answer = browser.get(next.as_str()).await?.expect(302)?;
        next = target(&answer)?;
    }
    Ok(next.origin().ascii_serialization())
}

fn target(answer: &Answer) -> anyhow::Result<Url> {
    let location = answer.header("location");
    answer
        .url
        .join(location)
        .with_context(|| location.to_owned())
}

impl Door {
    /// Asks for a path of the app with the permit.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.browser.get(&self.at(path)).await
    }

    /// The URL of a path of the app.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The `Cookie` header that opens the app.
    pub fn cookie(&self) -> String {
        let url = Url::parse(&self.url).ok();
        let cookie = url.and_then(|url| self.browser.cookie_header(&url));
        cookie.unwrap_or_default()
    }

    /// The app's address, for connections made by hand.
    ///
    /// # Errors
    /// If its URL has no port.
    pub fn address(&self) -> anyhow::Result<std::net::SocketAddr> {
        let port = Url::parse(&self.url)?.port_or_known_default();
        let port = port.context("a URL without a port")?;
        Ok(([127, 0, 0, 1], port).into())
    }

    /// What a browser sends as `Host`.
    pub fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A page for a load to ask for.
    pub fn target(&self) -> Target {
        Target {
            url: self.at("/hello"),
            cookie: self.cookie(),
            expected: "hello from the app",
        }
    }
}
