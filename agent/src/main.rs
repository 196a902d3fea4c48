//! `patchbay-agent`: lends services of this machine through a gateway.

use std::process::ExitCode;

use clap::Parser;
use patchbay_agent::arguments::Arguments;
use patchbay_agent::config::Config;
use patchbay_agent::wiring;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments) {
        Ok(config) => config,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("patchbay-agent: {line}");
            }
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = wiring::check(&config) {
        eprintln!("patchbay-agent: {error:#}");
        return ExitCode::FAILURE;
    }
    if arguments.common.check {
        eprintln!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    // One thread: streams and the connection they share stay where their memory is.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(wiring::run(config)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
