//! The command line.

use clap::Parser;
use patchbay_common::cli::CommonArgs;

/// Patchbay's tunnel client: lends localhost services through a gateway.
#[derive(Debug, Parser)]
#[command(name = "patchbay-agent", version)]
pub struct Arguments {
    /// Flags all programs take.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Base URL of the gateway. May be repeated: a session is held with each
    #[arg(long = "gateway", value_name = "URL")]
    pub gateways: Vec<String>,

    /// Registration token; better given as PATCHBAY_AGENT_TOKEN, where no process list shows it
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,

    /// Name of this agent
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,

    /// A service to lend: ID=URL or ID@VISITOR-TOKEN=URL. May be repeated
    #[arg(long = "tunnel", value_name = "ID=URL")]
    pub tunnels: Vec<String>,

    /// Certificates (PEM) to trust the gateway by, beside the system's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<std::path::PathBuf>,

    /// Where to show metrics, such as 127.0.0.1:9464
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<std::net::SocketAddr>,

    /// The only transport to use: mux or poll. Without it, mux where it gets through
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<String>,
}
