//! The room against a coordinator and a Redis of its own.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::event::{CHANNEL, Change, CircuitEvent, FROM_COORDINATOR, Message};
use patchbay_common::id::SessionId;
use redis::AsyncCommands;

use super::trial::{FakeCoordinator, PrivateRedis, circuit, config, eventually};
use super::{Bus, Everywhere, Link, RedisState, Serving};
use crate::table::Table;

struct Room {
    link: Link,
    table: Arc<Table>,
}

impl Room {
    async fn start(coordinator: &FakeCoordinator, more: &str) -> Self {
        let room = Self::begin(coordinator, more);
        room.link.ready().await;
        room
    }

    fn begin(coordinator: &FakeCoordinator, more: &str) -> Self {
        let table = Arc::new(Table::new());
        let config = config(coordinator.address, more);
        let link = Link::start(&config, Arc::clone(&table), Arc::new(Everywhere)).unwrap();
        Self { link, table }
    }

    async fn serves(&self, port: u16, whether: bool) {
        let what = format!("port {port} served: {whether}");
        eventually(&what, || self.table.at_port(port).is_some() == whether).await;
    }
}

fn redis_section(redis: &PrivateRedis) -> String {
    let port = redis.port;
    format!("[redis]\naddr = {{ host = \"127.0.0.1\", port = {port} }}\n")
}

async fn publish(redis: &PrivateRedis, event: CircuitEvent, generation: Option<u64>) {
    let message = Message {
        event,
        source: FROM_COORDINATOR.into(),
        generation,
        request_id: Some("req-1".into()),
    };
    let mut connection = redis.connect().await;
    let heard: usize = connection
        .publish(CHANNEL, message.to_wire().unwrap())
        .await
        .unwrap();
    assert!(heard > 0, "nobody is subscribed");
}

#[tokio::test]
async fn registers_fetches_and_follows_the_stream() {
    let coordinator = FakeCoordinator::start().await;
    let (known, new) = (circuit(10_205), circuit(10_206));
    coordinator.commit(Change::Created(vec![known.clone()]));
    let room = Room::start(&coordinator, "").await;
    room.serves(10_205, true).await;
    {
        let books = coordinator.books();
        let (call, noted) = &books.calls[0];
        assert_eq!(call, "PUT /api/worker");
        assert_eq!(noted["x-backendai-token"], "api");
        assert_eq!(
            noted["x-backend-request-id"],
            noted["x-backendai-requestid"]
        );
        assert_eq!(
            noted["body"]["port_range"],
            serde_json::json!([10_205, 10_300])
        );
        assert_eq!(noted["body"]["node_id"], "i-test");
    }
    eventually("the stream is open", || coordinator.streams() == 1).await;
    let generation = coordinator.commit_and_stream(Change::Created(vec![new]));
    room.serves(10_206, true).await;
    eventually("it is acknowledged", || {
        coordinator.books().acknowledged == [generation]
    })
    .await;
    coordinator.commit_and_stream(Change::Removed(vec![known]));
    room.serves(10_205, false).await;
    let status = room.link.status();
    assert_eq!((status.bus(), status.generation), (Bus::Stream, Some(3)));
}

#[tokio::test]
async fn the_heartbeat_names_the_node_and_repairs_what_was_lost() {
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, "").await;
    let worker = room.link.status().worker.unwrap();
    let call = format!("PATCH /api/worker/{worker}");
    // Nothing is sent on the stream.
    let (generation, _) = coordinator.commit(Change::Created(vec![circuit(10_205)]));
    room.serves(10_205, true).await;
    // Its opener waits all the same.
    eventually("it is acknowledged", || {
        coordinator.books().acknowledged == [generation]
    })
    .await;
    let books = coordinator.books();
    let (_, noted) = books.calls.iter().find(|(name, _)| *name == call).unwrap();
    assert_eq!(noted["content-length"], "0");
    assert_eq!(noted["x-patchbay-node"], "i-test");
}

#[tokio::test]
async fn a_forgotten_worker_registers_again() {
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, "").await;
    let before = room.link.status().worker;
    coordinator.books().worker = None;
    eventually("it has a new key", || {
        let now = room.link.status().worker;
        now != before && now == coordinator.books().worker
    })
    .await;
    coordinator.commit(Change::Created(vec![circuit(10_205)]));
    room.serves(10_205, true).await;
}

