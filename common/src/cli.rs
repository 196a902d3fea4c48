//! The command line the three programs have in common.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use log::LevelFilter;

/// Flags every program takes.
#[derive(Clone, Debug, Default, Args)]
pub struct CommonArgs {
    /// Configuration file. Without it the usual places are searched
    #[arg(
        short = 'f',
        long = "config",
        short_alias = 'c',
        alias = "config-path",
        value_name = "FILE",
        global = true
    )]
    pub config: Option<PathBuf>,

    /// Load everything the start would, report every mistake, and exit 0 or 1
    #[arg(short = 't', long, global = true)]
    pub check: bool,

    /// Least severe level to log: error, warn, info, debug, trace or off
    #[arg(long, value_name = "LEVEL", global = true, value_parser = parse_level)]
    pub log_level: Option<LevelFilter>,

    /// Form of the log lines
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A level by its name here or in the incumbent's files (`WARNING`, `CRITICAL`, `NOTSET`).
///
/// # Errors
/// A sentence naming the levels there are.
pub fn parse_level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::Off),
        "error" | "critical" => Ok(LevelFilter::Error),
        "warn" | "warning" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        "trace" | "notset" => Ok(LevelFilter::Trace),
        _ => Err(format!(
            "`{text}` is not one of error, warn, info, debug, trace, off"
        )),
    }
}
