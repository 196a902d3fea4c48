//! Who holds which tunnel, where several gateways work together: what each of them tells the
//! coordinator, and what the coordinator makes of it.
//!
//! A gateway claims all it holds at once. Each holding has a *generation*, given by the coordinator
//! when it is granted and kept for as long as it lasts. Where two agents have come to hold one name
//! at two gateways that could not know of each other, the higher generation stands; of two without
//! one, the first that is told.

use serde::{Deserialize, Serialize, Serializer};

use super::{Kind, TunnelId};
use crate::config::Secret;
use crate::id::WorkerId;

/// Most tunnels a gateway may claim.
pub const MOST_HOLDINGS: usize = 10_000;
/// Seconds a claim stands without being repeated.
pub const CLAIM_SECONDS: i64 = 30;

/// An agent's hold on a tunnel at one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The agent, and the name of the token it registered with: who it is.
    pub agent: String,
    /// What it carries.
    pub kind: Kind,
    /// Others may hold it too.
    #[serde(default)]
    pub shared: bool,
    /// What visitors are known by: a digest of their token, in hexadecimal.
    #[serde(default, serialize_with = "exposed_if_any")]
    pub visitors: Option<Secret>,
    /// Since which generation; 0 if it was never granted.
    #[serde(default)]
    pub generation: u64,
}

/// How other gateways reach one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayAddress {
    /// Base URL.
    pub url: String,
    /// What they have to show; made up by the gateway at its start.
    #[serde(serialize_with = "exposed")]
    pub key: Secret,
}

/// Between gateways and coordinator, and nowhere else, a secret is written.
fn exposed<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

fn exposed_if_any<S: Serializer>(
    secret: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => exposed(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// All that a gateway holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// How it is reached by others.
    pub relay: Option<RelayAddress>,
    /// What it holds.
    pub tunnels: Vec<Holding>,
}

/// What one gateway has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Its worker.
    pub worker: WorkerId,
    /// Its name among the worker's nodes.
    pub node: String,
    /// When it last changed.
    pub generation: u64,
    /// What it holds.
    #[serde(flatten)]
    pub claim: Claim,
}

/// All that is known of all gateways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The highest generation there is.
    pub generation: u64,
    /// What each has told.
    pub gateways: Vec<Told>,
}

/// What became of a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// What stands, with its generations.
    pub granted: Vec<Holding>,
    /// What does not, with who holds it.
    pub refused: Vec<Refused>,
}

/// A hold that does not stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Who claimed it.
    pub agent: String,
    /// Who holds it.
    pub holder: String,
    /// Since which generation.
    pub generation: u64,
}

impl Holdings {
    /// Takes what a gateway claims in place of what it told before. Claims of one store are settled
    /// one after the other. True with the answer if anything has changed.
    pub fn settle(&mut self, worker: WorkerId, node: &str, mut claim: Claim) -> (Settled, bool) {
        claim.tunnels.truncate(MOST_HOLDINGS);
        let is_own = |told: &Told| told.worker == worker && told.node == node;
        let before = self.gateways.iter().position(is_own);
        let before = before.map(|place| self.gateways.swap_remove(place));
        let claimed = claim.tunnels.iter().map(|one| one.generation).max();
        let next = self.generation.max(claimed.unwrap_or(0)) + 1;
        let mut settled = Settled::default();
        let mut displaced = false;
        for mut holding in claim.tunnels {
            if let Some(rival) = self.rival(&holding) {
                settled.refused.push(Refused {
                    tunnel: holding.tunnel,
                    agent: holding.agent,
                    holder: rival.agent.clone(),
                    generation: rival.generation,
                });
                continue;
            }
            displaced |= self.displace(&holding, next);
            if holding.generation == 0 {
                holding.generation = next;
            }
            settled.granted.push(holding);
        }
        let claim = Claim {
            relay: claim.relay,
            tunnels: settled.granted.clone(),
        };
        let changed = displaced || before.as_ref().is_none_or(|told| told.claim != claim);
        let generation = match before {
            Some(told) if !changed => told.generation,
            _ => next,
        };
        self.generation = self.generation.max(generation);
        self.gateways.push(Told {
            worker,
            node: node.to_owned(),
            generation,
            claim,
        });
        (settled, changed)
    }

