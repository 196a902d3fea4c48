//! An operator's mistakes are told in one clear line each, with the exit code 1, before anything
//! is served.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use patchbay_tests::coordinator::{self, Store};
use patchbay_tests::ports::Ports;
use patchbay_tests::postgres::Database;
use patchbay_tests::program;
use patchbay_tests::worker::{Frontend, Plan};

struct Desk {
    folder: tempfile::TempDir,
    api: Ports,
    slots: Ports,
}

impl Desk {
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            api: Ports::reserve(1)?,
            slots: Ports::reserve(4)?,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    fn plan(&self) -> Plan {
        Plan::new(Frontend::Ports(4), "http://127.0.0.1:9".into())
    }

    fn worker(&self, plan: &Plan) -> Result<String> {
        self.write(
            "worker.toml",
            &plan.configuration(self.api.first(), &self.slots),
        )
    }

    fn store(&self) -> Store {
        Store::Sqlite(self.folder.path().join("patchbay.db"))
    }

    fn coordinator(&self, store: &Store, more: &str) -> Result<String> {
        let text = coordinator::configuration(self.api.first(), store, "", more);
        self.write("coordinator.toml", &text)
    }
}

/// The program must end with 1 and say `words` together in exactly one line.
async fn is_reported(name: &str, arguments: &[&str], words: &[&str]) -> Result<()> {
    let (code, text) = program::run(name, arguments).await?;
    ensure!(
        code == Some(1),
        "{name} {arguments:?} ends with {code:?}: {text}"
    );
    ensure!(!text.contains("panicked"), "{text}");
    let lines = text
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    let count = lines.count();
    ensure!(count == 1, "{count} lines with {words:?} in: {text}");
    Ok(())
}

