//! Containers that opt in by label become services of the gateway within a second, and cease to be
//! when they end or fall ill. The engine here speaks Docker's API over a Unix socket.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::docker::Engine;
use patchbay_tests::eventually::eventually;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::tls::Authority;

use crate::report_figure;

const SHOP: [(&str, &str); 4] = [
    ("gateway.enable", "true"),
    ("gateway.service", "shop"),
    ("gateway.path", "/shop/*"),
    ("gateway.strip-prefix", "/shop"),
];

struct Dock {
    gateway: Gateway,
    engine: Engine,
    _folder: tempfile::TempDir,
}

impl Dock {
    async fn new(more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let engine = Engine::start(&folder.path().join("docker.sock"))?;
        let lines = format!(
            "[gateway.docker.local]\nendpoint = \"{}\"\n{more}",
            engine.endpoint()
        );
        Ok(Self {
            gateway: Gateway::start(&lines).await?,
            engine,
            _folder: folder,
        })
    }

    /// Waits until a path answers so; answers with how long it took.
    async fn answers(&self, path: &str, status: u16) -> Result<Duration> {
        let began = Instant::now();
        let what = format!("{path} answers {status}");
        eventually(&what, Duration::from_secs(15), async || {
            let answer = self.gateway.get(path, &[]).await?;
            answer.expect(status).map(drop)
        })
        .await?;
        Ok(began.elapsed())
    }
}

#[tokio::test]
async fn as_they_come_and_go() -> Result<()> {
    let dock = Dock::new("").await?;
    let (one, two) = (App::start().await?, App::start().await?);
    dock.gateway.get("/shop/hello", &[]).await?.expect(404)?;
    // Events count only once the engine is being watched.
    eventually("it is watched", Duration::from_secs(10), async || {
        ensure!(dock.engine.lists() > 0, "no list was asked for");
        Ok(())
    })
    .await?;

    dock.engine.run("shop-1", &one, &SHOP, "");
    let start = dock.answers("/shop/hello", 200).await?;
    dock.engine
        .run("shop-2", &two, &SHOP, " (health: starting)");
    dock.engine
        .run("plain", &two, &[("gateway.path", "/plain/*")], "");
    for _ in 0..6 {
        dock.gateway.get("/shop/early", &[]).await?.expect(200)?;
    }
    ensure!(
        two.seen("/early").is_empty(),
        "it has not said that it is well"
    );
    dock.engine.say("shop-2", " (healthy)");
    eventually("both are used", Duration::from_secs(10), async || {
        dock.gateway.get("/shop/both", &[]).await?.expect(200)?;
        ensure!(!two.seen("/both").is_empty(), "only one is used");
        Ok(())
    })
    .await?;
    dock.engine.kill("shop-1");
    dock.engine.say("shop-2", " (unhealthy)");
    let end = dock.answers("/shop/hello", 503).await?;
    dock.engine.kill("shop-2");
    dock.answers("/shop/hello", 404).await?;
    report_figure(format_args!(
        "a container is used {} ms after its start, and no more {} ms after its end",
        start.as_millis(),
        end.as_millis()
    ));
    ensure!(
        start.as_secs() < 1 && end.as_secs() < 1,
        "{start:?}, {end:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_was_found_survives_the_engine() -> Result<()> {
    let mut dock = Dock::new("").await?;
    let app = App::start().await?;
    dock.engine.run("shop-1", &app, &SHOP, "");
    dock.answers("/shop/hello", 200).await?;
    dock.engine.fall();
    dock.gateway
        .program
        .logged(&["docker local", "trying again"])
        .await?;
    dock.gateway.get("/shop/hello", &[]).await?.expect(200)?;
    dock.engine.lose("shop-1");
    dock.engine.resume()?;
    dock.answers("/shop/hello", 404).await?;
    dock.gateway
        .program
        .logged(&["docker local", "reached again"])
        .await?;
    Ok(())
}

#[tokio::test]
async fn wrong_labels_are_told_and_what_is_written_comes_first() -> Result<()> {
    let (own, found) = (App::start().await?, App::start().await?);
    let written = service("own", &[&own])
        + "[gateway.routes.own]\npath = \"/own/*\"\nservice = \"own\"\n\
           [gateway.middleware.shut.addresses]\nallow = \"10.0.0.1\"\n";
    let dock = Dock::new(&written).await?;
    let labels = |more: &[(&'static str, &'static str)]| {
        let mut labels = vec![("gateway.enable", "true")];
        labels.extend(more);
        labels
    };
    let engine = &dock.engine;
    engine.run("wrong", &found, &labels(&[("gateway.hots", "x")]), "");
    engine.run("own", &found, &labels(&[("gateway.path", "/mine/*")]), "");
    engine.run("tie", &found, &labels(&[("gateway.path", "/own/*")]), "");
    let unknown = labels(&[("gateway.path", "/u/*"), ("gateway.middleware", "nobody")]);
    engine.run("unknown", &found, &unknown, "");
    let shut = labels(&[("gateway.path", "/shut/*"), ("gateway.middleware", "shut")]);
    engine.run("shut", &found, &shut, "");
    dock.answers("/shut/x", 403).await?;
    assert_eq!(dock.gateway.upgrade("/shut/x", &[]).await?, 403);
    for words in [
        ["container wrong", "`gateway.hots` is not a label"],
        ["own is configured too", "that holds"],
        [
            "docker local: tie is left out",
            "`own` and `tie` take the same requests",
        ],
        [
            "docker local: unknown is left out",
            "`nobody` is not defined",
        ],
    ] {
        dock.gateway.program.logged(&words).await?;
    }
    dock.gateway.get("/own/hello", &[]).await?.expect(200)?;
    for path in ["/mine/x", "/u/x"] {
        dock.gateway.get(path, &[]).await?.expect(404)?;
    }
    ensure!(
        own.seen("/own/hello").len() == 1,
        "the written route gave way"
    );
    Ok(())
}

#[tokio::test]
async fn engines_are_reached_by_tcp_and_by_tls() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let engine = authority.issue(&["127.0.0.1"])?;
    let (cert, key) = authority
        .issue(&["gateway"])?
        .write(folder.path(), "client")?;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem())?;
    let (plain, secured) = (Engine::on_tcp()?, Engine::on_tls(&authority, &engine)?);
    let lines = format!(
        "[gateway.docker.plain]\nendpoint = \"{}\"\n[gateway.docker.secured]\n\
         endpoint = \"{}\"\ntls_ca = \"{}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        plain.endpoint(),
        secured.endpoint(),
        ca.display(),
        cert.display(),
        key.display()
    );
    let gateway = Gateway::start(&lines).await?;
    let (one, two) = (App::start().await?, App::start().await?);
    // Containers of one service on two engines.
    plain.run("shop-1", &one, &SHOP, "");
    secured.run("shop-2", &two, &SHOP, "");
    eventually("both are used", Duration::from_secs(15), async || {
        gateway.get("/shop/both", &[]).await?.expect(200)?;
        ensure!(
            !one.seen("/both").is_empty(),
            "the engine on TCP is not heard"
        );
        ensure!(
            !two.seen("/both").is_empty(),
            "the engine on TLS is not heard"
        );
        Ok(())
    })
    .await
}
