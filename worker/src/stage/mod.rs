//! The stages a request passes before it is carried: request id, client address, circuit,
//! admission, credential; and the headers it is given on its way.
//!
//! Stages know no engine: they read a borrowed [`Head`] and answer with a verdict, and they write
//! headers through a [`HeaderSink`]. `proxy` translates to Pingora; any other engine can run the
//! same stages. They refuse to wait: everything they need is in memory.

mod auth;
mod client_ip;
mod cors;
mod forwarded;
mod head;
mod hygiene;
mod locate;
mod trace;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use patchbay_common::permit::PermitKey;
use patchbay_common::request_id::{self, RequestId};
use patchbay_common::token::TokenKey;

use crate::config::{Config, Cors};
use crate::error::Refusal;
use crate::gateway::config::GatewayConfig;
use crate::table::{LiveCircuit, Table};

pub use auth::{Credential, Right};
pub use client_ip::Client;
pub use cors::Preflight;
pub use head::{Head, HeaderLookup, HeaderSink, is_alike};
pub use hygiene::is_host;
pub use locate::{Place, port_offset};
pub use patchbay_common::hop_by_hop::is_hop_by_hop;
pub use trace::parent as trace_parent;

/// What the stages decide by; the same for all requests.
#[derive(Debug)]
pub struct Stages {
    table: Arc<Table>,
    tokens: TokenKey,
    permits: PermitKey,
    legacy_permits: bool,
    trusted_proxies: Vec<ipnet::IpNet>,
    domain: Option<String>,
    /// Advertised minus bound port, where the two ranges differ.
    port_offset: i32,
    uses_tls: bool,
    cors: Cors,
}

/// Verdict on a request for a circuit.
#[derive(Debug)]
pub enum Verdict {
    /// Carry it, by this right.
    Carry(Right),
    /// Answer a CORS preflight here; browsers send it without credentials.
    Preflight(Preflight),
}

impl Stages {
    /// As configured.
    pub fn new(config: &Config, table: Arc<Table>) -> Self {
        Self {
            table,
            tokens: config.tokens.clone(),
            permits: config.permits.clone(),
            legacy_permits: config.permit.legacy,
            trusted_proxies: config.trusted_proxies.clone(),
            domain: locate::domain(&config.frontend),
            port_offset: locate::port_offset(&config.frontend),
            uses_tls: config.uses_tls(),
            cors: config.cors.clone(),
        }
    }

    /// For the gateway's listeners.
    pub fn at_gateway(config: &Config, gateway: &GatewayConfig, table: Arc<Table>) -> Self {
        Self {
            trusted_proxies: gateway.trusted_proxies.clone(),
            uses_tls: gateway.tls.is_some(),
            ..Self::new(config, table)
        }
    }

    /// The request's id: the client's where it is well formed, else a fresh one.
    pub fn request_id(&self, head: &Head<'_>) -> RequestId {
        let accepted = RequestId::accept(|name| head.headers.get(name));
        if accepted.refused {
            log::debug!(request_id = accepted.id.as_str(); "the request id offered is not well formed");
        }
        accepted.id
    }

    /// The address the request comes from, past the proxies we trust.
    pub fn client(&self, head: &Head<'_>) -> Client {
        client_ip::client(head, &self.trusted_proxies)
    }

    /// The circuit asked for.
    ///
    /// # Errors
    /// [`Refusal::UnknownPort`], [`Refusal::UnknownSubdomain`].
    pub fn locate(&self, head: &Head<'_>, client: &Client) -> Result<Arc<LiveCircuit>, Refusal> {
        let place = locate::place(head, client, self.domain.as_deref(), self.port_offset)?;
        locate::find(&self.table, &place).ok_or_else(|| place.unknown())
    }

    /// Whether the circuit carries this request.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        head: &Head<'_>,
        client: &Client,
        circuit: &LiveCircuit,
        now: u64,
    ) -> Result<Verdict, Refusal> {
        if !circuit.clients.admits(client.address.ip()) {
            return Err(Refusal::ClientAddress);
        }
        match self.right(head, circuit, now) {
            Ok(right) => Ok(Verdict::Carry(right)),
            Err(refusal) => cors::preflight(head).map(Verdict::Preflight).ok_or(refusal),
        }
    }

    /// What is wrong with the head itself, if anything (RFC 9112; pingora-notes.md). `raw` is the
    /// head as it came, where it came as HTTP/1.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`].
    pub fn inspect(&self, head: &Head<'_>, raw: Option<&[u8]>) -> Result<(), Refusal> {
        raw.map_or(Ok(()), hygiene::inspect_bytes)?;
        hygiene::inspect(head)
    }

    /// Writes what the app is told about where the request comes from, and takes out what it must
    /// not see.
    pub fn inject(
        &self,
        head: &Head<'_>,
        client: &Client,
        circuit: &LiveCircuit,
        id: &RequestId,
        sink: &mut dyn HeaderSink,
    ) {
        sink.set(request_id::HEADER, id.as_str());
        sink.remove(request_id::LEGACY_HEADER);
        forwarded::write(head, client, Some(circuit), self.uses_tls, sink);
        self.strip_credentials(head, circuit, sink);
    }

    /// Writes the request id, and where the request comes from.
    pub fn inject_forwarded(
        &self,
        head: &Head<'_>,
        client: &Client,
        id: &RequestId,
        sink: &mut dyn HeaderSink,
    ) {
        sink.set(request_id::HEADER, id.as_str());
        sink.remove(request_id::LEGACY_HEADER);
        forwarded::write(head, client, None, self.uses_tls, sink);
    }

    /// Whether the client came by TLS, to us or to a proxy we trust.
    pub fn is_tls(&self, head: &Head<'_>, client: &Client) -> bool {
        forwarded::proto(head, client, self.uses_tls) == "https"
    }

    /// Writes the request id and what a browser of another origin may see into an answer.
    pub fn dress(&self, id: &RequestId, answer: &mut dyn HeaderSink) {
        answer.set(request_id::HEADER, id.as_str());
        cors::dress(self.cors.r#override, answer);
    }
}
