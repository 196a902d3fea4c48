//! Reads the configuration again, at SIGHUP or when its file has changed, and puts the gateway's
//! part of it in force. A file with a mistake anywhere is refused as a whole.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use patchbay_common::cli::CommonArgs;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::gateway::Room;
use crate::config::{Config, DISCOVERY};
use crate::gateway::config::GatewayConfig;

/// Between looks at the file.
const LOOK: Duration = Duration::from_millis(500);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    args: CommonArgs,
    file: Option<PathBuf>,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<(u64, i64, i64, u64)>);

impl Source {
    /// As the command line says.
    pub fn new(args: &CommonArgs) -> Self {
        Self {
            file: DISCOVERY.find(args.config.as_deref()),
            args: args.clone(),
        }
    }

    fn stamp(&self) -> Stamp {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        Stamp(metadata.map(|data| (data.ino(), data.mtime(), data.mtime_nsec(), data.len())))
    }

    /// Reads it; what is wrong is logged. It resolves names, so it may take its time.
    async fn read(&self) -> Option<Config> {
        let source = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            Config::load(&source.args, super::examine).map_err(|error| error.to_string())
        });
        match reading.await {
            Ok(Ok(config)) => Some(config),
            Ok(Err(mistakes)) => {
                for mistake in mistakes.lines() {
                    log::error!("the configuration is not taken over: {mistake}");
                }
                None
            }
            Err(error) => {
                log::error!("the configuration cannot be read again: {error}");
                None
            }
        }
    }
}

/// Keeps the gateway as its file says, for as long as the process lives. `hangup` asks for a look
/// at once.
pub(super) async fn follow(source: &Source, room: &Room, started: &GatewayConfig, hangup: &Notify) {
    let mut known = source.stamp();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            () = hangup.notified() => true,
            _ = ticks.tick() => false,
        };
        let stamp = source.stamp();
        if !asked && stamp == known {
            continue;
        }
        known = stamp;
        let Some(config) = source.read().await else {
            continue;
        };
        let Some(gateway) = config.gateway else {
            log::error!("the configuration is not taken over: it has no [gateway] any more");
            continue;
        };
        for key in started.fixed_keys_changed(&gateway) {
            log::warn!("gateway.{key} has changed: it takes effect at the next start");
        }
        room.gateway.install(&gateway);
        let (routes, services) = room.gateway.size();
        log::info!("the gateway's configuration is in force: {routes} routes, {services} services");
    }
}
