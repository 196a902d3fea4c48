//! SIGHUP: read anew what can be read anew.

use tokio::signal::unix::{SignalKind, signal};

/// Runs `reload` at every SIGHUP, for as long as the process lives. Without this a process ends
/// at the first.
pub async fn at_every_hangup(mut reload: impl FnMut()) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            log::error!("SIGHUP cannot be awaited: {error}");
            return std::future::pending().await;
        }
    };
    while hangups.recv().await.is_some() {
        reload();
    }
}
