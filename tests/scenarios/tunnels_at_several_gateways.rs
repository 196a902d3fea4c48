//! An agent is connected to one gateway and reached through every other; a name has one owner at
//! all of them, also when they could not ask the coordinator for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::app::{App, digest, download};
use patchbay_tests::browser::{Answer, Browser};
use patchbay_tests::eventually::eventually;
use patchbay_tests::lending::{Agent, TOKEN, lend, section};
use patchbay_tests::ports::Ports;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::socket::{self, Handshake};
use patchbay_tests::worker::{Frontend, Plan, Worker};
use reqwest::Method;
use serde_json::{Value, json};

/// Longest until gateways know of each other's tunnels.
const KNOWN: Duration = Duration::from_secs(10);
/// What visitors of the tunnel `web` show.
const VISITOR: (&str, &str) = ("x-tunnel-token", "sesame");

/// A worker's gateway, as visitors and agents see it.
struct Door {
    address: String,
    browser: Browser,
}

impl Door {
    fn new(port: u16) -> Result<Self> {
        Ok(Self {
            address: format!("127.0.0.1:{port}"),
            browser: Browser::new()?,
        })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let mut request = self
            .browser
            .request(Method::GET, &format!("{}{path}", self.url()))?;
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.browser.send(request).await
    }

    /// Waits until it answers with this status.
    async fn answers(&self, path: &str, headers: &[(&str, &str)], status: u16) -> Result<Duration> {
        let start = Instant::now();
        let what = format!("{path} at {} answers {status}", self.address);
        eventually(&what, KNOWN, async || {
            let answer = self.get(path, headers).await?;
            ensure!(
                answer.status == status,
                "{}: {}",
                answer.status,
                answer.text()
            );
            Ok(())
        })
        .await?;
        Ok(start.elapsed())
    }

    async fn register(&self, agent: &str, tunnel: &str) -> Result<u16> {
        let body = json!({"agent_id": agent, "token": TOKEN, "tunnels": [tunnel]});
        let url = format!("{}/api/agent/register", self.url());
        let request = self.browser.request(Method::POST, &url)?.json(&body);
        Ok(self.browser.send(request).await?.status.as_u16())
    }

    async fn upgrade(&self, path: &str, headers: &[(&str, &str)]) -> Result<u16> {
        let url = format!("ws://{}{path}", self.address);
        match socket::handshake_at(&url, self.address.parse()?, headers).await? {
            Handshake::Refused(status, _) => Ok(status.as_u16()),
            Handshake::Open(mut socket, _) => {
                let first = socket::next(&mut socket).await?;
                ensure!(first.to_text()? == "the app speaks first", "{first}");
                Ok(101)
            }
        }
    }
}

/// Two workers of one coordinator, each with a gateway.
struct Pair {
    rig: Rig,
    _second: Worker,
    doors: [Door; 2],
    _ports: Ports,
}

impl Pair {
    async fn start(parts: Parts) -> Result<Self> {
        let ports = Ports::reserve(2)?;
        let gateway = |port: u16| {
            let relay = format!("relay = \"http://127.0.0.1:{port}\"");
            format!(
                "\n[gateway]\nbind = \"127.0.0.1:{port}\"\n{}",
                section(&relay)
            )
        };
        let (one, two) = (ports.first(), ports.last());
        let rig = Rig::start(parts.worker(&gateway(one))).await?;
        let mut plan = Plan::new(Frontend::Ports(2), rig.coordinator.url());
        plan.name = "worker-2".into();
        plan.redis = rig.redis.as_ref().map(|r| r.section()).unwrap_or_default();
        plan.more = gateway(two);
        Ok(Self {
            _second: Worker::start(rig.folder.path(), &plan).await?,
            rig,
            doors: [Door::new(one)?, Door::new(two)?],
            _ports: ports,
        })
    }

    async fn agent(&self, doors: &[&Door], name: &str, tunnels: &[&str]) -> Result<Agent> {
        let urls: Vec<String> = doors.iter().map(|door| door.url()).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        Agent::at(&urls, self.rig.folder.path(), name, tunnels, &[]).await
    }
}

