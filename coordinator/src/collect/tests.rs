//! What is idle, and what becomes of it, over a store in memory and marks made up.

use std::collections::HashMap;
use std::sync::Mutex;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::event::Change;
use patchbay_common::id::{SessionId, WorkerId};
use patchbay_common::use_report::{CircuitUse, UseReport};
use patchbay_common::worker::Registration;

use super::*;
use crate::publish::{Bus, Outbox, Streams};
use crate::store::{NewCircuit, SlotWish, SqliteStore};

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn idle_is_what_was_not_used_for_longer_than_allowed() {
    let now = DateTime::from_timestamp(1_795_189_200, 0).unwrap();
    let ago = |seconds| now - TimeDelta::seconds(seconds);
    let of = |opened, mark| overdue(now, opened, read(mark), HOUR).map(|idle| idle.as_secs());
    // Never used: since the opening.
    assert_eq!(of(ago(3_600), None), None, "not yet longer");
    assert_eq!(of(ago(3_601), None), Some(3_601));
    // Used: since then.
    assert_eq!(of(ago(9_000), Some("1795189191.725447")), None);
    assert_eq!(of(ago(9_000), Some("1795185599.5")), Some(3_600));
    assert_eq!(of(ago(9_000), Some("1795185000")), Some(4_200));
    // No mark is older than the opening, and a clock may be ahead.
    assert_eq!(of(ago(60), Some("0")), None);
    assert_eq!(of(ago(9_000), Some("0")), Some(9_000));
    assert_eq!(of(ago(9_000), Some("1795189260")), None);
    for unreadable in ["", "soon", "nan", "inf", "-inf"] {
        assert_eq!(of(ago(9_000), Some(unreadable)), None, "{unreadable:?}");
    }
}

/// Marks made up; `None` while nobody answers.
struct MadeUp(Mutex<Option<HashMap<CircuitId, String>>>);

#[async_trait]
impl LastUses for MadeUp {
    async fn last_uses(&self, circuits: &[LongOpen]) -> Result<Vec<LastUse>, Unreadable> {
        let marks = self.0.lock().unwrap();
        let marks = marks.as_ref().ok_or(PublishError::Down("redis"))?;
        let mark = |circuit: &LongOpen| read(marks.get(&circuit.id).map(String::as_str));
        Ok(circuits.iter().map(mark).collect())
    }
}

struct Bench {
    store: Arc<dyn Store>,
    collector: Collector,
    worker: WorkerId,
    _outbox: Outbox,
}

impl Bench {
    async fn new(ports: (u16, u16)) -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory());
        store.migrate().await.unwrap();
        let (published, outbox) = Outbox::new();
        let streams = Arc::new(Streams::default());
        let bus = Bus::new(vec![streams as _], published, |_, _| {});
        let closer = Closer::new(Arc::clone(&store), bus);
        let registration = Registration {
            authority: "w".to_owned(),
            frontend_mode: FrontendMode::Port,
            protocol: Protocol::Http,
            hostname: "worker.example".to_owned(),
            tls_listen: false,
            tls_advertised: false,
            api_port: 10_201,
            accepted_traffics: vec![AppMode::Interactive, AppMode::Inference],
            filtered_apps_only: false,
            app_filters: Vec::new(),
            traefik_last_used_marker_path: None,
            port_range: Some(ports),
            wildcard_domain: None,
            wildcard_traffic_port: None,
            node_id: Some("node-1".to_owned()),
        };
        let worker = store.register_worker(&registration).await.unwrap().id;
        Self {
            collector: Collector::new(
                Arc::clone(&store),
                closer,
                Arc::new(ToldUses::new(Arc::clone(&store))),
                HOUR,
            ),
            store,
            worker,
            _outbox: outbox,
        }
    }

    async fn open(&self, protocol: Protocol, app_mode: AppMode) -> CircuitId {
        let new = NewCircuit {
            id: CircuitId::random(),
            worker: self.worker,
            slot: SlotWish::AnyPort,
            app: Some("jupyter".to_owned()),
            protocol,
            app_mode,
            envs: serde_json::Map::new(),
            arguments: None,
            open_to_public: false,
            allowed_client_ips: None,
            user_id: None,
            endpoint_id: None,
            runtime_variant: None,
            routes: Vec::new(),
            session_ids: vec![SessionId::random()],
            origin_request_id: None,
            by: Actor::Session,
            reuse: None,
        };
        self.store.open_circuit(&new).await.unwrap().circuit.id
    }

    async fn left(&self) -> Vec<CircuitId> {
        let held = self.store.worker_circuits(self.worker).await.unwrap();
        held.unwrap().circuits.iter().map(|c| c.id).collect()
    }
}

