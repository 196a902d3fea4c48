//! Starts the process that takes over: the program as it stands on disk now, asked as this one
//! was.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use tokio::process::{Child, Command};

/// A process that is to take over.
#[derive(Debug)]
pub struct Successor(Child);

impl Successor {
    /// Starts it.
    ///
    /// # Errors
    /// If the system cannot.
    pub fn start() -> io::Result<Self> {
        let mut command = Command::new(program()?);
        command.args(std::env::args_os().skip(1));
        // systemd's watchdog is bound to the process it knows; the heir tells it who comes after.
        command.env_remove("WATCHDOG_PID");
        let child = command.spawn()?;
        log::info!("process {} is to take over", child.id().unwrap_or_default());
        Ok(Self(child))
    }

    /// Waits until it has ended, which it should not before this process has.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn ended(mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }
}

/// The program's file; an upgrade may have put another one in its place.
fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?.into_os_string();
    let text = own.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(name) => PathBuf::from(OsString::from(name)),
        None => PathBuf::from(own),
    })
}
