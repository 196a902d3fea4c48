//! Requests that are answered before their body was read: what is left of it is never taken for a
//! request, whoever answers, by either engine, at the gateway and at the worker's API.

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::early::{Asked, HastyApp, hold, manners};
use patchbay_tests::gateway::Gateway;
use patchbay_tests::opener::Order;
use patchbay_tests::raw::Connection;
use patchbay_tests::rig::{Parts, Rig};

/// More than an app takes, and more than a client's first packet.
const LONG: usize = 4_000;
const SHORT: usize = 400;

/// The app that is not there is not taken out of service for it.
const LIMITS: &str = "[limits]\nbody = \"1KiB\"\n\n[upstreams]\nfaults_to_eject = 1000000\n";

/// What is wrong with these, in every manner. `app` may be asked for nothing but what is asked
/// here and `/next`.
async fn wrong(all: &[Asked], app: &HastyApp) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for asked in all {
        for manner in manners() {
            app.take();
            if let Err(problem) = hold(asked, manner).await {
                wrong.push(format!("{} {manner:?}: {problem:#}", asked.name));
            }
            let heads = app.take();
            let meant =
                |head: &String| head.starts_with("GET /next ") || head.starts_with("POST /early-");
            if !heads.iter().all(meant) {
                wrong.push(format!("{} {manner:?}: the app got {heads:?}", asked.name));
            }
        }
    }
    Ok(wrong)
}

/// A connection the worker keeps to the app may be used for this, and is in step.
async fn in_step(address: std::net::SocketAddr, app: &HastyApp) -> Result<()> {
    for _ in 0..4 {
        let mut client = Connection::open(address).await?;
        client
            .write_head(&["GET /after HTTP/1.1", "Host: h", "Connection: close"])
            .await?;
        let head = client.read_head().await?;
        ensure!(head.status() == "200", "{head:?}");
    }
    let heads = app.take();
    let clean = heads.iter().all(|head| head.starts_with("GET /after "));
    ensure!(clean && heads.len() == 4, "the app got {heads:?}");
    Ok(())
}

async fn by_circuits(fast_lane: bool) -> Result<()> {
    let rig = Rig::start(Parts::embedded().fast_lane(fast_lane).worker(LIMITS)).await?;
    let app = HastyApp::start().await?;
    let public = Order::http("public", app.address).with("open_to_public", "true");
    let public = rig.open_order(&public).await?.address()?;
    let closed = rig.open_order(&Order::http("closed", app.address)).await?;
    let private = closed.address()?;
    let mut nobody = Order::http("nobody", app.address).with("open_to_public", "true");
    nobody.kernel = ([127, 0, 0, 1], 9).into();
    let nobody = rig.open_order(&nobody).await?.address()?;
    let api = ([127, 0, 0, 1], rig.worker.port()).into();
    let asked = |name, address, line: &str, status, bytes| Asked {
        name,
        address,
        head: format!("{line} HTTP/1.1\r\nHost: h\r\n"),
        status,
        bytes,
    };
    let preflight = "OPTIONS /early-preflight HTTP/1.1\r\nHost: h\r\nOrigin: http://x.example\r\n\
                     Access-Control-Request-Method: PUT\r\n";
    let bad = "POST /early-bad HTTP/1.1\r\nHost: h/x\r\n";
    let upgrade = "GET /early-upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let with_head = |name, address, head: &str, status| Asked {
        name,
        address,
        head: head.to_owned(),
        status,
        bytes: SHORT,
    };
    let refused = [
        asked("no permit", private, "POST /early-no", "401", SHORT),
        asked("too long", public, "POST /early-long", "413|403", LONG),
        with_head("a preflight", private, preflight, "204"),
        with_head("a bad head", public, bad, "400"),
        with_head("an upgrade without a permit", private, upgrade, "401"),
        asked("no app", nobody, "POST /early-nobody", "502|503", SHORT),
        asked(
            "setup with a bad token",
            api,
            "PUT /setup?token=x",
            "400|405",
            LONG,
        ),
        asked("nothing of the API", api, "POST /nothing", "404", SHORT),
    ];
    let by_app = [
        asked("the app", public, "POST /early-kept", "403", SHORT),
        asked(
            "an app that closes",
            public,
            "POST /early-closed",
            "403",
            SHORT,
        ),
    ];
    let mut wrong = self::wrong(&refused, &app).await?;
    wrong.extend(self::wrong(&by_app, &app).await?);
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    in_step(public, &app)
        .await
        .context("connections to the app")
}

#[tokio::test]
async fn by_the_lane() -> Result<()> {
    by_circuits(true).await
}

#[tokio::test]
async fn by_pingoras_engine() -> Result<()> {
    by_circuits(false).await
}

#[tokio::test]
async fn at_the_gateway() -> Result<()> {
    let app = HastyApp::start().await?;
    let gateway = Gateway::start(&format!(
        "[gateway.services.app]\ninstances = [\"{}\"]\n\n[gateway.routes.app]\n\
         path_prefix = \"/early-app\"\nservice = \"app\"\n",
        app.address
    ))
    .await?;
    let address = gateway.address().parse()?;
    let asked = |name, line: &str, status| Asked {
        name,
        address,
        head: format!("{line} HTTP/1.1\r\nHost: h\r\n"),
        status,
        bytes: SHORT,
    };
    let all = [
        asked("no route", "POST /nowhere", "404"),
        asked("the app", "POST /early-app", "403"),
    ];
    let wrong = wrong(&all, &app).await?;
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