#[tokio::test]
async fn a_killed_coordinator_is_waited_for_and_caught_up_with() {
    let mut coordinator = FakeCoordinator::start().await;
    let (stays, goes, comes) = (circuit(10_205), circuit(10_206), circuit(10_207));
    coordinator.commit(Change::Created(vec![stays, goes.clone()]));
    let room = Room::start(&coordinator, "").await;
    coordinator.kill().await;
    eventually("the loss is noticed", || {
        !room.link.status().coordinator_reach.healthy
    })
    .await;
    room.serves(10_205, true).await;
    coordinator.commit(Change::Removed(vec![goes]));
    coordinator.commit(Change::Created(vec![comes]));
    coordinator.restart().await;
    let back = tokio::time::Instant::now();
    room.serves(10_207, true).await;
    room.serves(10_206, false).await;
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn a_resync_and_an_unreadable_event_lead_to_a_fetch() {
    let coordinator = FakeCoordinator::start().await;
    // Heartbeats must not do the work.
    let room = Room::start(&coordinator, "[sync]\nrefetch_interval = 3600\n").await;
    eventually("the stream is open", || coordinator.streams() == 1).await;
    for (port, text) in [
        (10_205, "event: resync\ndata: {}\n\n"),
        (
            10_206,
            "event: appproxy_circuit_created_event\ndata: nonsense\n\n",
        ),
    ] {
        coordinator.commit(Change::Created(vec![circuit(port)]));
        coordinator.send(text);
        room.serves(port, true).await;
    }
}

#[tokio::test]
async fn a_wrong_secret_is_no_end_and_a_late_coordinator_no_failure() {
    let coordinator = FakeCoordinator::start().await;
    coordinator.books().refusing = Some(503);
    let room = Room::begin(&coordinator, "");
    eventually("it tried twice", || {
        coordinator.called("PUT /api/worker") >= 2
    })
    .await;
    assert!(!room.link.status().ready);
    coordinator.books().refusing = None;
    room.link.ready().await;
}

#[tokio::test]
async fn leaving_says_goodbye_and_ends_the_heartbeat() {
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, "").await;
    let worker = room.link.status().worker.unwrap();
    room.link.leave().await;
    assert_eq!(
        coordinator.called(&format!("DELETE /api/worker/{worker}")),
        1
    );
    eventually("the stream is open", || coordinator.streams() == 1).await;
    // Changes are still heard while the process drains.
    coordinator.commit_and_stream(Change::Created(vec![circuit(10_205)]));
    room.serves(10_205, true).await;
    room.link.stop().await;
    eventually("the stream is closed", || coordinator.streams() == 0).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_beyond_what_is_missing() {
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, "").await;
    eventually("the stream is open", || coordinator.streams() == 1).await;
    // The first is committed but not sent: an acknowledgement of the second would cover it.
    coordinator.commit(Change::Created(vec![circuit(10_205)]));
    coordinator.commit_and_stream(Change::Created(vec![circuit(10_206)]));
    room.serves(10_206, true).await;
    eventually("both are acknowledged", || {
        !coordinator.books().acknowledged.is_empty()
    })
    .await;
    assert!(room.table.at_port(10_205).is_some());
}

struct Deaf;

impl Serving for Deaf {
    fn serves(&self, _: &patchbay_common::circuit::Slot) -> bool {
        false
    }
}

#[tokio::test]
async fn a_port_that_is_not_bound_is_not_acknowledged() {
    let coordinator = FakeCoordinator::start().await;
    let table = Arc::new(Table::new());
    let config = config(coordinator.address, "");
    let link = Link::start(&config, Arc::clone(&table), Arc::new(Deaf)).unwrap();
    link.ready().await;
    eventually("the stream is open", || coordinator.streams() == 1).await;
    coordinator.commit_and_stream(Change::Created(vec![circuit(10_205)]));
    eventually("it is in the table", || table.len() == 1).await;
    // A second one, served nowhere either, comes after it: no acknowledgement is under way.
    coordinator.commit_and_stream(Change::Created(vec![circuit(10_206)]));
    eventually("it is in the table", || table.len() == 2).await;
    assert!(coordinator.books().acknowledged.is_empty());
}

#[tokio::test]
async fn redis_carries_events_and_acknowledgements_and_the_stream_stands_in() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, &redis_section(&redis)).await;
    let current = || room.link.status().redis == Some(RedisState::Current);
    eventually("Redis is current", current).await;

    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let mut listener = client.get_async_pubsub().await.unwrap();
    listener.subscribe(CHANNEL).await.unwrap();
    let (generation, event) = coordinator.commit(Change::Created(vec![circuit(10_205)]));
    publish(&redis, event.clone(), Some(generation)).await;
    let mut heard = listener.into_on_message();
    let mut added = None;
    while let Some(message) = futures_util::StreamExt::next(&mut heard).await {
        let message = Message::from_wire(message.get_payload_bytes())
            .unwrap()
            .unwrap();
        if let Change::Added(circuits) = message.event.change {
            added = Some((circuits, message.request_id));
            break;
        }
    }
    let Change::Created(created) = event.change else {
        unreachable!()
    };
    assert_eq!(added, Some((created, Some("req-1".into()))));
    assert!(room.table.at_port(10_205).is_some());
    drop(heard);

    // Redis goes: the stream takes over, what is changed meanwhile arrives.
    redis.stop().await;
    eventually("the stream stands in", || coordinator.streams() == 1).await;
    let generation = coordinator.commit_and_stream(Change::Created(vec![circuit(10_206)]));
    room.serves(10_206, true).await;
    eventually("acknowledged by call", || {
        coordinator.books().acknowledged.contains(&generation)
    })
    .await;

    // Redis comes back: the stream is given up, Redis carries again.
    let redis = PrivateRedis::start(port).await.unwrap();
    let back = tokio::time::Instant::now();
    eventually("Redis is current again", current).await;
    assert!(
        back.elapsed() < Duration::from_secs(2),
        "{:?}",
        back.elapsed()
    );
    eventually("the stream is given up", || coordinator.streams() == 0).await;
    let (generation, event) = coordinator.commit(Change::Created(vec![circuit(10_207)]));
    publish(&redis, event, Some(generation)).await;
    room.serves(10_207, true).await;
}

