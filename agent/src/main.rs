//! `patchbay-agent`: reads what it is asked to lend, and checks it.

use std::process::ExitCode;

use clap::Parser;
use patchbay_agent::arguments::Arguments;
use patchbay_agent::config::Config;

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
    if arguments.common.check {
        eprintln!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "patchbay-agent: {} tunnel(s) are configured, but this version has no gateway to lend \
         them to: only --check is of use",
        config.tunnels.len()
    );
    ExitCode::FAILURE
}
