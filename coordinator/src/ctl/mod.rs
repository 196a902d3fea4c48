//! `patchbay-coordinator ctl …`: what an operator asks of a running coordinator, from a shell.
//!
//! Everything goes over the REST API with the API's secret, as any other client's calls do; this
//! room refuses to open the database or Redis. `arguments` is the command line, `connect` finds
//! the coordinator, `client` calls it, `show` turns answers into tables. `main` calls it.

mod arguments;
mod client;
mod commands;
mod connect;
mod services;
mod show;
mod table;

use std::io::{self, Write as _};

use clap_complete::Shell;
use patchbay_common::cli::CommonArgs;

use arguments::Action;
pub use arguments::Ctl;
use client::{CallError, Client};
use connect::ConnectError;

/// Why a command failed; one clear line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// It is not known where the coordinator is, or with which secret to ask.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The coordinator did not do what was asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The runtime cannot be built.
    #[error("no runtime can be built: {0}")]
    Runtime(io::Error),
    /// Standard output is gone.
    #[error("the answer cannot be written: {0}")]
    Output(io::Error),
}

/// Runs one command and writes its answer to standard output. `program` describes the whole
/// command line; completion scripts are made from it.
///
/// # Errors
/// Why it failed.
pub fn run(ctl: &Ctl, common: &CommonArgs, program: &mut clap::Command) -> Result<(), CtlError> {
    let text = match &ctl.action {
        Action::Completion { shell } => completion(*shell, program),
        action => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(CtlError::Runtime)?;
            let place = connect::find(ctl, common)?;
            let client = Client::new(&place)?;
            let answer = runtime.block_on(commands::answer(&client, action))?;
            if ctl.json {
                format!("{:#}\n", answer.json)
            } else {
                answer.text
            }
        }
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // `ctl circuits | head` ends the reader early; that is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(CtlError::Output),
    }
}

fn completion(shell: Shell, program: &mut clap::Command) -> String {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(shell, program, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