async fn a_tunnel_is_reached_through_every_gateway(parts: Parts) -> Result<()> {
    let mut pair = Pair::start(parts).await?;
    let app = App::start().await?;
    let [here, there] = &pair.doors;
    let lent = lend("web@sesame", &app);
    let mut agent = pair.agent(&[here], "laptop", &[&lent]).await?;
    here.answers("/t/web/hello", &[VISITOR], 200).await?;
    let took = there.answers("/t/web/hello", &[VISITOR], 200).await?;
    crate::report_figure(format_args!("known at the other gateway {took:.1?} later"));
    let id = [VISITOR, ("x-backend-request-id", "through-two-gateways")];
    there.get("/t/web/hello?x=1", &id).await?.expect(200)?;
    let seen = app.seen("/hello").pop().context("it reached the app")?;
    assert_eq!(seen.uri.to_string(), "/hello?x=1");
    assert_eq!(seen.header("x-backend-request-id"), "through-two-gateways");
    assert_eq!(seen.header("x-forwarded-prefix"), "/t/web");
    assert_eq!(seen.header("x-tunnel-token"), "");
    // Visitors are asked there as they are here.
    for headers in [&[][..], &[("x-tunnel-token", "open")]] {
        assert_eq!(there.get("/t/web/hello", headers).await?.status, 401);
        assert_eq!(there.upgrade("/t/web/ws/first", headers).await?, 401);
    }
    assert_eq!(there.upgrade("/t/web/ws/first", &[VISITOR]).await?, 101);
    let body = download(3 << 20);
    let url = format!("{}/t/web/upload", there.url());
    let upload = reqwest::Client::new().post(url).body(body.clone());
    let told: Value = upload
        .header(VISITOR.0, VISITOR.1)
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(told["sha256"], digest(&body).as_str());
    // The name is taken everywhere, and only gateways may relay.
    assert_eq!(there.register("thief", "web").await?, 409);
    assert_eq!(relay_with_a_guessed_key(here).await?, 401);
    // Without its agent neither gateway sends anybody round in circles.
    agent.program.kill().await?;
    let start = Instant::now();
    there.answers("/t/web/hello", &[VISITOR], 503).await?;
    ensure!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    drop(agent);
    // An agent at both gateways does not miss one of them.
    let _agent = pair.agent(&[here, there], "laptop", &[&lent]).await?;
    for door in [here, there] {
        door.answers("/t/web/hello", &[VISITOR], 200).await?;
    }
    holds(there, "web", "laptop").await?;
    pair.rig.worker.program.kill().await?;
    for _ in 0..20 {
        there.get("/t/web/hello", &[VISITOR]).await?.expect(200)?;
    }
    Ok(())
}

/// Waits until an agent is connected to this very gateway.
async fn holds(door: &Door, tunnel: &str, agent: &str) -> Result<()> {
    let what = format!("{agent} is connected to {}", door.address);
    eventually(&what, KNOWN, async || {
        let facts = door.get("/api/tunnels", &[]).await?.expect(200)?.json()?;
        let tunnels = facts["tunnels"].as_array().context("no tunnels")?;
        let found = tunnels.iter().find(|one| one["id"] == tunnel);
        let agents = found.and_then(|one| one["agents"].as_array());
        let agents = agents.context("it is not there")?;
        ensure!(agents.iter().any(|one| one["agent"] == agent), "{facts}");
        Ok(())
    })
    .await
}

async fn relay_with_a_guessed_key(door: &Door) -> Result<u16> {
    let url = format!("{}/api/relay/connect", door.url());
    let request = door.browser.request(Method::GET, &url)?;
    let request = request
        .header("authorization", format!("Bearer {}", "0".repeat(64)))
        .header("connection", "Upgrade")
        .header("upgrade", "patchbay-mux");
    Ok(door.browser.send(request).await?.status.as_u16())
}

async fn a_split_brain_resolves(parts: Parts) -> Result<()> {
    let mut pair = Pair::start(parts).await?;
    let (one, two) = (App::start().await?, App::start().await?);
    pair.rig.coordinator.program.kill().await?;
    let [here, there] = &pair.doors;
    let _first = pair.agent(&[here], "first", &[&lend("web", &one)]).await?;
    here.answers("/t/web/hello", &[], 200).await?;
    let _second = pair
        .agent(&[there], "second", &[&lend("web", &two)])
        .await?;
    there.answers("/t/web/hello", &[], 200).await?;
    let before = (one.seen("/hello").len(), two.seen("/hello").len());
    assert_eq!(before, (1, 1), "each gateway has an owner of its own");
    pair.rig.coordinator.start_again().await?;
    let start = Instant::now();
    eventually(
        "the name has one owner",
        Duration::from_secs(30),
        async || {
            let seen = || (one.seen("/hello").len(), two.seen("/hello").len());
            let before = seen();
            for door in [here, there] {
                door.get("/t/web/hello", &[]).await?.expect(200)?;
            }
            let after = seen();
            let gained = (after.0 - before.0, after.1 - before.1);
            ensure!(gained == (2, 0) || gained == (0, 2), "{gained:?}");
            Ok(())
        },
    )
    .await?;
    crate::report_figure(format_args!(
        "two owners of one name: one of them {:.1?} after the coordinator's return",
        start.elapsed()
    ));
    Ok(())
}

#[tokio::test]
async fn relayed_with_sqlite_and_the_stream() -> Result<()> {
    a_tunnel_is_reached_through_every_gateway(Parts::embedded()).await
}

#[tokio::test]
async fn relayed_with_postgres_and_redis() -> Result<()> {
    a_tunnel_is_reached_through_every_gateway(Parts::servers()).await
}

#[tokio::test]
async fn one_owner_with_sqlite_and_the_stream() -> Result<()> {
    a_split_brain_resolves(Parts::embedded()).await
}

#[tokio::test]
async fn one_owner_with_postgres_and_redis() -> Result<()> {
    a_split_brain_resolves(Parts::servers()).await
}
