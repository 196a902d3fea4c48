//! `patchbay-coordinator`: reads what the operator asks for, checks it, and runs it.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use patchbay_common::cli::CommonArgs;
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
    let config = match Config::load(&arguments.common) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    let outcome = match command {
        _ if arguments.common.check => return check(&config),
        Command::Serve | Command::Ctl(_) => wiring::run(config),
        Command::Migrate => wiring::migrate(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn check(config: &Config) -> ExitCode {
    match wiring::check(config) {
        Ok(mistakes) if mistakes.is_empty() => {
            eprintln!("the configuration is good");
            ExitCode::SUCCESS
        }
        Ok(mistakes) => fail(&mistakes.join("\n")),
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("patchbay-coordinator: {line}");
    }
    ExitCode::FAILURE
}
