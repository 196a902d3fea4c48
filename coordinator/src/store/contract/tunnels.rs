//! Who holds which tunnel, as several coordinators see it.

use patchbay_common::config::Secret;
use patchbay_common::id::WorkerId;
use patchbay_common::tunnel::{Claim, Holding, Kind, RelayAddress};

use super::{Bench, port_worker};

fn claim(agent: &str, generation: u64) -> Claim {
    Claim {
        relay: Some(RelayAddress {
            url: "http://10.0.0.1:8080".into(),
            key: Secret::new(format!("key of {agent}")),
        }),
        tunnels: vec![Holding {
            tunnel: "web".parse().unwrap(),
            agent: agent.into(),
            kind: Kind::Http,
            shared: false,
            visitors: Some(Secret::new("digest")),
            generation,
        }],
    }
}

pub(super) async fn a_tunnel_has_one_owner(bench: Bench) {
    let (store, other) = (&*bench.store, &*bench.other);
    let mut workers = Vec::new();
    for name in ["one", "two"] {
        let registration = port_worker(name, (10_205, 10_209));
        workers.push(store.register_worker(&registration).await.unwrap().id);
    }
    let mine = claim("a", 0);
    let stranger = store.claim_tunnels(WorkerId::random(), "n", &mine).await;
    assert_eq!(stranger.unwrap(), None);
    let claiming = |worker, agent, generation| async move {
        let claim = claim(agent, generation);
        let settled = other.claim_tunnels(worker, "n", &claim).await;
        settled.unwrap().unwrap()
    };
    let granted = claiming(workers[0], "laptop", 0).await;
    assert_eq!(granted.granted[0].generation, 1);
    let refused = claiming(workers[1], "thief", 0).await;
    assert_eq!(refused.refused[0].holder, "laptop");
    let all = store.holdings().await.unwrap();
    let told = all.gateways.iter().find(|told| told.worker == workers[0]);
    let told = told.unwrap();
    let mut expected = claim("laptop", 1);
    assert_eq!(told.claim, expected);
    // Both came to be owners while they could not ask: the later grant stands.
    claiming(workers[1], "thief", 9).await;
    let all = store.holdings().await.unwrap();
    assert!(all.generation >= 9, "{}", all.generation);
    expected.tunnels.clear();
    let told = all.gateways.iter().find(|told| told.worker == workers[0]);
    assert_eq!(told.unwrap().claim, expected);
    let refused = claiming(workers[0], "laptop", 1).await;
    assert_eq!(refused.refused[0].generation, 9);
    // Who has been silent for long holds nothing.
    let late = "UPDATE patchbay_tunnels SET told_at = ";
    let server = format!("{late} now() - interval '1 minute'");
    let file = format!("{late} told_at - 60000000");
    if bench
        .behind_its_back(if bench.is_server() { &server } else { &file })
        .await
    {
        assert!(store.holdings().await.unwrap().gateways.is_empty());
        let granted = claiming(workers[0], "laptop", 1).await;
        assert!(granted.refused.is_empty());
    }
}

pub(super) async fn claims_of_one_name_at_once_have_one_winner(bench: Bench) {
    let store = &*bench.store;
    let mut workers = Vec::new();
    for number in 0..8 {
        let registration = port_worker(&format!("w{number}"), (10_205, 10_209));
        workers.push(store.register_worker(&registration).await.unwrap().id);
    }
    let claims = workers
        .iter()
        .enumerate()
        .map(|(number, worker)| async move {
            let agent = format!("agent-{number}");
            store.claim_tunnels(*worker, "n", &claim(&agent, 0)).await
        });
    let settled = futures_util::future::join_all(claims).await;
    let granted = settled
        .into_iter()
        .map(|one| one.unwrap().unwrap().granted.len());
    assert_eq!(granted.sum::<usize>(), 1);
}
