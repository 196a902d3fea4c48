//! What systemd is told (`sd_notify(3)`); silent where nobody listens.

use std::time::Duration;

use sd_notify::NotifyState;

/// The line to the service manager.
#[derive(Clone, Copy, Debug, Default)]
pub struct Notify;

impl Notify {
    /// The process serves: listeners are bound, state is loaded.
    pub fn ready(self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// This process is the service's main one from now on.
    pub fn main_process(self) {
        self.send(&[NotifyState::MainPid(std::process::id())]);
    }

    /// The process drains.
    pub fn stopping(self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Keeps systemd's watchdog content for as long as the runtime turns. Returns at once where
    /// no watchdog is set.
    pub async fn feed_watchdog(self) {
        let Some(period) = sd_notify::watchdog_enabled() else {
            return;
        };
        let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(100)));
        loop {
            ticks.tick().await;
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn send(self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            log::warn!("systemd could not be notified: {error}");
        }
    }
}
