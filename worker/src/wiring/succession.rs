//! Taking over from a predecessor, and handing over to a successor.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_common::lifecycle::{Notify, at_every_second_user_signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::handover::{Giver, HandoverError, Listeners, Predecessor, Successor};

/// This process's place between the one before it and the one after it.
pub(super) struct Succession {
    pub(super) listeners: Arc<Listeners>,
    predecessor: Mutex<Option<Predecessor>>,
    giver: Option<Giver>,
    /// Cancelled when a successor accepts the connections.
    given: CancellationToken,
    file: Option<(PathBuf, Vec<u8>)>,
    wanted: tokio::sync::Notify,
}

impl Succession {
    /// Takes over what there is to be taken over.
    pub(super) fn begin(config: &Config) -> Result<Self, HandoverError> {
        let place = config.server.handover.as_deref();
        let asked = place.map(Predecessor::ask).transpose()?.flatten();
        let (predecessor, inherited) = asked.unzip();
        let listeners = Listeners::new(inherited.unwrap_or_default(), place.is_some());
        let listeners = Arc::new(listeners);
        Ok(Self {
            giver: place.map(|place| Giver::new(place.to_owned(), Arc::clone(&listeners))),
            listeners,
            predecessor: Mutex::new(predecessor),
            given: CancellationToken::new(),
            file: config.file.as_deref().and_then(with_content),
            wanted: tokio::sync::Notify::new(),
        })
    }

    /// Connections are accepted now: the predecessor is told to leave them to us. Then waits for
    /// a successor, and ends when that accepts.
    pub(super) async fn accepting(&self, status: &str) {
        self.listeners.drop_unused();
        let place = self.giver.as_ref().map(|giver| (giver, giver.open()));
        let predecessor = self
            .predecessor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(predecessor) = predecessor {
            Notify.main_process();
            match predecessor.release() {
                Ok(()) => log::info!("the listening sockets are taken over"),
                Err(error) => log::warn!("the process before this one is gone: {error}"),
            }
        }
        Notify.ready(status);
        match place {
            Some((giver, Ok(socket))) => {
                giver.give(socket).await;
                self.given.cancel();
            }
            Some((giver, Err(error))) => log::error!(
                "server.handover: nobody can take over at {}: {error}",
                giver.path().display()
            ),
            None => {}
        }
    }

    /// Completes when a successor accepts the connections.
    pub(super) async fn given(&self) {
        self.given.cancelled().await;
    }

    /// Whether a successor accepts the connections.
    pub(super) fn is_given(&self) -> bool {
        self.given.is_cancelled()
    }

    /// The process ends: nobody can take over from it any more.
    pub(super) fn close(&self) {
        if let Some(giver) = &self.giver {
            giver.close();
        }
    }

    /// SIGHUP: a configuration that has changed needs a successor, which reads it.
    pub(super) fn reload(&self) {
        let Some((path, content)) = &self.file else {
            return;
        };
        match std::fs::read(path) {
            Ok(now) if now == *content => {}
            Ok(_) => {
                log::info!("{} has changed", path.display());
                self.wanted.notify_one();
            }
            Err(error) => log::error!("{}: cannot be read: {error}", path.display()),
        }
    }

    /// Starts a successor whenever SIGUSR2 or a changed configuration asks for one.
    pub(super) async fn provide(&self) {
        let signalled = at_every_second_user_signal(|| self.wanted.notify_one());
        let providing = async {
            loop {
                self.wanted.notified().await;
                if self.giver.is_none() {
                    log::warn!("nobody can take over: set server.handover, or restart");
                    continue;
                }
                match Successor::start() {
                    Ok(successor) => match successor.ended().await {
                        Ok(status) => log::error!("the successor ended: {status}"),
                        Err(error) => log::error!("the successor is out of sight: {error}"),
                    },
                    Err(error) => log::error!("no successor can be started: {error}"),
                }
            }
        };
        tokio::join!(signalled, providing);
    }
}

fn with_content(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    Some((path.to_owned(), std::fs::read(path).ok()?))
}