#[tokio::test]
async fn a_good_file_passes() -> Result<()> {
    let desk = Desk::new()?;
    let worker = desk.worker(&desk.plan())?;
    let coordinator = desk.coordinator(&desk.store(), "")?;
    for (name, file) in [
        ("patchbay-worker", worker),
        ("patchbay-coordinator", coordinator),
    ] {
        for flag in ["--check", "-t"] {
            let (code, text) = program::run(name, &["--config", &file, flag]).await?;
            ensure!(code == Some(0), "{name}: {code:?}: {text}");
        }
        let (code, text) = program::run(name, &["--version"]).await?;
        ensure!(code == Some(0) && text.contains(name), "{text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_of_ours() -> Result<()> {
    let desk = Desk::new()?;
    let mut plan = desk.plan();
    plan.more = "[server]\nthreds = 2\n".into();
    let file = desk.worker(&plan)?;
    is_reported(
        "patchbay-worker",
        &["-f", &file, "--check"],
        &[&file, "server.threds"],
    )
    .await?;

    let file = desk.coordinator(&desk.store(), "[server]\nthreds = 2\n")?;
    is_reported(
        "patchbay-coordinator",
        &["-c", &file, "-t"],
        &[&file, "server.threds"],
    )
    .await
}

#[tokio::test]
async fn a_missing_certificate() -> Result<()> {
    let desk = Desk::new()?;
    let tls = "tls_listen = true\ntls_cert = \"no-such.crt\"\ntls_privkey = \"no-such.key\"\n";
    let mut plan = desk.plan();
    plan.settings = tls.into();
    let file = desk.worker(&plan)?;
    let check = ["--config", &*file, "--check"];
    is_reported("patchbay-worker", &check, &["tls_cert", "no-such.crt"]).await?;
    is_reported("patchbay-worker", &check, &["tls_privkey", "no-such.key"]).await?;

    let text = coordinator::configuration(desk.api.first(), &desk.store(), "", "");
    let text = text.replace("allow_unauthorized", &format!("{tls}allow_unauthorized"));
    let file = desk.write("coordinator.toml", &text)?;
    let check = ["--config", &*file, "--check"];
    is_reported("patchbay-coordinator", &check, &["tls_cert", "no-such.crt"]).await
}

#[tokio::test]
async fn a_port_range_over_the_api_port() -> Result<()> {
    let desk = Desk::new()?;
    let plan = desk.plan();
    let text = plan.configuration(desk.slots.last(), &desk.slots);
    let file = desk.write("worker.toml", &text)?;
    let api = desk.slots.last().to_string();
    let check = ["--config", &*file, "--check"];
    is_reported(
        "patchbay-worker",
        &check,
        &["bind_port_range", "api_bind_addr", &api],
    )
    .await
}

#[tokio::test]
async fn a_busy_port() -> Result<()> {
    let desk = Desk::new()?;
    let _busy = TcpListener::bind(("127.0.0.1", desk.api.first()))?;
    let port = desk.api.first().to_string();
    let file = desk.worker(&desk.plan())?;
    is_reported("patchbay-worker", &["--config", &file], &[&port, "in use"]).await?;
    let file = desk.coordinator(&desk.store(), "")?;
    is_reported(
        "patchbay-coordinator",
        &["--config", &file],
        &[&port, "in use"],
    )
    .await
}

#[tokio::test]
async fn all_mistakes_together() -> Result<()> {
    let desk = Desk::new()?;
    let text = desk.plan().configuration(desk.api.first(), &desk.slots);
    let text = text.replace("protocol = \"http\"", "protocol = \"htpp\"");
    let text = text.replace("api_secret", "api_sekret");
    let file = desk.write("worker.toml", &text)?;
    let (code, text) = program::run("patchbay-worker", &["-f", &file, "--check"]).await?;
    assert_eq!(code, Some(1));
    for key in ["proxy_worker.protocol", "secrets.api_secret"] {
        ensure!(text.contains(key), "{key} is not told: {text}");
    }
    Ok(())
}

/// What the file says and what it leads to are told in one go.
#[tokio::test]
async fn wrong_keys_certificates_and_databases_together() -> Result<()> {
    let desk = Desk::new()?;
    let letter = desk.write("letter.pem", "Dear operator, this is no certificate.")?;
    let tls = format!("tls_listen = true\ntls_cert = \"{letter}\"\ntls_privkey = \"{letter}\"\n");
    let mut plan = desk.plan();
    plan.settings.clone_from(&tls);
    plan.more = "[server]\nthreds = 2\n".into();
    let file = desk.worker(&plan)?;
    let check = ["--config", &*file, "--check"];
    is_reported("patchbay-worker", &check, &[&file, "server.threds"]).await?;
    is_reported("patchbay-worker", &check, &[&file, "tls_cert", &letter]).await?;

    let store = Store::Sqlite(desk.folder.path().join("no-such-folder/patchbay.db"));
    let text = coordinator::configuration(desk.api.first(), &store, "", "[server]\nthreds = 2\n");
    let text = text.replace("allow_unauthorized", &format!("{tls}allow_unauthorized"));
    let file = desk.write("coordinator.toml", &text)?;
    let check = ["--config", &*file, "--check"];
    for words in [
        [&*file, "server.threds"],
        [&*letter, "tls_cert"],
        ["no-such-folder", ": db: "],
    ] {
        is_reported("patchbay-coordinator", &check, &words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_file_and_no_toml() -> Result<()> {
    let desk = Desk::new()?;
    let missing = desk
        .folder
        .path()
        .join("missing.toml")
        .display()
        .to_string();
    let broken = desk.write("broken.toml", "[proxy_worker\n")?;
    for name in ["patchbay-worker", "patchbay-coordinator"] {
        is_reported(name, &["--config", &missing, "--check"], &[&missing]).await?;
        let (code, text) = program::run(name, &["--config", &broken, "--check"]).await?;
        ensure!(
            code == Some(1) && text.contains(&broken),
            "{code:?}: {text}"
        );
    }
    Ok(())
}

/// Starts the coordinator once, so that its database exists.
async fn made_by_a_coordinator(desk: &Desk, store: &Store) -> Result<()> {
    let folder = desk.folder.path();
    let mut first = coordinator::Coordinator::start(folder, "first", store, "", "").await?;
    first.program.stop(std::time::Duration::from_secs(5)).await
}

const LATER: &str = "INSERT INTO patchbay_schema_history (version, name, applied_on, checksum) \
                     VALUES (9999, 'of_the_future', '2031-01-01T00:00:00Z', '1')";

#[tokio::test]
async fn a_later_sqlite_database() -> Result<()> {
    let desk = Desk::new()?;
    let store = desk.store();
    made_by_a_coordinator(&desk, &store).await?;
    let Store::Sqlite(path) = &store else {
        anyhow::bail!("not SQLite");
    };
    rusqlite::Connection::open(path)?.execute(LATER, [])?;
    let file = desk.coordinator(&store, "")?;
    is_reported(
        "patchbay-coordinator",
        &["--config", &file],
        &["9999", "later"],
    )
    .await
}

#[tokio::test]
async fn a_later_postgres_database() -> Result<()> {
    let desk = Desk::new()?;
    let database = Database::create().await?;
    let store = Store::Postgres(database.clone());
    made_by_a_coordinator(&desk, &store).await?;
    database.connect().await?.batch_execute(LATER).await?;
    let file = desk.coordinator(&store, "")?;
    is_reported(
        "patchbay-coordinator",
        &["--config", &file],
        &["9999", "later"],
    )
    .await
}

#[tokio::test]
async fn a_file_that_is_no_database() -> Result<()> {
    let desk = Desk::new()?;
    let path = desk.folder.path().join("letter.txt");
    std::fs::write(&path, "Dear operator, this is not a database. ".repeat(100))?;
    let store = Store::Sqlite(path);
    let file = desk.coordinator(&store, "")?;
    let words = ["db", "not an SQLite database"];
    is_reported("patchbay-coordinator", &["--config", &file], &words).await
}

#[tokio::test]
async fn times_that_cannot_be() -> Result<()> {
    let desk = Desk::new()?;
    let mut plan = desk.plan();
    plan.more = "[timeouts]\nconnect = 0\nby_app = { llm = { connect = 0, first = 1 } }\n\
                 [server]\naccess_log_every = 0\n"
        .into();
    let file = desk.worker(&plan)?;
    for words in [
        ["timeouts.connect", "more than 0"],
        ["timeouts.by_app.llm.connect", "more than 0"],
        ["timeouts.by_app.llm.first", "is not a key"],
        ["server.access_log_every", "nonzero"],
    ] {
        is_reported("patchbay-worker", &["--check", "--config", &file], &words).await?;
    }
    Ok(())
}
