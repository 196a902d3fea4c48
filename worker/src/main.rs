//! `patchbay-worker`: reads what the operator asks for, checks it, and runs it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use patchbay_common::cli::CommonArgs;
use patchbay_worker::config::Config;
use patchbay_worker::wiring;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Patchbay's data plane: carries client traffic to compute-session apps.
#[derive(Parser)]
#[command(name = "patchbay-worker", version)]
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        None | Some(Command::Serve) => serve(&arguments.common),
    }
}

fn serve(arguments: &CommonArgs) -> ExitCode {
    let config = match Config::load(arguments, wiring::examine) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    if arguments.check {
        eprintln!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    match wiring::run(config, wiring::Source::new(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("patchbay-worker: {line}");
    }
    ExitCode::FAILURE
}
