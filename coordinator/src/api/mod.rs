//! The REST API: requests in, answers out (contract/rest-coordinator.md).
//!
//! `routes` is the table; each noun's file holds its thin handlers; `serve` puts the router behind
//! Pingora's listener; `error` alone turns failures into statuses. This room refuses to decide
//! anything about workers and circuits: `registry`, `circuits` and `store` do. `wiring` builds it.

mod accept;
mod audit;
mod auth;
mod circuits;
mod compat;
mod cors;
mod edge;
mod endpoints;
mod error;
mod events;
mod figures;
mod fleet;
mod health;
mod json;
mod mappings;
mod metrics;
mod openapi;
mod params;
mod proxy;
mod relay;
mod request_id;
mod revocations;
mod route_health;
mod routes;
mod serve;
mod services;
mod slots;
mod tunnels;
mod uses;
mod view;
mod workers;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;
use patchbay_common::config::Secret;
use patchbay_common::lifecycle::Drain;
use patchbay_common::token::TokenKey;
use tokio::sync::watch;

use crate::circuits::{Closer, Endpoints, Opener};
use crate::publish::{Acknowledgements, Streams};
use crate::registry::{Marks, Registry};
use crate::services::Services;
use crate::store::Store;

pub use health::{Component, Health};
pub use metrics::Metrics;
pub use relay::Client as Relay;
pub use routes::router;
pub use serve::Api;

use auth::Credentials;

/// What the operator settled about the API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// `secrets.api_secret`.
    pub api_secret: Secret,
    /// The key of setup tokens.
    pub jwt: TokenKey,
    /// Base URL of this API as clients see it.
    pub advertise_url: String,
    /// `POST /v2/conf` needs no credential.
    pub allow_unauthorized_configure: bool,
    /// Who may read the metrics.
    pub metric_networks: Vec<IpNet>,
    /// Largest body accepted, in bytes.
    pub body_limit: u64,
    /// Carries requests to apps, if it is to.
    pub relay: Option<Relay>,
}

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) opener: Arc<Opener>,
    pub(crate) closer: Closer,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) marks: Marks,
    pub(crate) streams: Arc<Streams>,
    pub(crate) services: Services,
    pub(crate) acknowledgements: Arc<Acknowledgements>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    /// Turns over when a gateway has told of its tunnels.
    pub(crate) tunnels_changed: watch::Sender<u64>,
    pub(crate) credentials: Credentials,
    pub(crate) jwt: TokenKey,
    pub(crate) advertise_url: String,
    pub(crate) allow_unauthorized_configure: bool,
    pub(crate) metric_networks: Vec<IpNet>,
    pub(crate) body_limit: u64,
    pub(crate) relay: Option<Relay>,
}

/// The rooms an [`App`] talks to.
pub struct Rooms {
    /// What is true.
    pub store: Arc<dyn Store>,
    /// Workers come and go here.
    pub registry: Registry,
    /// Opens circuits.
    pub opener: Arc<Opener>,
    /// Closes them.
    pub closer: Closer,
    /// Opens, reroutes and closes those of endpoints.
    pub endpoints: Arc<Endpoints>,
    /// How circuits are used.
    pub marks: Marks,
    /// Feeds of listening workers.
    pub streams: Arc<Streams>,
    /// Services of the gateway.
    pub services: Services,
    /// What workers say they serve.
    pub acknowledgements: Arc<Acknowledgements>,
    /// How the parts are.
    pub health: Arc<Health>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is in flight.
    pub drain: Drain,
}

impl App {
    /// An API over these rooms.
    pub fn new(rooms: Rooms, settings: ApiSettings) -> Self {
        Self(Arc::new(Parts {
            store: rooms.store,
            registry: rooms.registry,
            opener: rooms.opener,
            closer: rooms.closer,
            endpoints: rooms.endpoints,
            marks: rooms.marks,
            streams: rooms.streams,
            services: rooms.services,
            acknowledgements: rooms.acknowledgements,
            health: rooms.health,
            metrics: rooms.metrics,
            drain: rooms.drain,
            tunnels_changed: watch::channel(0).0,
            credentials: Credentials::new(settings.api_secret),
            jwt: settings.jwt,
            advertise_url: settings.advertise_url,
            allow_unauthorized_configure: settings.allow_unauthorized_configure,
            metric_networks: settings.metric_networks,
            body_limit: settings.body_limit,
            relay: settings.relay,
        }))
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Address of the connection's other end; an extension of every request served over a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);
