//! `patchbay-coordinator ctl`: an operator looks at a running installation and closes a circuit
//! from a shell, with no more than the coordinator's own configuration file.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::eventually::eventually;
use patchbay_tests::ports::Ports;
use patchbay_tests::program::run;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::secrets;
use serde_json::Value;

const PROGRAM: &str = "patchbay-coordinator";
/// Longest until a closing has reached the worker.
const SOON: Duration = Duration::from_secs(10);

/// What `ctl` prints for these arguments, with the coordinator's configuration file.
async fn ctl(rig: &Rig, arguments: &[&str]) -> Result<String> {
    let config = rig.coordinator.config.display().to_string();
    let all = [&["ctl", "--config", config.as_str()], arguments].concat();
    let (code, text) = run(PROGRAM, &all).await?;
    ensure!(
        code == Some(0),
        "ctl {arguments:?} ends with {code:?}: {text}"
    );
    Ok(text)
}

fn has(text: &str, words: &[&str]) -> Result<()> {
    let found = |line: &str| words.iter().all(|word| line.contains(word));
    ensure!(
        text.lines().any(found),
        "no line with {words:?} in:\n{text}"
    );
    Ok(())
}

#[tokio::test]
async fn workers_circuits_and_slots_are_listed_and_a_circuit_is_closed() -> Result<()> {
    let rig = Rig::start(Parts::embedded().ports(4)).await?;
    let door = rig.open("jupyter").await?;
    let other = rig.open("tensorboard").await?;
    let id = door.circuit.to_string();
    let session = door.order.session.to_string();
    let port = door.address()?.port().to_string();

    has(
        &ctl(&rig, &["workers"]).await?,
        &["worker-1", "port", "http"],
    )?;
    let all = ctl(&rig, &["circuits"]).await?;
    has(
        &all,
        &[&id, "jupyter", "interactive", "worker-1", &port, &session],
    )?;
    has(&all, &[&other.circuit.to_string(), "tensorboard"])?;
    let one = ctl(&rig, &["circuits", "--session", &session]).await?;
    has(&one, &[&id])?;
    ensure!(!one.contains("tensorboard"), "{one}");
    let detail = ctl(&rig, &["circuit", &id]).await?;
    has(&detail, &["app", "jupyter"])?;
    has(&detail, &[&session, &rig.app.address.to_string()])?;
    has(
        &ctl(&rig, &["slots"]).await?,
        &["worker-1", &port, "yes", &id],
    )?;
    let slots: Value = serde_json::from_str(&ctl(&rig, &["slots", "--all", "--json"]).await?)?;
    ensure!(
        slots["slots"].as_array().map(Vec::len) == Some(4),
        "{slots}"
    );
    has(&ctl(&rig, &["health"]).await?, &["database/sqlite", "ok"])?;

    has(&ctl(&rig, &["close", &id]).await?, &["closed", &id])?;
    eventually("the circuit is gone", SOON, async || {
        door.get("/hello").await?.expect(400)
    })
    .await?;
    let left: Value = serde_json::from_str(&ctl(&rig, &["circuits", "--json"]).await?)?;
    ensure!(
        left["circuits"].as_array().map(Vec::len) == Some(1),
        "{left}"
    );
    Ok(())
}

#[tokio::test]
async fn refusals_are_told_in_one_clear_sentence() -> Result<()> {
    let rig = Rig::start(Parts::embedded().ports(1)).await?;
    let right = rig.folder.path().join("right");
    let wrong = rig.folder.path().join("wrong");
    std::fs::write(&right, format!("{}\n", secrets::API))?;
    std::fs::write(&wrong, "not-the-secret\n")?;
    let (right, wrong) = (right.display().to_string(), wrong.display().to_string());
    let url = rig.coordinator.url();
    let nobody = format!("http://127.0.0.1:{}", Ports::reserve(1)?.first());
    let unknown = "00000000-0000-4000-8000-000000000000";

    let told = ["ctl", "--url", &url, "--token-file", &right, "workers"];
    let (code, text) = run(PROGRAM, &told).await?;
    ensure!(
        code == Some(0) && text.contains("worker-1"),
        "{code:?}: {text}"
    );

    let cases: [(&[&str], &str); 5] = [
        (
            &["--url", &nobody, "--token-file", &right, "workers"],
            "no coordinator answers at",
        ),
        (
            &["--url", &url, "--token-file", &wrong, "workers"],
            "refuses the API secret (401)",
        ),
        (
            &["--url", &url, "--token-file", &right, "circuit", unknown],
            "not found (404): E00002",
        ),
        (
            &[
                "--url",
                &url,
                "--token-file",
                &right,
                "slots",
                "--worker",
                "w9",
            ],
            "no worker is called w9",
        ),
        (
            &["--config", "/nonexistent.toml", "workers"],
            "say --url and --token-file",
        ),
    ];
    for (arguments, words) in cases {
        let (code, text) = run(PROGRAM, &[&["ctl"], arguments].concat()).await?;
        ensure!(code == Some(1), "{arguments:?} ends with {code:?}: {text}");
        ensure!(text.contains(words), "{arguments:?}: {text}");
        ensure!(!text.contains(secrets::API), "the secret is shown: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn shells_are_helped_to_complete() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let (code, text) = run(PROGRAM, &["ctl", "completion", shell]).await?;
        ensure!(code == Some(0), "{shell}: {code:?}: {text}");
        for word in [
            "patchbay-coordinator",
            "circuits",
            "--session".trim_start_matches('-'),
        ] {
            ensure!(text.contains(word), "{shell}: no {word}");
        }
    }
    Ok(())
}
