use std::sync::Arc;
use std::time::Duration;

use patchbay_common::config::Secret;
use patchbay_common::id::WorkerId;
use patchbay_common::tunnel::{
    Claim, Dispatch, Holding, Holdings, Kind, Offer, Refused, RelayAddress, Respond, Settled,
};
use tokio::time::timeout;

use super::queue::{AskError, Queue};
use super::visitor::VisitorKey;
use super::{Registry, Session, Settings, Token, Tokens, TunnelError};

fn offers(text: &str) -> Vec<Offer> {
    serde_json::from_str(text).unwrap()
}

fn registry() -> Registry {
    let lab = Token {
        name: "lab".into(),
        token: Secret::new("lab-secret"),
        tunnels: vec!["lab-*".into()],
    };
    Registry::new(Settings {
        tokens: Tokens::new(vec![Token::of_all("all", Secret::new("secret")), lab]),
        shared: vec!["pool".into()],
        max_sessions: 3,
        ..Settings::closed()
    })
}

async fn register(
    registry: &Registry,
    agent: &str,
    token: &str,
    tunnels: &str,
) -> Result<Arc<Session>, TunnelError> {
    let agent = agent.parse().unwrap();
    registry.register(agent, token, offers(tunnels)).await
}

#[tokio::test]
async fn a_name_has_one_holder_unless_it_is_shared() {
    let registry = registry();
    let web = "web".parse().unwrap();
    let a = register(&registry, "a", "secret", r#"["web", "pool"]"#)
        .await
        .unwrap();
    let other = register(&registry, "b", "secret", r#"["web"]"#).await;
    assert_eq!(other.unwrap_err(), TunnelError::Held(web));
    let other = register(&registry, "b", "secret", r#"["pool@x"]"#).await;
    assert_eq!(
        other.unwrap_err(),
        TunnelError::Differs("pool".parse().unwrap())
    );
    register(&registry, "b", "secret", r#"["pool"]"#)
        .await
        .unwrap();
    let pool = registry.tunnel(&"pool".parse().unwrap()).unwrap();
    assert_eq!(pool.holders().len(), 2);
    // The same agent comes back: its earlier session makes way.
    let again = register(&registry, "a", "secret", r#"["web"]"#)
        .await
        .unwrap();
    assert!(a.over.is_cancelled() && !again.over.is_cancelled());
    assert_eq!(pool.holders().len(), 1);
    registry.end(&again);
    register(&registry, "c", "secret", r#"["web"]"#)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_name_held_at_another_gateway_is_taken() {
    let registry = registry();
    let (here, there) = (WorkerId::random(), WorkerId::random());
    let token = Secret::new("sesame");
    let holding = Holding {
        tunnel: "web".parse().unwrap(),
        agent: "all/mine".into(),
        kind: Kind::Http,
        shared: false,
        visitors: Some(VisitorKey::of(&token).told()),
        generation: 0,
    };
    let claim = Claim {
        relay: Some(RelayAddress {
            url: "http://10.0.0.1:8080".into(),
            key: Secret::new("key"),
        }),
        tunnels: vec![holding],
    };
    let mut all = Holdings::default();
    all.settle(there, "n", claim);
    registry.learn(all.clone(), (here, "n"));
    let web = registry.tunnel(&"web".parse().unwrap()).unwrap();
    assert_eq!(web.visitors(), Some(VisitorKey::of(&token)));
    let other = register(&registry, "other", "secret", r#"["web"]"#).await;
    assert_eq!(other.unwrap_err(), TunnelError::Held(web.id.clone()));
    let mine = register(&registry, "mine", "secret", r#"["web@sesame"]"#).await;
    let mine = mine.unwrap();
    // What we tell is granted, and told from then on with its generation.
    let (settled, _) = all.settle(here, "n", registry.claim());
    registry.settle(&settled);
    assert_eq!(registry.claim().tunnels[0].generation, 2);
    // A later grant to somebody else sends it away.
    let refused = Refused {
        tunnel: web.id.clone(),
        agent: "all/mine".into(),
        holder: "all/other".into(),
        generation: 9,
    };
    registry.settle(&Settled {
        refused: vec![refused],
        ..Settled::default()
    });
    assert!(mine.over.is_cancelled());
    assert!(registry.claim().tunnels.is_empty());
    registry.learn(Holdings::default(), (here, "n"));
    assert!(web.is_left());
}

#[tokio::test]
async fn an_agent_that_is_there_is_not_replaced() {
    let registry = registry();
    let first = register(&registry, "a", "secret", r#"["web"]"#)
        .await
        .unwrap();
    let pull = first.queue.pull(Duration::from_secs(60));
    tokio::pin!(pull);
    assert!(timeout(Duration::from_millis(10), &mut pull).await.is_err());
    let second = register(&registry, "a", "secret", r#"["web"]"#).await;
    assert!(matches!(second.unwrap_err(), TunnelError::Present(_)));
    assert!(!first.over.is_cancelled());
}

#[tokio::test]
async fn tokens_stretch_to_what_they_name_and_can_be_taken_back() {
    let registry = registry();
    for wrong in ["", "lab", "lab-secret2"] {
        let refused = register(&registry, "a", wrong, r#"["lab-1"]"#).await;
        assert_eq!(refused.unwrap_err(), TunnelError::Token);
    }
    let refused = register(&registry, "a", "lab-secret", r#"["web"]"#).await;
    assert!(matches!(refused.unwrap_err(), TunnelError::NotAllowed(_)));
    let lab = register(&registry, "a", "lab-secret", r#"["lab-1"]"#)
        .await
        .unwrap();
    let web = register(&registry, "b", "secret", r#"["web"]"#)
        .await
        .unwrap();
    registry.replace_tokens(Tokens::new(vec![Token::of_all(
        "all",
        Secret::new("secret"),
    )]));
    assert!(lab.over.is_cancelled() && !web.over.is_cancelled());
    assert_eq!(registry.session(&lab.id).unwrap_err(), TunnelError::Session);
}

#[tokio::test]
async fn lists_of_tunnels_and_sessions_are_bounded() {
    let registry = registry();
    for bad in ["[]", r#"["web", "web"]"#] {
        let refused = register(&registry, "a", "secret", bad).await;
        assert!(matches!(refused.unwrap_err(), TunnelError::Malformed(_)));
    }
    for agent in ["a", "b", "c"] {
        let tunnel = format!(r#"["web-{agent}"]"#);
        register(&registry, agent, "secret", &tunnel).await.unwrap();
    }
    let refused = register(&registry, "d", "secret", r#"["web-d"]"#).await;
    assert_eq!(refused.unwrap_err(), TunnelError::Full);
}

fn request() -> Dispatch {
    Dispatch {
        request_id: String::new(),
        tunnel_id: "web".parse().unwrap(),
        method: "GET".into(),
        path: "/".into(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

fn answer(id: &str) -> Respond {
    Respond {
        session_id: String::new(),
        request_id: id.into(),
        status: 200,
        headers: Vec::new(),
        body: id.as_bytes().to_vec(),
        error: None,
    }
}

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_answer_goes_to_who_asked() {
    let queue = Queue::new(8, PATIENCE);
    let ask = async {
        let (a, b) = tokio::join!(queue.ask(request()), queue.ask(request()));
        (a.unwrap().body, b.unwrap().body)
    };
    let serve = async {
        let mut pulled = queue.pull(PATIENCE).await.unwrap();
        assert_eq!(pulled.len(), 2);
        let ids: Vec<String> = pulled.iter().map(|one| one.request_id.clone()).collect();
        pulled.reverse();
        for one in pulled {
            queue.answer(answer(&one.request_id)).unwrap();
            let twice = queue.answer(answer(&one.request_id));
            assert_eq!(twice, Err(TunnelError::Request));
        }
        ids
    };
    let ((a, b), ids) = tokio::join!(ask, serve);
    assert_eq!([a, b], [ids[0].as_bytes(), ids[1].as_bytes()]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_forgets_who_has_gone() {
    let queue = Queue::new(2, PATIENCE);
    let (mut a, mut b) = (
        Box::pin(queue.ask(request())),
        Box::pin(queue.ask(request())),
    );
    for ask in [&mut a, &mut b] {
        assert!(timeout(Duration::from_millis(1), ask).await.is_err());
    }
    assert!(!queue.has_room());
    assert_eq!(queue.ask(request()).await.unwrap_err(), AskError::Full);
    drop(a);
    assert!(queue.has_room());
    // Not pulled yet, so nobody can answer it.
    assert_eq!(queue.answer(answer("guessed")), Err(TunnelError::Request));
    let pulled = queue.pull(PATIENCE).await.unwrap();
    assert_eq!(pulled.len(), 1);
    queue.undelivered(&[pulled[0].request_id.clone()]);
    assert_eq!(b.await.unwrap_err(), AskError::Gone);
    assert_eq!(queue.ask(request()).await.unwrap_err(), AskError::TimedOut);
}

#[tokio::test]
async fn the_end_of_a_session_is_told_at_once() {
    let queue = Queue::new(2, PATIENCE);
    let (asked, pulled, ()) = tokio::join!(
        queue.ask(request()),
        async {
            queue.pull(PATIENCE).await.unwrap();
            queue.pull(PATIENCE).await
        },
        async {
            tokio::task::yield_now().await;
            queue.close();
        }
    );
    assert_eq!(asked.unwrap_err(), AskError::Gone);
    assert_eq!(pulled.unwrap_err(), TunnelError::Session);
}
