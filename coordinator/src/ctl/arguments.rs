//! The command line of `ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;
use patchbay_common::id::{CircuitId, SessionId};

/// Ask a running coordinator, or tell it
#[derive(Debug, Args)]
pub struct Ctl {
    /// Base URL of the coordinator's API. Without it the configuration file tells
    #[arg(long, global = true, env = "PATCHBAY_URL", value_name = "URL")]
    pub(super) url: Option<String>,

    /// File that holds the API's secret and nothing else. Without it `PATCHBAY_TOKEN`, then the
    /// configuration file's `secrets.api_secret`
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,

    /// Accept any certificate of the coordinator
    #[arg(long, global = true)]
    pub(super) insecure: bool,

    /// The coordinator's own JSON instead of a table
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) action: Action,
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// The workers: what they carry, their slots, whether they live
    Workers,
    /// The circuits
    Circuits {
        /// Only those of this session
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
        /// Only those of this worker, by name
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
    },
    /// One circuit, its use, its routes and their health
    Circuit {
        /// The circuit
        id: CircuitId,
    },
    /// Close circuits
    Close {
        /// The circuits
        #[arg(required = true)]
        ids: Vec<CircuitId>,
    },
    /// Revoke permits and tokens of a circuit: what they carry ends within a second
    Revoke {
        /// The circuit
        circuit: CircuitId,
        /// The one of this name (its `jti`; the access log's `grant`)
        #[arg(long, value_name = "JTI", required_unless_present = "all")]
        name: Option<String>,
        /// All that were given so far
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// The slots in use
    Slots {
        /// Only those of this worker, by name
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
        /// Free ones too
        #[arg(long)]
        all: bool,
    },
    /// Which session's service is reached where
    Routes {
        /// Only this session's
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
        /// Only of this service
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only those of this worker, by name
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
    },
    /// What became of circuits, the newest first
    Audit {
        /// Only this circuit's
        #[arg(long, value_name = "ID")]
        circuit: Option<CircuitId>,
        /// Only those of this session
        #[arg(long, value_name = "ID")]
        session: Option<SessionId>,
        /// Only those of this worker, by name
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
        /// How many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u16,
    },
    /// The services of the gateway, those put and those found
    Services {
        #[command(subcommand)]
        action: Option<ServiceAction>,
    },
    /// How the coordinator, its parts, the workers and the routes are
    Health,
    /// Write a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// What is done to services. Without it they are listed.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceAction {
    /// One service and the routes to it
    Get {
        /// Its name
        name: String,
    },
    /// Put a service, or replace it, as a TOML or JSON file says: [service] and [routes.NAME]
    Put {
        /// Its name
        name: String,
        /// The file; `-` is the standard input
        file: PathBuf,
    },
    /// Take a service away
    Delete {
        /// Its name
        name: String,
    },
    /// What became of services, the newest first
    Audit {
        /// Only those of this name
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// How many
        #[arg(long, value_name = "NUMBER", default_value_t = 50)]
        limit: u16,
    },
}
