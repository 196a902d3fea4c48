//! `patchbay-coordinator`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use patchbay_common::cli::CommonArgs;
use patchbay_common::config::Loader;
use patchbay_coordinator::config::{Config, DISCOVERY};
use patchbay_coordinator::wiring;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Registers workers, opens and closes circuits, and tells the workers.
#[derive(Parser)]
#[command(name = "patchbay-coordinator", version)]
struct Arguments {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Default, Subcommand)]
enum Command {
    /// Serve the API (the default)
    #[default]
    #[command(alias = "start-server")]
    Serve,
    /// Bring the database to the schema of this program, and exit
    Migrate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                complain(line);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = DISCOVERY.find(arguments.common.config.as_deref());
    // Variables that are not text are nobody's overrides.
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let mut loader = Loader::open(file.as_deref(), environment)?;
    let config = Config::read(&mut loader, &arguments.common);
    if arguments.common.check {
        wiring::check(&config, &mut loader);
        return Ok(loader.finish()?);
    }
    loader.finish()?;
    match arguments.command.unwrap_or_default() {
        Command::Serve => wiring::run(&config),
        Command::Migrate => wiring::migrate(&config),
    }
}

fn complain(line: &str) {
    use std::io::Write as _;
    // Nothing is left to be done where even this fails.
    let _ = writeln!(std::io::stderr(), "patchbay-coordinator: {line}");
}
