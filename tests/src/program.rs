//! One running program: its process, its log file, its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::Client;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::eventually::eventually;

/// Lines of a log shown when a scenario fails.
const SHOWN_LINES: usize = 150;

/// What an operator's shell can send.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: frozen, sockets open.
    Stop,
    /// SIGHUP: reads its configuration anew.
    Hangup,
    /// SIGCONT: goes on after [`Signal::Stop`].
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Kill => "KILL",
            Self::Hangup => "HUP",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// How to start a program, and its process while it runs.
#[derive(Debug)]
pub struct Program {
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Program {
    /// A program to be started; what it prints goes to `log`.
    pub fn new(name: &str, binary: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            binary,
            arguments,
            log,
            child: None,
        }
    }

    /// Starts it, with what an earlier run logged kept in front.
    ///
    /// # Errors
    /// If it runs already or the system refuses.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .env_remove("BACKEND_CONFIG_FILE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it and waits until `url` answers 200.
    ///
    /// # Errors
    /// If it ends instead, or is not ready within 20 s.
    pub async fn start_and_answer(&mut self, client: &Client, url: &str) -> anyhow::Result<()> {
        self.start()?;
        let name = self.name.clone();
        let Some(child) = &mut self.child else {
            bail!("{name} does not run");
        };
        let what = format!("{name} is ready");
        let ready = eventually(&what, Duration::from_secs(20), async || {
            let response = client.get(url).send().await?;
            let status = response.status();
            ensure!(status == 200, "{status}: {}", response.text().await?);
            Ok(())
        });
        tokio::select! {
            ready = ready => ready,
            status = child.wait() => {
                let status = status?;
                self.child = None;
                bail!("{name} ended with {status}: {}", self.log_tail(20))
            }
        }
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let child = self.child.as_ref().and_then(Child::id);
        child.with_context(|| format!("{} does not run", self.name))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The shell's own `kill`: the system call itself is unsafe code.
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "kill", signal.name()])
            .arg(self.pid()?.to_string())
            .status()
            .await?;
        ensure!(sent.success(), "{} cannot be signalled", self.name);
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not run, or still runs after `within`.
    pub async fn exited(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let Some(child) = &mut self.child else {
            bail!("{} does not run", self.name);
        };
        let waited = tokio::time::timeout(within, child.wait()).await;
        let status = waited.with_context(|| format!("{} runs after {within:?}", self.name))??;
        self.child = None;
        Ok(status)
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::Kill).await?;
        self.exited(Duration::from_secs(5)).await?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// If it does not run, or does not end with exit code 0 within `within`.
    pub async fn stop(&mut self, within: Duration) -> anyhow::Result<()> {
        self.signal(Signal::Term).await?;
        let status = self.exited(within).await?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Fails with its log if it has ended on its own.
    ///
    /// # Errors
    /// If it does not run.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            self.child = None;
            bail!("{} ended with {status}: {}", self.name, self.log_tail(20));
        }
        ensure!(self.child.is_some(), "{} does not run", self.name);
        Ok(())
    }

    /// All it logged, earlier runs included.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |problem| format!("({problem})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits until a line of its log holds all of `words`; answers with the line.
    ///
    /// # Errors
    /// If there is none within 5 s.
    pub async fn logged(&self, words: &[&str]) -> anyhow::Result<String> {
        let what = format!("{} logs a line with {words:?}", self.name);
        eventually(&what, Duration::from_secs(5), async || {
            let log = self.log();
            let mut lines = log.lines();
            let line = lines.find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).context("no such line")
        })
        .await
    }

    fn log_tail(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The test runner keeps this to itself unless the scenario fails.
        eprintln!(
            "--- the last lines of {} ---\n{}\n",
            self.name,
            self.log_tail(SHOWN_LINES)
        );
    }
}

/// Where the programs under test are. They are built first, once per process, unless
/// `PATCHBAY_BIN_DIR` names a folder that holds them.
///
/// # Errors
/// If they cannot be built.
pub async fn binary(name: &str) -> anyhow::Result<PathBuf> {
    // One build for all scenarios of the process: what a test binary shares has no other home.
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = FOLDER.get_or_try_init(build).await?;
    Ok(folder.join(name))
}

async fn build() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PATCHBAY_BIN_DIR") {
        return Ok(folder.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent);
    let folder = folder.context("the test binary lies in no target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked"]);
    build.args(["-p", "patchbay-coordinator", "-p", "patchbay-worker"]);
    build.args(["-p", "patchbay-agent"]);
    // What cargo tells the test about its own package must not reach the build of the others:
    // their build scripts would run again, now and at the next build by hand.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&name);
        }
    }
    if folder.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let built = build.status().await.context("running cargo build")?;
    ensure!(built.success(), "the programs under test do not build");
    Ok(folder.to_owned())
}

/// Runs a program to its end; answers with its exit code and all it printed.
///
/// # Errors
/// If it cannot be started or does not end within 15 s.
pub async fn run(name: &str, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binary(name).await?);
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("BACKEND_CONFIG_FILE").kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(15), command.output())
        .await
        .with_context(|| format!("{name} {arguments:?} does not end"))??;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code(), text))
}
