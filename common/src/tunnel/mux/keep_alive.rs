//! Signs of life: a connection whose other end has gone without a word is found and ended.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Settings;

/// When the other end was last heard, and how to ask it.
#[derive(Debug)]
pub(super) struct Asked {
    heard: watch::Sender<Instant>,
    asks: watch::Receiver<u64>,
}

/// Asks for signs of life.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    heard: watch::Receiver<Instant>,
    asks: watch::Sender<u64>,
}

pub(super) fn asking() -> (Asker, Asked) {
    let (heard, heard_receiver) = watch::channel(Instant::now());
    let (asks_sender, asks) = watch::channel(0);
    let asker = Asker {
        heard: heard_receiver,
        asks: asks_sender,
    };
    (asker, Asked { heard, asks })
}

impl Asker {
    /// Whether the other end gives a sign of life within `patience`.
    pub(super) async fn answers(&self, patience: Duration) -> bool {
        let now = Instant::now();
        let mut heard = self.heard.clone();
        self.asks.send_modify(|count| *count += 1);
        timeout(patience, heard.wait_for(|heard| *heard >= now))
            .await
            .is_ok_and(|heard| heard.is_ok())
    }
}

/// Asks for a sign of life at intervals and on demand; returns when there is none.
pub(super) async fn watch_over(mut pings: PingPong, settings: Settings, mut asked: Asked) {
    let mut asker_left = false;
    loop {
        if asker_left {
            tokio::time::sleep(settings.ping_every).await;
        } else if let Ok(Err(_)) = timeout(settings.ping_every, asked.asks.changed()).await {
            asker_left = true;
            continue;
        }
        let sent_at = Instant::now();
        match timeout(settings.ping_patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {
                asked
                    .heard
                    .send_modify(|heard| *heard = (*heard).max(sent_at));
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
