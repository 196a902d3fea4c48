//! TLS of the worker: the certificate fits the name a client asks for, is exchanged while
//! connections go on, and clients may have to show one of their own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::program::Signal;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::tls::{Authority, Hands, Issued};
use patchbay_tests::worker::DOMAIN;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest until an exchanged certificate is seen.
const SOON: Duration = Duration::from_secs(10);

/// A folder with certificates, and the settings that name them.
struct Desk {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Desk {
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            authority: Authority::new()?,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn issue(&self, file: &str, names: &[&str]) -> Result<Issued> {
        let issued = self.authority.issue(names)?;
        issued.write(self.path(), file)?;
        Ok(issued)
    }

    fn settings(&self, file: &str) -> String {
        let at = self.path().join(file);
        let at = at.display();
        format!("tls_listen = true\ntls_cert = \"{at}.crt\"\ntls_privkey = \"{at}.key\"\n")
    }

    fn certificate(&self, file: &str, names: &str) -> String {
        let at = self.path().join(file);
        let at = at.display();
        format!("[[tls.certificates]]\ncert = \"{at}.crt\"\nprivkey = \"{at}.key\"\n{names}\n")
    }

    fn hands(&self) -> Result<Hands> {
        Hands::offering(&self.authority, &["http/1.1"])
    }
}

fn api(rig: &Rig) -> SocketAddr {
    ([127, 0, 0, 1], rig.worker.port()).into()
}

fn traffic(rig: &Rig) -> SocketAddr {
    ([127, 0, 0, 1], rig.worker.slots.first()).into()
}

#[tokio::test]
async fn by_the_names_they_bear_or_are_given() -> Result<()> {
    let desk = Desk::new()?;
    let wildcard = format!("*{DOMAIN}");
    let default = desk.issue("default", &["gate.example", "nobody.example"])?;
    let wild = desk.issue("wild", &[&wildcard])?;
    // It bears a name that it is not to be shown for.
    let named = desk.issue("named", &["named.example", "gate.example"])?;
    let sections =
        desk.certificate("wild", "") + &desk.certificate("named", "names = [\"Named.Example\"]");
    let parts = Parts::embedded().wildcard().tls(&desk.settings("default"));
    let rig = Rig::start(parts.worker(&sections)).await?;
    let hands = desk.hands()?;
    for (asked, shown) in [
        ("gate.example", &default),
        ("named.example", &named),
        ("nobody.example", &default),
        (&*format!("one{DOMAIN}"), &wild),
    ] {
        for address in [api(&rig), traffic(&rig)] {
            let seen = hands
                .shown(address, asked)
                .await
                .context(asked.to_owned())?;
            ensure!(seen == shown.der, "{asked} is shown another certificate");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() -> Result<()> {
    let desk = Desk::new()?;
    let default = desk.issue(
        "default",
        &["gate.example", "a.b.apps.example", "apps.example"],
    )?;
    let wild = desk.issue("wild", &["*.apps.example"])?;
    let vip = desk.issue("vip", &["vip.apps.example"])?;
    let sections = desk.certificate("wild", "") + &desk.certificate("vip", "");
    let parts = Parts::embedded().tls(&desk.settings("default"));
    let rig = Rig::start(parts.worker(&sections)).await?;
    let hands = desk.hands()?;
    for (asked, shown) in [
        ("one.apps.example", &wild),
        ("ONE.apps.example", &wild),
        ("vip.apps.example", &vip),
        ("apps.example", &default),
        ("a.b.apps.example", &default),
    ] {
        let seen = hands.shown(traffic(&rig), asked).await.context(asked)?;
        ensure!(seen == shown.der, "{asked} is shown another certificate");
    }
    Ok(())
}

#[tokio::test]
async fn exchanged_while_connections_go_on() -> Result<()> {
    let desk = Desk::new()?;
    let first = desk.issue("default", &["gate.example"])?;
    let parts = Parts::embedded().tls(&desk.settings("default"));
    let rig = Rig::start(parts.worker("[tls]\nreload_interval = 0\n")).await?;
    let hands = desk.hands()?;
    let mut old = hands.shake(api(&rig), "gate.example").await?;

    let second = desk.issue("default", &["gate.example"])?;
    ensure!(
        hands.shown(api(&rig), "gate.example").await? == first.der,
        "read unasked"
    );
    rig.worker.program.signal(Signal::Hangup).await?;
    is_shown(&hands, api(&rig), &second).await?;
    is_shown(&hands, traffic(&rig), &second).await?;

    // The connection of before goes on.
    old.write_all(b"GET /health/livez HTTP/1.1\r\nHost: gate.example\r\n\r\n")
        .await?;
    let mut answer = [0; 15];
    old.read_exact(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");

    // A bad file is refused, and what is in use stays.
    std::fs::write(desk.path().join("default.key"), "not a key")?;
    rig.worker.program.signal(Signal::Hangup).await?;
    let words = ["certificates in use stay", "proxy_worker.tls_privkey"];
    rig.worker.program.logged(&words).await?;
    is_shown(&hands, api(&rig), &second).await?;

    // A key that does not fit is no better.
    let stranger = desk.authority.issue(&["gate.example"])?;
    std::fs::write(desk.path().join("default.key"), stranger.key)?;
    rig.worker.program.signal(Signal::Hangup).await?;
    let words = ["certificates in use stay", "proxy_worker.tls_cert"];
    rig.worker.program.logged(&words).await?;
    is_shown(&hands, api(&rig), &second).await
}

#[tokio::test]
async fn exchanged_when_the_files_change() -> Result<()> {
    let desk = Desk::new()?;
    desk.issue("default", &["gate.example"])?;
    let parts = Parts::embedded().tls(&desk.settings("default"));
    let rig = Rig::start(parts.worker("[tls]\nreload_interval = \"50ms\"\n")).await?;
    let second = desk.issue("default", &["gate.example"])?;
    is_shown(&desk.hands()?, api(&rig), &second).await
}

async fn is_shown(hands: &Hands, address: SocketAddr, issued: &Issued) -> Result<()> {
    eventually("the new certificate is shown", SOON, async || {
        let shown = hands.shown(address, "gate.example").await?;
        ensure!(shown == issued.der, "the old one is");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn versions_of_tls() -> Result<()> {
    let desk = Desk::new()?;
    desk.issue("default", &["gate.example"])?;
    for (minimum, old_is_spoken) in [("1.2", true), ("1.3", false)] {
        let parts = Parts::embedded().tls(&desk.settings("default"));
        let section = format!("[tls]\nminimum_version = \"{minimum}\"\n");
        let rig = Rig::start(parts.worker(&section)).await?;
        for (version, spoken) in [
            (&rustls::version::TLS12, old_is_spoken),
            (&rustls::version::TLS13, true),
        ] {
            let hands = Hands::new(&desk.authority, &["http/1.1"], None, &[version])?;
            let shaken = hands.shake(traffic(&rig), "gate.example").await;
            ensure!(
                shaken.is_ok() == spoken,
                "{version:?} from {minimum}: {shaken:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn clients_show_certificates() -> Result<()> {
    let desk = Desk::new()?;
    desk.issue("default", &["gate.example"])?;
    let good = desk.authority.issue(&["laptop.example"])?;
    let stranger = Authority::new()?.issue(&["laptop.example"])?;
    let ca = desk.path().join("clients.pem");
    std::fs::write(&ca, desk.authority.pem())?;
    for (mode, without) in [("required", false), ("optional", true)] {
        let section = format!(
            "[tls]\nclient_certificates = \"{mode}\"\nclient_ca = \"{}\"\n",
            ca.display()
        );
        let parts = Parts::embedded().tls(&desk.settings("default"));
        let parts = parts.worker(&section);
        let rig = Rig::start(parts).await?;
        for (shown, passes) in [
            (Some(&good), true),
            (None, without),
            (Some(&stranger), false),
        ] {
            let versions = rustls::DEFAULT_VERSIONS;
            let hands = Hands::new(&desk.authority, &["http/1.1"], shown, versions)?;
            let answered = asks(&hands, traffic(&rig)).await;
            ensure!(
                answered.is_ok() == passes,
                "{mode}, {shown:?}: {answered:?}"
            );
        }
    }
    Ok(())
}

/// A whole request: with TLS 1.3 a client learns only then that its certificate is refused.
async fn asks(hands: &Hands, address: SocketAddr) -> Result<()> {
    let mut stream = hands.shake(address, "gate.example").await?;
    stream
        .write_all(b"GET /health/livez HTTP/1.1\r\nHost: gate.example\r\n\r\n")
        .await?;
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == *b"HTTP/1.1 ", "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn their_end_is_a_metric() -> Result<()> {
    let desk = Desk::new()?;
    desk.issue("default", &["gate.example"])?;
    desk.issue("second", &["*.apps.example"])?;
    let parts = Parts::embedded().tls(&desk.settings("default"));
    let rig = Rig::start(parts.worker(&desk.certificate("second", ""))).await?;
    let client = patchbay_tests::browser::client()?;
    let url = format!("{}/metrics", rig.worker.url());
    let text = client.get(url).send().await?.text().await?;
    // 2090-12-31.
    for name in ["gate.example", "*.apps.example"] {
        let line = format!(
            "patchbay_tls_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}} 3818361600"
        );
        ensure!(text.contains(&line), "{line} is not in: {text}");
    }
    Ok(())
}
