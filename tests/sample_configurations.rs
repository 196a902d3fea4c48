//! The files in `conf/` are ones their programs accept: as they stand, and with every commented
//! key switched on, so that no key in them is stale or misspelt.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use patchbay_tests::program::binary;

const COORDINATOR: &str = "patchbay-coordinator";
const WORKER: &str = "patchbay-worker";
const AGENT: &str = "patchbay-agent";

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf")
}

/// The variables of an `.env` file, as systemd reads them.
fn variables(name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(conf().join(name)).with_context(|| name.to_owned())?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

async fn check(
    program: &str,
    file: &Path,
    environment: &[(String, String)],
) -> anyhow::Result<Output> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(binary(program).await?);
    command.args(["--check", "--config"]).arg(file);
    command.env_remove("BACKEND_CONFIG_FILE");
    command.envs(environment.iter().cloned());
    if program == COORDINATOR {
        // The sample's folder is one that systemd makes.
        command.env("PATCHBAY_DB__PATH", folder.path().join("patchbay.sqlite"));
    }
    Ok(command.current_dir(folder.path()).output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Switches on every line of the form `# key = value` or `# [section]`.
fn uncommented(text: &str) -> String {
    let is_key = |rest: &str| {
        rest.starts_with('[')
            || rest.split_once(" = ").is_some_and(|(key, _)| {
                key.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            })
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

async fn accepts(program: &str, name: &str, secrets: &str) -> anyhow::Result<()> {
    let (file, secrets) = (conf().join(name), variables(secrets)?);
    let output = check(program, &file, &secrets).await?;
    ensure!(output.status.success(), "{name}: {}", said(&output));

    let folder = tempfile::tempdir()?;
    let all = folder.path().join(name);
    let text = uncommented(&std::fs::read_to_string(&file)?);
    std::fs::write(&all, &text)?;
    let output = check(program, &all, &secrets).await?;
    let answer = said(&output);
    ensure!(output.status.success(), "all of {name}: {answer}\n{text}");
    for complaint in ["unknown", "without a meaning"] {
        ensure!(!answer.contains(complaint), "all of {name}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn the_coordinator_accepts_its_sample() -> anyhow::Result<()> {
    accepts(COORDINATOR, "coordinator.toml", "secrets.env").await
}

#[tokio::test]
async fn the_worker_accepts_its_samples() -> anyhow::Result<()> {
    accepts(WORKER, "worker-port.toml", "secrets.env").await?;
    accepts(WORKER, "worker-wildcard.toml", "secrets.env").await?;
    accepts(WORKER, "gateway-tunnels.toml", "agent.env").await
}

#[tokio::test]
async fn the_gateway_accepts_its_sample() -> anyhow::Result<()> {
    accepts(WORKER, "gateway.toml", "secrets.env").await
}

#[tokio::test]
async fn the_agent_accepts_its_sample() -> anyhow::Result<()> {
    accepts(AGENT, "agent.toml", "agent.env").await
}

#[tokio::test]
async fn a_missing_secret_is_named() -> anyhow::Result<()> {
    let shared = ["secrets.api_secret", "secrets.jwt_secret"];
    let of_worker = [shared[0], shared[1], "permit_hash.secret"];
    for (program, file, keys) in [
        (COORDINATOR, "coordinator.toml", &shared[..]),
        (WORKER, "worker-port.toml", &of_worker[..]),
    ] {
        let output = check(program, &conf().join(file), &[]).await?;
        let answer = said(&output);
        assert_eq!(output.status.code(), Some(1), "{program}: {answer}");
        for key in keys {
            assert!(answer.contains(key), "{program}: {answer}");
        }
    }
    Ok(())
}
