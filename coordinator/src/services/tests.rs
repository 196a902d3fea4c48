use std::sync::Arc;

use patchbay_common::gateway::Origin;
use serde_json::json;

use super::{ServiceError, Services};
use crate::publish::{ServiceFeeds, ServiceItem};
use crate::store::{Actor, Cause, Reason, ServiceChange, SqliteStore, Store};

async fn services() -> Services {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory());
    store.migrate().await.unwrap();
    let feeds = Arc::new(ServiceFeeds::new(Arc::clone(&store), None));
    Services::new(store, feeds)
}

fn asked() -> Cause {
    Cause::now(Actor::Manager, Reason::Requested)
}

#[tokio::test]
async fn what_a_gateway_would_refuse_is_refused_here() {
    let services = services().await;
    let put = async |name: &str, body| services.put(name, body, &asked()).await;
    let shop = json!({"service": {"instances": ["a:1"]}, "routes": {"shop": {"path": "/shop/*"}}});
    put("shop", shop.clone()).await.unwrap();
    put("shop", shop).await.unwrap();

    let unnamed = put("a/b", json!({})).await;
    assert!(matches!(unnamed, Err(ServiceError::Name(_))));
    let typo = put("x", json!({"service": {"instanses": []}})).await;
    let Err(ServiceError::Flawed(flaws)) = typo else {
        panic!("{typo:?}");
    };
    assert_eq!(flaws[0].0, "service.instanses");
    let wrong = put("x", json!({"service": {"max_outstanding": "many"}})).await;
    let Err(ServiceError::Flawed(flaws)) = wrong else {
        panic!("{wrong:?}");
    };
    assert_eq!(flaws[0].0, "service.max_outstanding");
    let flawed = put("x", json!({"service": {"instances": ["nowhere"]}})).await;
    assert!(matches!(flawed, Err(ServiceError::Flawed(_))));
    let taken = put("x", json!({"routes": {"shop": {"path": "/other"}}})).await;
    assert!(
        matches!(taken, Err(ServiceError::RouteTaken { .. })),
        "{taken:?}"
    );
    let tied = put("x", json!({"routes": {"x": {"path_prefix": "/shop"}}})).await;
    assert!(matches!(tied, Err(ServiceError::Tied { .. })), "{tied:?}");
    assert_eq!(
        services.store.services(None).await.unwrap().services.len(),
        1
    );
}

#[tokio::test]
async fn what_was_found_gives_way_and_goes_with_its_containers() {
    let services = services().await;
    let found = ServiceChange {
        name: "shop".into(),
        origin: Origin::Docker("local".into()),
        definition: Some(Default::default()),
    };
    services.change(&[found], &asked()).await.unwrap();
    let refused = services.remove("shop", &asked()).await;
    assert!(matches!(refused, Err(ServiceError::Found { origins }) if origins.len() == 1));
    services.put("shop", json!({}), &asked()).await.unwrap();
    let (first, also) = services.get("shop").await.unwrap();
    assert_eq!(first.published.origin, Origin::Api);
    assert_eq!(also, [Origin::Docker("local".into())]);
    services.remove("shop", &asked()).await.unwrap();
    let (first, _) = services.get("shop").await.unwrap();
    assert_eq!(first.published.origin, Origin::Docker("local".into()));
    let gone = services.remove("nobody", &asked()).await;
    assert!(matches!(gone, Err(ServiceError::NoSuchService)));
}

#[tokio::test]
async fn a_feed_misses_nothing_and_says_where_it_cannot_go_on() {
    let services = services().await;
    let put = async |port: u16| {
        let body = json!({"service": {"instances": [format!("a:{port}")]}});
        services.put("shop", body, &asked()).await.unwrap();
    };
    put(1).await;
    put(2).await;
    let next = async |feed: &mut crate::publish::ServiceFeed| match feed.next().await.unwrap() {
        ServiceItem::Hello(generation) => format!("hello {generation}"),
        ServiceItem::Change(change) => format!("change {}", change.published.generation),
        ServiceItem::Resync(generation) => format!("resync {generation}"),
        ServiceItem::KeepAlive => "alive".to_owned(),
    };
    let telling = services.clone();
    let telling = tokio::spawn(async move { telling.feeds().run().await });
    let mut resumed = services.feeds().open(Some(0)).await.unwrap().unwrap();
    for expected in ["hello 2", "change 1", "change 2"] {
        assert_eq!(next(&mut resumed).await, expected);
    }
    let mut fresh = services.feeds().open(None).await.unwrap().unwrap();
    assert_eq!(next(&mut fresh).await, "hello 2");
    put(3).await;
    for feed in [&mut resumed, &mut fresh] {
        assert_eq!(next(feed).await, "change 3");
    }
    let mut strange = services.feeds().open(Some(99)).await.unwrap().unwrap();
    for expected in ["hello 3", "resync 3"] {
        assert_eq!(next(&mut strange).await, expected);
    }
    telling.abort();
}
