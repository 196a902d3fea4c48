//! Signals that ask for something and end nothing.

use tokio::signal::unix::{SignalKind, signal};

/// Runs `reload` at every SIGHUP, for as long as the process lives. Without this a process ends
/// at the first.
pub async fn at_every_hangup(reload: impl FnMut()) {
    at_every(SignalKind::hangup(), "SIGHUP", reload).await;
}

/// Runs `act` at every SIGUSR2, for as long as the process lives.
pub async fn at_every_second_user_signal(act: impl FnMut()) {
    at_every(SignalKind::user_defined2(), "SIGUSR2", act).await;
}

async fn at_every(kind: SignalKind, name: &str, mut act: impl FnMut()) {
    let mut signals = match signal(kind) {
        Ok(signals) => signals,
        Err(error) => {
            log::error!("{name} cannot be awaited: {error}");
            return std::future::pending().await;
        }
    };
    while signals.recv().await.is_some() {
        act();
    }
}
