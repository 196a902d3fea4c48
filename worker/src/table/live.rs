//! A circuit in service: the fact, prepared so that a request only reads.

use std::sync::Arc;

use patchbay_common::circuit::{Circuit, Slot};
use patchbay_common::client_ips::ClientIps;
use patchbay_common::grant;
use patchbay_common::permit;
use tokio_util::sync::CancellationToken;

use super::{Grants, KnownPermit, Tally};
use crate::upstream::{Backend, Check, Settings, UpstreamSet};

/// One circuit in service.
#[derive(Debug)]
pub struct LiveCircuit {
    /// The fact.
    pub circuit: Circuit,
    /// Its slot.
    pub slot: Slot,
    /// Its id as text.
    pub id_text: String,
    /// Name of its permit cookie.
    pub permit_cookie: String,
    /// The permit used last.
    pub known_permit: KnownPermit,
    /// Who may use it.
    pub clients: ClientIps,
    /// Where its requests may go.
    pub upstreams: UpstreamSet,
    /// What it has carried.
    pub tally: Arc<Tally>,
    /// Who uses it by which grant. Of what is revoked this rules, not the circuit's own list: a
    /// peer that knows no lists leaves it out.
    pub grants: Arc<Grants>,
    /// Cancelled when the circuit closes; streams end with it.
    pub closed: CancellationToken,
}

impl LiveCircuit {
    /// Prepares a circuit. What is known of `previous`, the same circuit before a change, is kept:
    /// the health of its upstreams, and the token its streams wait on.
    pub(super) fn new(
        circuit: Circuit,
        slot: Slot,
        rules: &Arc<Settings>,
        previous: Option<&Self>,
    ) -> Self {
        let clients = ClientIps::parse(circuit.allowed_client_ips.as_deref());
        if !clients.refused().is_empty() {
            log::warn!(
                "circuit {}: entries of allowed_client_ips are not understood and admit nobody: {}",
                circuit.id,
                clients.refused().join(", ")
            );
        }
        let closed = previous.map_or_else(CancellationToken::new, |p| p.closed.clone());
        let grants = previous.map_or_else(
            || Arc::new(Grants::new(closed.clone())),
            |p| Arc::clone(&p.grants),
        );
        grants.revoke(&circuit.revocations, grant::now_millis() / 1_000);
        let backends: Vec<Backend> = circuit.route_info.iter().map(Backend::from).collect();
        let check = circuit.health_check.as_ref().and_then(Check::of);
        Self {
            id_text: circuit.id.to_string(),
            permit_cookie: permit::cookie_name(circuit.id),
            known_permit: KnownPermit::default(),
            clients,
            upstreams: UpstreamSet::new(&backends, check, rules, previous.map(|p| &p.upstreams)),
            tally: previous.map_or_else(Arc::default, |p| Arc::clone(&p.tally)),
            grants,
            closed,
            slot,
            circuit,
        }
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
    }
}