#[tokio::test]
async fn a_round_closes_the_idle_and_frees_their_slots() {
    let bench = Bench::new((10_205, 10_208)).await;
    let used = bench.open(Protocol::Http, AppMode::Interactive).await;
    let idle = bench.open(Protocol::Http, AppMode::Interactive).await;
    let shell = bench.open(Protocol::Vnc, AppMode::Interactive).await;
    let model = bench.open(Protocol::Http, AppMode::Inference).await;
    let later = Utc::now() + TimeDelta::hours(2);
    let just_now = (later.timestamp() - 5).to_string();
    let marks = MadeUp(Mutex::new(None));

    let silent = bench.collector.round(&marks, later).await;
    assert!(matches!(silent, Err(Unfinished::Marks(_))), "{silent:?}");
    assert_eq!(bench.left().await, [used, idle, shell, model]);

    *marks.0.lock().unwrap() = Some(HashMap::from([(used, just_now)]));
    bench.collector.round(&marks, later).await.unwrap();
    assert_eq!(bench.left().await, [used, model]);
    let told = bench.store.events_after(bench.worker, 4, 9).await.unwrap();
    let mut told: Vec<_> = told
        .unwrap()
        .into_iter()
        .map(|event| match event.event.change {
            Change::Removed(gone) => gone[0].id,
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort_by_key(|id| id.0);
    let mut both = [idle, shell];
    both.sort_by_key(|id| id.0);
    assert_eq!(told, both);
    // The worker was full.
    bench.open(Protocol::Http, AppMode::Interactive).await;
    bench.open(Protocol::Http, AppMode::Interactive).await;
}

#[tokio::test]
async fn a_round_looks_beyond_its_first_page() {
    let count = PAGE + 1;
    let last = 10_205 + u16::try_from(count).unwrap();
    let bench = Bench::new((10_205, last)).await;
    for _ in 0..count {
        bench.open(Protocol::Http, AppMode::Interactive).await;
    }
    let marks = MadeUp(Mutex::new(Some(HashMap::new())));
    bench.collector.round(&marks, Utc::now()).await.unwrap();
    assert_eq!(bench.left().await.len(), count, "none is old enough");
    let later = Utc::now() + TimeDelta::hours(2);
    bench.collector.round(&marks, later).await.unwrap();
    assert_eq!(bench.left().await, []);
}

#[tokio::test]
async fn without_redis_what_workers_tell_decides() {
    let bench = Bench::new((10_205, 10_208)).await;
    let used = bench.open(Protocol::Http, AppMode::Interactive).await;
    let idle = bench.open(Protocol::Http, AppMode::Interactive).await;
    let uses = ToldUses::new(Arc::clone(&bench.store));
    let later = Utc::now() + TimeDelta::hours(2);
    let told = |node, complete| {
        let report = UseReport {
            circuits: vec![CircuitUse {
                circuit: used,
                last: Utc::now(),
                requests: 2,
            }],
            complete,
        };
        let (store, worker) = (Arc::clone(&bench.store), bench.worker);
        async move { store.note_uses(worker, Some(node), &report).await.unwrap() }
    };

    // Nobody has told everything: the circuits may be in use.
    assert!(told("node-1", false).await);
    bench.collector.round(&uses, later).await.unwrap();
    assert_eq!(bench.left().await, [used, idle]);
    let known = bench.store.uses(&[idle, used]).await.unwrap();
    assert_eq!((known.len(), known[0].requests), (1, 2));

    // Now what is not named was not used.
    assert!(told("node-1", true).await);
    let soon = Utc::now() + TimeDelta::minutes(30);
    bench.collector.round(&uses, soon).await.unwrap();
    assert_eq!(bench.left().await, [used, idle]);
    bench.collector.round(&uses, later).await.unwrap();
    assert_eq!(bench.left().await, []);
    assert_eq!(bench.store.uses(&[used]).await.unwrap(), [], "gone with it");
}
