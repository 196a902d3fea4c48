//! What is held at other gateways, as the coordinator tells, and what it is told of ours.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use patchbay_common::config::Secret;
use patchbay_common::id::WorkerId;
use patchbay_common::tunnel::{
    AgentId, Claim, Holding, Holdings, Offer, RelayAddress, Settled, TunnelId,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::TunnelError;
use super::registry::Registry;
use super::relay::Relays;
use super::session::Session;
use super::settings::Settings;
use super::visitor::VisitorKey;

/// A hold on a tunnel at another gateway.
#[derive(Debug)]
pub(super) struct Remote {
    /// Its worker.
    pub(super) worker: WorkerId,
    /// How it is reached, if it is.
    pub(super) relay: Option<RelayAddress>,
    /// What is held.
    pub(super) holding: Holding,
}

/// All that is held elsewhere.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// How others reach us, if they do.
    relay: Option<RelayAddress>,
    pub(super) relays: Relays,
    by_tunnel: ArcSwap<HashMap<TunnelId, Vec<Arc<Remote>>>>,
}

/// Who an agent is to other gateways.
pub(super) fn holder(agent: &AgentId, token: &str) -> String {
    format!("{token}/{agent}")
}

impl Elsewhere {
    pub(super) fn new(settings: &Settings) -> Self {
        let relay = settings.relay.clone();
        Self {
            relay: relay.map(|url| RelayAddress {
                url,
                // Two random UUIDs: 244 bits nobody can guess.
                key: Secret::new(format!(
                    "{}{}",
                    Uuid::new_v4().simple(),
                    Uuid::new_v4().simple()
                )),
            }),
            relays: Relays::new(settings),
            by_tunnel: ArcSwap::default(),
        }
    }

    /// Whether another gateway has shown what it was told to.
    pub(super) fn admits(&self, shown: &str) -> bool {
        use subtle::ConstantTimeEq as _;
        let key = self.relay.as_ref().map(|relay| relay.key.expose());
        key.is_some_and(|key| key.as_bytes().ct_eq(shown.as_bytes()).into())
    }
}

impl Registry {
    /// Turns over when what [`Registry::claim`] says has changed.
    pub fn claims_changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All that is held here.
    pub fn claim(&self) -> Claim {
        let mut tunnels = Vec::new();
        for session in self.sessions() {
            let agent = holder(&session.agent, &session.token);
            tunnels.extend(session.offers.iter().map(|offer| Holding {
                tunnel: offer.id.clone(),
                agent: agent.clone(),
                kind: offer.kind,
                shared: self.settings.is_shared(&offer.id),
                visitors: told_visitors(offer),
                generation: session.granted(&offer.id),
            }));
        }
        // In one order, so that the same is told in the same words.
        tunnels.sort_by(|a, b| (&a.tunnel, &a.agent).cmp(&(&b.tunnel, &b.agent)));
        Claim {
            relay: self.elsewhere.relay.clone(),
            tunnels,
        }
    }

    /// The coordinator has settled what was claimed: agents whose names are held by others at
    /// other gateways are sent away.
    pub fn settle(&self, settled: &Settled) {
        for holding in &settled.granted {
            for session in self.holding(&holding.tunnel, &holding.agent) {
                session.grant(&holding.tunnel, holding.generation);
            }
        }
        for refused in &settled.refused {
            for session in self.holding(&refused.tunnel, &refused.agent) {
                log::warn!(
                    "agent {} is sent away: tunnel {} is held at another gateway by {} (generation {})",
                    session.agent,
                    refused.tunnel,
                    refused.holder,
                    refused.generation
                );
                self.end(&session);
            }
        }
    }

    fn holding(&self, tunnel: &TunnelId, agent: &str) -> Vec<Arc<Session>> {
        let lent = self.tunnel(tunnel);
        let holders = lent.map(|lent| lent.holders()).unwrap_or_default();
        let all = holders.iter().cloned();
        all.filter(|session| holder(&session.agent, &session.token) == agent)
            .collect()
    }

    /// Takes what all gateways hold; `own` names us among them.
    pub fn learn(&self, holdings: Holdings, own: (WorkerId, &str)) {
        let mut by_tunnel: HashMap<TunnelId, Vec<Arc<Remote>>> = HashMap::new();
        let others = holdings.gateways.into_iter();
        for told in others.filter(|told| (told.worker, told.node.as_str()) != own) {
            for holding in told.claim.tunnels {
                let remote = Arc::new(Remote {
                    worker: told.worker,
                    relay: told.claim.relay.clone(),
                    holding,
                });
                let tunnel = remote.holding.tunnel.clone();
                by_tunnel.entry(tunnel).or_default().push(remote);
            }
        }
        for (id, remotes) in &mut by_tunnel {
            remotes.sort_by_key(|one| std::cmp::Reverse(one.holding.generation));
            let reachable = remotes.iter().filter(|one| one.relay.is_some());
            let reachable = Arc::new(reachable.cloned().collect());
            self.known(id).elsewhere.store(reachable);
        }
        for lent in self.tunnels() {
            if !by_tunnel.contains_key(&lent.id) && !lent.elsewhere.load().is_empty() {
                lent.elsewhere.store(Arc::default());
            }
        }
        let urls = by_tunnel.values().flatten();
        let urls = urls
            .filter_map(|one| one.relay.as_ref())
            .map(|one| one.url.as_str());
        self.elsewhere.relays.keep(&urls.collect());
        self.elsewhere.by_tunnel.store(Arc::new(by_tunnel));
    }

    /// Whether this offer goes together with what is held elsewhere.
    pub(super) fn may_hold_beside(&self, offer: &Offer, agent: &str) -> Result<(), TunnelError> {
        let by_tunnel = self.elsewhere.by_tunnel.load();
        let others = by_tunnel.get(&offer.id).map_or(&[][..], Vec::as_slice);
        let shared = self.settings.is_shared(&offer.id);
        for other in others.iter().filter(|other| other.holding.agent != agent) {
            if !(shared && other.holding.shared) {
                return Err(TunnelError::Held(offer.id.clone()));
            }
            if other.holding.visitors != told_visitors(offer) || other.holding.kind != offer.kind {
                return Err(TunnelError::Differs(offer.id.clone()));
            }
        }
        Ok(())
    }
}

fn told_visitors(offer: &Offer) -> Option<Secret> {
    let token = offer.visitor_token.as_ref();
    token.map(|token| VisitorKey::of(token).told())
}