#[tokio::test]
async fn a_killed_subscription_comes_back_and_fetches() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, &redis_section(&redis)).await;
    let current = || room.link.status().redis == Some(RedisState::Current);
    eventually("Redis is current", current).await;
    let before = room.link.status().fetches;
    coordinator.commit(Change::Created(vec![circuit(10_205)]));
    let mut connection = redis.connect().await;
    let _: () = redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "pubsub"])
        .query_async(&mut connection)
        .await
        .unwrap();
    room.serves(10_205, true).await;
    eventually("Redis is current again", current).await;
    assert!(room.link.status().fetches > before);
}

#[tokio::test]
async fn a_redis_that_falls_silent_is_noticed() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let coordinator = FakeCoordinator::start().await;
    let room = Room::start(&coordinator, &redis_section(&redis)).await;
    let current = || room.link.status().redis == Some(RedisState::Current);
    eventually("Redis is current", current).await;
    redis.signal("STOP").await;
    let silent = tokio::time::Instant::now();
    eventually("the stream stands in", || coordinator.streams() == 1).await;
    assert!(silent.elapsed() < Duration::from_secs(6));
    redis.signal("CONT").await;
    eventually("Redis is current again", current).await;
}

#[tokio::test]
async fn redis_is_found_through_sentinels() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let sentinel = PrivateRedis::sentinel(PrivateRedis::free_port().await, port).await;
    let sentinel = sentinel.unwrap();
    let coordinator = FakeCoordinator::start().await;
    let nobody = PrivateRedis::free_port().await;
    let section = format!(
        "[redis]\nservice_name = \"mymaster\"\nsentinel = [\
         {{ host = \"127.0.0.1\", port = {nobody} }}, \
         {{ host = \"127.0.0.1\", port = {} }}]\n",
        sentinel.port
    );
    let room = Room::start(&coordinator, &section).await;
    let current = || room.link.status().redis == Some(RedisState::Current);
    eventually("Redis is current", current).await;
    let (generation, event) = coordinator.commit(Change::Created(vec![circuit(10_205)]));
    publish(&redis, event, Some(generation)).await;
    room.serves(10_205, true).await;
}

#[tokio::test]
async fn a_python_coordinator_is_followed_without_generations() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let coordinator = FakeCoordinator::start().await;
    coordinator.books().python = true;
    let room = Room::start(&coordinator, &redis_section(&redis)).await;
    let current = || room.link.status().redis == Some(RedisState::Current);
    eventually("Redis is current", current).await;
    let circuit = circuit(10_205);
    let (_, event) = coordinator.commit(Change::Created(vec![circuit.clone()]));
    publish(&redis, event, None).await;
    room.serves(10_205, true).await;
    let (_, event) = coordinator.commit(Change::Removed(vec![circuit]));
    publish(&redis, event, None).await;
    room.serves(10_205, false).await;
    assert_eq!(room.link.status().generation, None);
}

#[tokio::test]
async fn activity_is_written_in_the_forms_of_the_contract() {
    let port = PrivateRedis::free_port().await;
    let Some(redis) = PrivateRedis::start(port).await else {
        return;
    };
    let coordinator = FakeCoordinator::start().await;
    coordinator.commit(Change::Created(vec![circuit(10_205)]));
    let more = redis_section(&redis) + "[sync]\nactivity_interval = 0.05\n";
    let room = Room::start(&coordinator, &more).await;
    let live = room.table.at_port(10_205).unwrap();
    let session = SessionId::random();
    for _ in 0..3 {
        room.link.activity().request(&live, session);
    }
    room.link.activity().stream_alive(&live, session);
    // What is left is written on the way out.
    room.link.stop().await;
    assert_eq!(room.link.activity().queued(), 0);
    let mut connection = redis.connect().await;
    let _: () = redis::cmd("SELECT")
        .arg(2)
        .query_async(&mut connection)
        .await
        .unwrap();
    let id = live.circuit.id;
    let requests: u64 = connection
        .get(format!("circuit.{id}.requests"))
        .await
        .unwrap();
    assert_eq!(requests, 3);
    let keep: i64 = connection
        .ttl(format!("circuit.{id}.requests"))
        .await
        .unwrap();
    assert!((3_590..=3_600).contains(&keep), "{keep}");
    for key in [
        format!("circuit.{id}.last_access"),
        format!("session.{session}.last_access"),
    ] {
        let last: String = connection.get(&key).await.unwrap();
        assert!(
            last.contains('.') && last.parse::<f64>().unwrap() > 1.7e9,
            "{last}"
        );
        let keep: i64 = connection.ttl(&key).await.unwrap();
        assert!((172_790..=172_800).contains(&keep), "{keep}");
    }
}
