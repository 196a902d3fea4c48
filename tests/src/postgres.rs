//! A PostgreSQL that all scenarios share, a database of its own for each.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::eventually::eventually;
use crate::ports::Ports;

/// Names a server that runs already, `host:port`; user `postgres`, no password asked.
const VARIABLE: &str = "PATCHBAY_TEST_POSTGRES";

/// Starts the server its arguments name, and when our end of the pipe closes, however our process
/// ended, stops it and removes its folder.
const KEEPER: &str = r#"folder=$1; shift
"$@" >"$folder/log" 2>&1 </dev/null & server=$!
read -r _; kill -s INT "$server"; wait "$server"; rm -rf "$folder""#;

/// A fresh, empty database.
#[derive(Clone, Debug)]
pub struct Database {
    host: String,
    port: u16,
    name: String,
}

impl Database {
    /// Makes one, and the server first if there is none.
    ///
    /// # Errors
    /// If there is no PostgreSQL here.
    pub async fn create() -> anyhow::Result<Self> {
        let (host, port) = server().await?;
        Self::create_on(host, port).await
    }

    async fn create_on(host: String, port: u16) -> anyhow::Result<Self> {
        let database = Self {
            host,
            port,
            name: format!("scenario_{}", Uuid::new_v4().simple()),
        };
        let system = connect(&database.host, port, "postgres").await?;
        let create = format!("CREATE DATABASE {}", database.name);
        system.batch_execute(&create).await?;
        Ok(database)
    }

    /// Host, port and name, for who connects by other means than a configuration file.
    pub fn place(&self) -> (&str, u16, &str) {
        (&self.host, self.port, &self.name)
    }

    /// The `[db]` section that leads to it.
    pub fn section(&self) -> String {
        let Self { host, port, name } = self;
        format!(
            "[db]\ntype = \"postgresql\"\naddr = {{ host = \"{host}\", port = {port} }}\n\
             name = \"{name}\"\nuser = \"postgres\"\npassword = \"scenario\"\n\n"
        )
    }

    /// A session in it.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        connect(&self.host, self.port, &self.name).await
    }
}

async fn connect(host: &str, port: u16, name: &str) -> anyhow::Result<Client> {
    let address = format!("host={host} port={port} user=postgres dbname={name}");
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A server of one scenario alone, which may stop it.
#[derive(Debug)]
pub struct PrivateServer {
    child: Option<Child>,
    programs: PathBuf,
    ports: Ports,
    folder: tempfile::TempDir,
}

impl PrivateServer {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// If there is no PostgreSQL here.
    pub async fn start() -> anyhow::Result<Self> {
        let mut server = Self {
            child: None,
            programs: programs()?,
            ports: Ports::reserve(1)?,
            folder: tempfile::tempdir()?,
        };
        initialize(&server.programs, server.folder.path()).await?;
        server.start_again().await?;
        Ok(server)
    }

    /// A fresh, empty database.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn database(&self) -> anyhow::Result<Database> {
        Database::create_on("127.0.0.1".into(), self.ports.first()).await
    }

    /// Ends it as a restart of its service does: every session is cut.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the server does not run")?;
        let pid = child.id().context("the server has ended")?;
        let mut kill = Command::new("/bin/sh");
        kill.args(["-c", "kill -s INT \"$1\"", "kill", &pid.to_string()]);
        ensure!(status(&mut kill).await?, "the server cannot be signalled");
        child.wait().await?;
        Ok(())
    }

    /// Starts it with what it held.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let port = self.ports.first();
        let mut server = as_postgres(&self.programs.join("postgres"))?;
        server.arg("-D").arg(self.folder.path().join("data"));
        server.arg("-k").arg(self.folder.path());
        server.args(["-p", &port.to_string()]);
        server.args(["-c", "listen_addresses=127.0.0.1"]);
        server.stdin(Stdio::null()).stdout(Stdio::null());
        server.stderr(Stdio::null()).kill_on_drop(true);
        self.child = Some(server.spawn()?);
        eventually("PostgreSQL answers", Duration::from_secs(20), async || {
            connect("127.0.0.1", port, "postgres").await
        })
        .await
        .map(drop)
    }
}

async fn server() -> anyhow::Result<(String, u16)> {
    if let Ok(address) = std::env::var(VARIABLE) {
        let (host, port) = address.rsplit_once(':').context("host:port is expected")?;
        let port = port.parse().context(VARIABLE)?;
        return Ok((host.to_owned(), port));
    }
    // Scenarios share it and none outlives the process, so nothing narrower than the process can
    // own it; the keeper ends it when the process ends.
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    let server = SERVER.get_or_try_init(Server::start).await?;
    Ok(("127.0.0.1".into(), server.ports.first()))
}

struct Server {
    ports: Ports,
    /// Holds our end of the keeper's pipe.
    _keeper: Child,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let ports = Ports::reserve(1)?;
        let folder = tempfile::Builder::new()
            .prefix("patchbay-scenario-postgres-")
            .tempdir()?
            .keep();
        let data = initialize(&programs, &folder).await?;

        let server = as_postgres(&programs.join("postgres"))?;
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&folder);
        keeper.arg(server.as_std().get_program());
        keeper.args(server.as_std().get_args());
        keeper.arg("-D").arg(&data).arg("-k").arg(&folder);
        keeper.args(["-p", &ports.first().to_string()]);
        keeper.args(["-c", "listen_addresses=127.0.0.1"]);
        keeper.args(["-c", "max_connections=500"]);
        // A group of its own: the terminal's Ctrl-C is ours, and the keeper acts on our end.
        keeper.process_group(0).stdin(Stdio::piped());
        let keeper = keeper.spawn()?;
        let port = ports.first();
        eventually("PostgreSQL answers", Duration::from_secs(20), async || {
            connect("127.0.0.1", port, "postgres").await
        })
        .await?;
        Ok(Self {
            ports,
            _keeper: keeper,
        })
    }
}

/// Makes a server's data in this folder; answers with its own folder there.
async fn initialize(programs: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let data = folder.join("data");
    if is_root()? {
        let mut chown = Command::new("chown");
        let given = status(chown.arg("postgres").arg(folder)).await?;
        ensure!(given, "there is no user postgres to run as");
    }
    let mut initdb = as_postgres(&programs.join("initdb"))?;
    initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"]);
    ensure!(
        status(initdb.arg(&data).stdout(Stdio::null())).await?,
        "initdb fails"
    );
    Ok(data)
}

/// The folder of the server's programs.
fn programs() -> anyhow::Result<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    let found = folders.into_iter().find(|f| f.join("initdb").is_file());
    found.with_context(|| {
        format!(
            "there is no PostgreSQL server here: install the package postgresql, or name a \
             running server in {VARIABLE}"
        )
    })
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> anyhow::Result<Command> {
    if !is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg("--").arg(program);
    // It must be able to enter the folder it starts in.
    command.current_dir("/");
    Ok(command)
}

fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

async fn status(command: &mut Command) -> anyhow::Result<bool> {
    let name = command.as_std().get_program().to_owned();
    let status = command.status().await;
    Ok(status
        .with_context(|| format!("running {}", name.display()))?
        .success())
}
