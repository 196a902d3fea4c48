//! Services of the gateway.

use std::time::Duration;

use chrono::Utc;
use patchbay_common::gateway::{Definition, Origin};
use serde_json::json;

use super::{Bench, asked};
use crate::store::{Actor, Cause, LoggedService, Reason, ServiceChange, ServiceFilter, Store};

fn to(port: u16) -> Option<Definition> {
    let body = json!({
        "service": {"instances": [format!("127.0.0.1:{port}")]},
        "routes": {"shop": {"path": "/shop/*", "service": "shop"}},
    });
    Some(serde_json::from_value(body).unwrap())
}

fn change(name: &str, origin: Origin, definition: Option<Definition>) -> ServiceChange {
    ServiceChange {
        name: name.to_owned(),
        origin,
        definition,
    }
}

fn docker() -> Origin {
    Origin::Docker("local".to_owned())
}

async fn put(store: &dyn Store, name: &str, port: u16) -> Vec<LoggedService> {
    let change = change(name, Origin::Api, to(port));
    store
        .change_services(&[change], &asked("req-1"))
        .await
        .unwrap()
}

pub(super) async fn a_service_comes_back_as_it_was_put(bench: Bench) {
    let store = &*bench.store;
    let empty = store.services(None).await.unwrap();
    assert_eq!((empty.services.len(), empty.generation), (0, 0));
    let put_one = put(store, "shop", 1).await;
    assert_eq!(put_one[0].published.generation, 1);
    put(&*bench.other, "till", 2).await;
    let list = store.services(None).await.unwrap();
    assert_eq!((list.services.len(), list.generation), (2, 2));
    let shop = &list.services[0];
    assert_eq!(shop.published.name, "shop");
    assert_eq!(shop.published.definition, to(1));
    assert_eq!(shop.published.generation, 1);
    let found = change("shop", docker(), to(3));
    let both = [change("shop", Origin::Api, to(4)), found];
    let changed = store.change_services(&both, &asked("req-2")).await.unwrap();
    assert_eq!(changed.len(), 2);
    let shops = store.services(Some("shop")).await.unwrap();
    assert_eq!((shops.services.len(), shops.generation), (2, 4));
    let gone = change("shop", Origin::Api, None);
    store
        .change_services(std::slice::from_ref(&gone), &asked("req-3"))
        .await
        .unwrap();
    let left = store.services(Some("shop")).await.unwrap();
    assert_eq!(left.services.len(), 1);
    assert_eq!(left.services[0].published.origin, docker());
    // What is so already is no change.
    for same in [gone, change("shop", docker(), to(3))] {
        let none = store.change_services(&[same], &asked("req-4")).await;
        assert_eq!(none.unwrap(), Vec::new());
    }
    assert_eq!(store.services_generation().await.unwrap(), 5);
}

pub(super) async fn every_change_has_a_number_and_a_reason(bench: Bench) {
    let store = &*bench.store;
    for port in 1..=4 {
        put(store, "shop", port).await;
    }
    let found = Cause {
        actor: Actor::Coordinator,
        reason: Reason::Discovered,
        detail: Some("docker local".into()),
        request_id: None,
    };
    let gone = [
        change("shop", Origin::Api, None),
        change("till", docker(), to(9)),
    ];
    store.change_services(&gone, &found).await.unwrap();
    let changes = store.service_changes_after(0, 100).await.unwrap().unwrap();
    let numbers: Vec<u64> = changes.iter().map(|one| one.published.generation).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(changes[3].published.definition, to(4));
    assert_eq!(changes[3].published.request_id.as_deref(), Some("req-1"));
    assert_eq!(changes[4].published.definition, None);
    assert_eq!(changes[5].cause, found);
    let some = store.service_changes_after(2, 2).await.unwrap().unwrap();
    assert_eq!(some.len(), 2);
    assert_eq!(some[0], changes[2]);
    let none = store.service_changes_after(6, 2).await.unwrap();
    assert_eq!(none, Some(Vec::new()));
    assert_eq!(store.service_changes_after(7, 2).await.unwrap(), None);
    let mut filter = ServiceFilter {
        name: Some("shop".into()),
        ..ServiceFilter::default()
    };
    let newest = store.service_changes(&filter, 2).await.unwrap();
    let numbers = |page: &[LoggedService]| -> Vec<u64> {
        page.iter().map(|one| one.published.generation).collect()
    };
    assert_eq!(numbers(&newest), [5, 4]);
    filter.before = Some(4);
    let older = store.service_changes(&filter, 9).await.unwrap();
    assert_eq!(numbers(&older), [3, 2, 1]);
    filter.until = Some(changes[0].at);
    assert_eq!(store.service_changes(&filter, 9).await.unwrap(), Vec::new());
    filter.until = None;
    filter.since = Some(changes[0].at);
    assert_eq!(store.service_changes(&filter, 9).await.unwrap().len(), 3);
}

pub(super) async fn changers_at_once_get_different_numbers(bench: Bench) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40_u16 {
        let store = if number % 2 == 0 {
            bench.store.clone()
        } else {
            bench.other.clone()
        };
        tasks.spawn(async move { put(&*store, &format!("s{}", number % 8), number + 1).await });
    }
    let mut numbers = Vec::new();
    while let Some(changed) = tasks.join_next().await {
        let changed = changed.unwrap();
        numbers.extend(changed.iter().map(|one| one.published.generation));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
    let list = bench.store.services(None).await.unwrap();
    assert_eq!((list.services.len(), list.generation), (8, 40));
    let log = bench.store.service_changes_after(0, 100).await.unwrap();
    let log = log.unwrap();
    for service in list.services {
        let name = &service.published.name;
        let last = log.iter().rev().find(|one| one.published.name == *name);
        let last = &last.unwrap().published;
        assert_eq!(last.definition, service.published.definition);
        assert_eq!(last.generation, service.published.generation);
    }
}

pub(super) async fn old_changes_are_forgotten(bench: Bench) {
    let store = &*bench.store;
    for port in 1..=5 {
        put(store, "shop", port).await;
    }
    let soon = Utc::now() + Duration::from_secs(5);
    let long_ago = Utc::now() - Duration::from_secs(3600);
    assert_eq!(store.prune_service_changes(long_ago, 9).await.unwrap(), 0);
    assert_eq!(store.prune_service_changes(soon, 2).await.unwrap(), 2);
    assert_eq!(store.service_changes_after(1, 9).await.unwrap(), None);
    let left = store.service_changes_after(2, 9).await.unwrap();
    assert_eq!(left.unwrap().len(), 3);
    assert_eq!(store.prune_service_changes(soon, 9).await.unwrap(), 3);
    assert_eq!(store.services(None).await.unwrap().generation, 5);
}
