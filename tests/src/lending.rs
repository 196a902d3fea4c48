//! A gateway where agents may register, agents that do, and what visitors see of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::App;
use crate::browser::Answer;
use crate::eventually::eventually;
use crate::gateway::Gateway;
use crate::program::{Program, binary};

/// The token agents of these scenarios show.
pub const TOKEN: &str = "token-of-the-scenarios";

/// `[tunnels]` with that token, and another that stretches to `lab-…` only.
pub fn section(more: &str) -> String {
    format!(
        "\n[tunnels]\nshared = [\"pool\"]\n{more}\n\
         [[tunnels.tokens]]\nname = \"all\"\ntoken = \"{TOKEN}\"\n\
         [[tunnels.tokens]]\nname = \"lab\"\ntoken = \"lab-token\"\ntunnels = [\"lab-*\"]\n"
    )
}

/// A running agent; it ends when dropped.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub program: Program,
}

impl Agent {
    /// Starts one that lends these tunnels, and waits until the gateway can reach it.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(gateway: &Gateway, name: &str, tunnels: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(gateway, name, tunnels, &[]).await
    }

    /// As [`Agent::start`], with more arguments.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_with(
        gateway: &Gateway,
        name: &str,
        tunnels: &[&str],
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let url = format!("http://{}", gateway.address());
        let agent = Self::at(&[url.as_str()], gateway.folder.path(), name, tunnels, more).await?;
        let ids = tunnels
            .iter()
            .filter_map(|tunnel| tunnel.split(['=', '@']).next());
        for id in ids {
            let transport = if more.contains(&"poll") {
                "poll"
            } else {
                "mux"
            };
            connected(gateway, id, name, transport).await?;
        }
        Ok(agent)
    }

    /// Starts one that lends these tunnels at the gateways of these URLs, and waits for nothing.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn at(
        urls: &[&str],
        folder: &Path,
        name: &str,
        tunnels: &[&str],
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = ["--token", TOKEN, "--id", name].map(str::to_owned).into();
        let gateways = urls.iter().map(|url| ("--gateway", url));
        for (flag, value) in gateways.chain(tunnels.iter().map(|one| ("--tunnel", one))) {
            arguments.extend([flag.to_owned(), (*value).to_owned()]);
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        let log = folder.join(format!("{name}.log"));
        let binary = binary("patchbay-agent").await?;
        let mut agent = Self {
            program: Program::new(name, binary, arguments, log),
        };
        agent.program.start()?;
        Ok(agent)
    }
}

/// `web=http://…` for an app.
pub fn lend(id: &str, app: &App) -> String {
    format!("{id}=http://{}", app.address)
}

/// Waits until this agent holds the tunnel by this transport.
///
/// # Errors
/// If it does not in time.
pub async fn connected(
    gateway: &Gateway,
    id: &str,
    agent: &str,
    transport: &str,
) -> anyhow::Result<()> {
    let what = format!("{agent} lends {id} by {transport}");
    eventually(&what, Duration::from_secs(30), async || {
        let facts = tunnel(gateway, id).await?;
        let agents = facts["agents"].as_array().context("no agents")?;
        let found = agents
            .iter()
            .any(|one| one["agent"] == agent && one["transport"] == transport);
        ensure!(found, "{facts}");
        Ok(())
    })
    .await
}

/// What operators see of a tunnel.
///
/// # Errors
/// If it is not there.
pub async fn tunnel(gateway: &Gateway, id: &str) -> anyhow::Result<Value> {
    let facts = gateway
        .get("/api/tunnels", &[])
        .await?
        .expect(200)?
        .json()?;
    let all = facts["tunnels"].as_array().context("no tunnels")?;
    let found = all.iter().find(|one| one["id"] == id);
    found
        .cloned()
        .with_context(|| format!("no {id} in {facts}"))
}

/// One control call of an agent's.
///
/// # Errors
/// If no answer comes.
pub async fn call(gateway: &Gateway, path: &str, body: &Value) -> anyhow::Result<Answer> {
    raw_call(gateway, path, body.to_string()).await
}

/// One control call with any body.
///
/// # Errors
/// If no answer comes.
pub async fn raw_call(
    gateway: &Gateway,
    path: &str,
    body: impl Into<reqwest::Body>,
) -> anyhow::Result<Answer> {
    let url = format!("http://{}{path}", gateway.address());
    let browser = crate::browser::Browser::new()?;
    let request = browser.request(Method::POST, &url)?.body(body);
    browser.send(request).await
}

/// Registers by hand.
///
/// # Errors
/// If no answer comes.
pub async fn register(
    gateway: &Gateway,
    agent: &str,
    token: &str,
    tunnels: Value,
) -> anyhow::Result<Answer> {
    let body = json!({"agent_id": agent, "token": token, "tunnels": tunnels});
    call(gateway, "/api/agent/register", &body).await
}

/// The agent in plain Python.
///
/// # Errors
/// If it does not come up.
pub async fn python_agent(gateway: &Gateway, id: &str, app: &App) -> anyhow::Result<Program> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/long_poll_agent.py");
    let arguments = vec![
        script.display().to_string(),
        format!("http://{}", gateway.address()),
        TOKEN.to_owned(),
        "script".to_owned(),
        id.to_owned(),
        app.address.ip().to_string(),
        app.address.port().to_string(),
    ];
    let log = gateway.folder.path().join("script.log");
    let mut program = Program::new("script", PathBuf::from("python3"), arguments, log);
    program.start()?;
    connected(gateway, id, "script", "poll").await?;
    Ok(program)
}

/// Most memory a program has held so far, in bytes.
///
/// # Errors
/// If it does not run.
pub fn peak_memory(program: &Program) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let text = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = text.context("no VmHWM")?.parse()?;
    Ok(kilobytes << 10)
}
