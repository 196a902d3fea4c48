//! Between gateways: a multiplexed connection to the one an agent is connected to, which lends the
//! agent's tunnels on as an agent does. What comes by it is for agents that are connected here and
//! never goes on to a third gateway, so that no request can go round in circles.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use patchbay_common::tunnel::mux::{self, AgentEnd, Call, GatewayEnd, OpenError, Opener};
use patchbay_common::tunnel::{RelayAddress, TunnelId, UPGRADE, path};
use reqwest::{Certificate, Client, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::sync::Mutex;

use super::line::{OpenFailure, TunnelStream};
use super::registry::Registry;
use super::settings::Settings;

/// Patience with a service that another gateway asks for; it has a patience of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// Buffer of each direction.
const BUFFER: usize = 16 << 10;

/// Connections to other gateways, made when they are needed.
#[derive(Debug)]
pub(super) struct Relays {
    /// `None` if there is no TLS to be had, which was said at the start.
    client: Option<Client>,
    mux: mux::Settings,
    lines: DashMap<String, Arc<Mutex<Option<Opener>>>>,
}

impl Relays {
    pub(super) fn new(settings: &Settings) -> Self {
        // HTTP/1: only there can a connection be upgraded.
        let mut builder = Client::builder()
            .http1_only()
            .no_proxy()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("patchbay-worker/", env!("CARGO_PKG_VERSION")));
        for certificate in Certificate::from_pem_bundle(&settings.relay_ca).unwrap_or_default() {
            builder = builder.add_root_certificate(certificate);
        }
        let client = builder.build();
        let client = client.inspect_err(|error| {
            log::error!("tunnels of other gateways cannot be reached: {error}");
        });
        Self {
            client: client.ok(),
            mux: settings.mux,
            lines: DashMap::new(),
        }
    }

    /// Lets go of gateways that are not among these.
    pub(super) fn keep(&self, urls: &HashSet<&str>) {
        self.lines.retain(|url, _| urls.contains(url.as_str()));
    }

    /// A connection to a service that an agent lends at the gateway of this address.
    pub(super) async fn open(
        &self,
        relay: &RelayAddress,
        id: &TunnelId,
    ) -> Result<TunnelStream, OpenFailure> {
        let line = Arc::clone(self.lines.entry(relay.url.clone()).or_default().value());
        let mut known = line.lock().await;
        let (opener, fresh) = match known.clone() {
            Some(opener) => (opener, false),
            None => (self.connect(relay).await?, true),
        };
        *known = Some(opener.clone());
        drop(known);
        match opener.open(id).await {
            Ok(stream) => Ok(TunnelStream::Mux(stream)),
            Err(OpenError::Gone) => {
                // Another may have connected anew meanwhile; it loses nothing but time.
                *line.lock().await = None;
                if fresh {
                    return Err(OpenFailure::NoAgent);
                }
                let opener = self.connect(relay).await?;
                *line.lock().await = Some(opener.clone());
                let stream = opener.open(id).await;
                stream.map(TunnelStream::Mux).map_err(OpenFailure::from)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn connect(&self, relay: &RelayAddress) -> Result<Opener, OpenFailure> {
        let refused = |cause: &dyn std::fmt::Display| {
            log::warn!("the gateway at {} cannot be reached: {cause}", relay.url);
            OpenFailure::NoAgent
        };
        let client = self.client.as_ref().ok_or(OpenFailure::NoAgent)?;
        let call = client
            .get(format!("{}{}", relay.url, path::RELAY))
            .bearer_auth(relay.key.expose())
            .header("connection", "Upgrade")
            .header("upgrade", UPGRADE);
        let answer = call.send().await.map_err(|error| refused(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(&answer.status()));
        }
        let upgraded = answer.upgrade().await.map_err(|error| refused(&error))?;
        let (opener, end) = GatewayEnd::begin(upgraded, self.mux)
            .await
            .map_err(|error| refused(&error))?;
        log::info!("connected to the gateway at {}", relay.url);
        tokio::spawn(end.run());
        Ok(opener)
    }
}

impl From<OpenError> for OpenFailure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Gone | OpenError::Unknown => Self::NoAgent,
            OpenError::Busy => Self::Full,
            OpenError::TimedOut => Self::TimedOut,
            OpenError::Unreachable(reason) => Self::Unreachable(reason),
        }
    }
}

impl Registry {
    /// Whether another gateway has shown what it was told to.
    pub fn admits_gateway(&self, shown: &str) -> bool {
        self.elsewhere.admits(shown)
    }

    /// Lends what is lent here to another gateway, until its connection ends.
    pub async fn lend_on<T>(self: &Arc<Self>, io: T)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let end = match AgentEnd::begin(io, self.settings.mux).await {
            Ok(end) => end,
            Err(cause) => {
                log::warn!("another gateway's connection broke off: {cause}");
                return;
            }
        };
        log::info!("another gateway is connected");
        let ended = end.run(|call| {
            let registry = Arc::clone(self);
            tokio::spawn(async move { registry.pass_on(call).await });
        });
        match ended.await {
            Ok(()) => log::info!("another gateway has left"),
            Err(cause) => log::info!("another gateway's connection broke off: {cause}"),
        }
    }

    async fn pass_on(&self, call: Call) {
        let Ok(id) = call.tunnel().parse() else {
            return call.unknown();
        };
        let mut service = match self.open_here(&id, PATIENCE).await {
            Ok(service) => service,
            Err(OpenFailure::Unknown | OpenFailure::NoAgent) => return call.unknown(),
            Err(OpenFailure::Full) => return call.busy(),
            Err(OpenFailure::TimedOut) => return call.timed_out(),
            Err(failure) => return call.unreachable(&failure.to_string()),
        };
        if let Ok(mut stream) = call.accept() {
            // Either end may break off; the other learns it by the drop of both.
            let _ = copy_bidirectional_with_sizes(&mut stream, &mut service, BUFFER, BUFFER).await;
        }
    }
}
