//! `[timeouts]`: patience with clients and apps. A live stream is never timed out unless the
//! operator asks for it.

use std::collections::BTreeMap;
use std::time::Duration;

use patchbay_common::config::{Loader, Mistake, Seconds, Strictness};
use serde::Deserialize;

/// The section. Of the times that may be 0, that means for ever.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// For a request's head to be complete, from its first byte.
    pub request_head: Seconds,
    /// To connect to an upstream.
    pub connect: Seconds,
    /// How long an idle client connection is kept for its next request.
    pub keepalive: Seconds,
    /// How long an idle upstream connection is kept.
    pub upstream_keepalive: Seconds,
    /// For an app to begin its answer, from the last byte of the request; may be 0.
    pub first_byte: Seconds,
    /// Between two bytes of an answer or what of the request goes on beside it; may be 0.
    pub idle: Seconds,
    /// For an exchange as a whole, WebSockets excepted; may be 0.
    pub total: Seconds,
    /// Between two bytes of a WebSocket, pings included; may be 0.
    pub websocket_idle: Seconds,
    /// Between two bytes of a TCP connection; may be 0.
    pub tcp_idle: Seconds,
    /// The same for circuits of an app, by the app's name.
    pub by_app: BTreeMap<String, OfApp>,
}

/// What is different for an app.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfApp {
    connect: Option<Seconds>,
    first_byte: Option<Seconds>,
    idle: Option<Seconds>,
    total: Option<Seconds>,
    websocket_idle: Option<Seconds>,
    tcp_idle: Option<Seconds>,
}

impl Default for Timeouts {
    fn default() -> Self {
        const FOR_EVER: Seconds = Seconds::from_secs(0);
        Self {
            request_head: Seconds::from_secs(30),
            connect: Seconds::from_secs(10),
            keepalive: Seconds::from_secs(75),
            upstream_keepalive: Seconds::from_secs(60),
            first_byte: FOR_EVER,
            idle: FOR_EVER,
            total: FOR_EVER,
            websocket_idle: FOR_EVER,
            tcp_idle: FOR_EVER,
            by_app: BTreeMap::new(),
        }
    }
}

/// How long an app is waited for; where there is no time, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// For the beginning of an answer.
    pub first_byte: Option<Duration>,
    /// Between two bytes.
    pub idle: Option<Duration>,
    /// For an exchange as a whole.
    pub total: Option<Duration>,
    /// Between two bytes of a WebSocket.
    pub websocket_idle: Option<Duration>,
    /// Between two bytes of a TCP connection.
    pub tcp_idle: Option<Duration>,
}

/// What the file asks for; mistakes are noted.
pub(super) fn read(loader: &mut Loader) -> Timeouts {
    let section: Timeouts = loader.section("timeouts", Strictness::Ours);
    section.check(loader)
}

impl Timeouts {
    /// How long an app is waited for.
    pub fn of(&self, app: Option<&str>) -> Patience {
        let own = app.and_then(|app| self.by_app.get(app));
        let own = own.copied().unwrap_or_default();
        let bound = |own: Option<Seconds>, all: Seconds| {
            let time = own.unwrap_or(all).0;
            (!time.is_zero()).then_some(time)
        };
        Patience {
            connect: own.connect.unwrap_or(self.connect).0,
            first_byte: bound(own.first_byte, self.first_byte),
            idle: bound(own.idle, self.idle),
            total: bound(own.total, self.total),
            websocket_idle: bound(own.websocket_idle, self.websocket_idle),
            tcp_idle: bound(own.tcp_idle, self.tcp_idle),
        }
    }

    /// Notes what cannot be.
    fn check(self, loader: &mut Loader) -> Self {
        let own = self.by_app.iter().filter_map(|(app, own)| {
            let key = format!("timeouts.by_app.{app}.connect");
            Some((key, own.connect?))
        });
        let all = [
            ("timeouts.request_head".to_owned(), self.request_head),
            ("timeouts.connect".to_owned(), self.connect),
        ];
        for (key, time) in all.into_iter().chain(own) {
            if time.0.is_zero() {
                loader.mistake(Mistake::new(key, "must be more than 0: 10 is usual"));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_may_have_its_own_times_and_the_rest_of_the_workers() {
        let timeouts: Timeouts = toml::from_str(
            "connect = 3\nidle = \"1m\"\n[by_app.my-llm]\nidle = 0\nfirst_byte = 120\n",
        )
        .unwrap();
        let (all, own) = (timeouts.of(Some("jupyter")), timeouts.of(Some("my-llm")));
        assert_eq!(all.idle, Some(Duration::from_secs(60)));
        assert_eq!((all.first_byte, all.total), (None, None));
        assert_eq!(own.idle, None);
        assert_eq!(own.first_byte, Some(Duration::from_secs(120)));
        assert_eq!(own.connect, Duration::from_secs(3));
    }
}
