//! `patchbay-coordinator`: reads what the operator asks for, checks it, and runs it.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use patchbay_common::cli::CommonArgs;
use patchbay_common::config::Loader;
use patchbay_coordinator::config::Config;
use patchbay_coordinator::ctl::{self, Ctl};
use patchbay_coordinator::wiring;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Patchbay's control plane: registers workers, opens and closes circuits.
#[derive(Parser)]
#[command(name = "patchbay-coordinator", version)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    #[command(alias = "start-server")]
    Serve,
    /// Bring the database's schema up to date, and end
    Migrate,
    /// Ask a running coordinator, or tell it: workers, circuits, slots, health
    Ctl(Ctl),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Serve);
    if let Command::Ctl(ctl) = &command {
        return match ctl::run(ctl, &arguments.common, &mut Arguments::command()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.to_string()),
        };
    }
    let examine = |config: &Config, loader: &mut Loader| {
        if arguments.common.check {
            wiring::examine(config, loader);
        }
    };
    let config = match Config::load(&arguments.common, examine) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    if arguments.common.check {
        eprintln!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    let outcome = match command {
        Command::Serve | Command::Ctl(_) => wiring::run(config),
        Command::Migrate => wiring::migrate(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("patchbay-coordinator: {line}");
    }
    ExitCode::FAILURE
}