    /// Who else holds the name, and may go on doing so.
    fn rival(&self, holding: &Holding) -> Option<&Holding> {
        let all = self.gateways.iter().flat_map(|told| &told.claim.tunnels);
        all.filter(|other| excludes(other, holding))
            .find(|other| other.generation >= holding.generation)
    }

    /// Takes the name from those whose hold is older than this one's grant.
    fn displace(&mut self, holding: &Holding, next: u64) -> bool {
        let mut any = false;
        for told in &mut self.gateways {
            let count = told.claim.tunnels.len();
            told.claim.tunnels.retain(|one| !excludes(one, holding));
            if told.claim.tunnels.len() < count {
                told.generation = next;
                any = true;
            }
        }
        any
    }
}

/// Whether two holds of one name cannot stand beside each other.
fn excludes(one: &Holding, other: &Holding) -> bool {
    let may_share = one.shared && other.shared && one.visitors == other.visitors;
    one.tunnel == other.tunnel && one.agent != other.agent && !may_share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(tunnel: &str, agent: &str, generation: u64) -> Holding {
        Holding {
            tunnel: tunnel.parse().unwrap(),
            agent: agent.into(),
            kind: Kind::Http,
            shared: tunnel == "pool",
            visitors: None,
            generation,
        }
    }

    fn claim(tunnels: Vec<Holding>) -> Claim {
        Claim {
            relay: None,
            tunnels,
        }
    }

    #[test]
    fn a_name_has_one_owner_and_he_may_be_at_several_gateways() {
        let (here, there) = (WorkerId::random(), WorkerId::random());
        let mut all = Holdings::default();
        let web = |agent| claim(vec![holding("web", agent, 0), holding("pool", agent, 0)]);
        let (settled, changed) = all.settle(here, "n", web("laptop"));
        assert!(changed);
        assert_eq!(settled.granted[0].generation, 1);
        let (settled, _) = all.settle(there, "n", web("laptop"));
        assert_eq!((settled.granted.len(), settled.refused.len()), (2, 0));
        let (settled, _) = all.settle(there, "other-node", web("thief"));
        assert_eq!(settled.granted[0].tunnel.as_str(), "pool");
        assert_eq!(settled.refused[0].holder, "laptop");
        // Repeated it changes nothing, and keeps its generation.
        let generation = all.generation;
        let again = claim(vec![
            holding("web", "laptop", 1),
            holding("pool", "laptop", 1),
        ]);
        let (settled, changed) = all.settle(here, "n", again);
        assert!(!changed);
        assert_eq!(settled.granted[0].generation, 1);
        assert_eq!(all.generation, generation);
        // Let go of everywhere, it is free.
        all.settle(here, "n", Claim::default());
        all.settle(there, "n", Claim::default());
        let (settled, _) = all.settle(there, "other-node", web("thief"));
        assert!(settled.refused.is_empty());
    }

    #[test]
    fn of_two_owners_the_later_grant_stands() {
        let (here, there) = (WorkerId::random(), WorkerId::random());
        // Cut off from the store, both were granted the name by stores that did not agree.
        for (first, second) in [(3, 8), (8, 3)] {
            let mut all = Holdings::default();
            let name = |generation: u64| format!("agent-{generation}");
            let of = |generation| claim(vec![holding("web", &name(generation), generation)]);
            all.settle(here, "n", of(first));
            all.settle(there, "n", of(second));
            let standing = all.gateways.iter().flat_map(|told| &told.claim.tunnels);
            let standing: Vec<_> = standing.map(|one| one.agent.as_str()).collect();
            assert_eq!(standing, ["agent-8"], "{first} then {second}");
            assert!(all.generation > 8);
        }
        // Of two that were never granted, the first.
        let mut all = Holdings::default();
        all.settle(here, "n", claim(vec![holding("web", "one", 0)]));
        let (settled, _) = all.settle(there, "n", claim(vec![holding("web", "two", 0)]));
        assert_eq!(settled.refused[0].holder, "one");
    }
}
