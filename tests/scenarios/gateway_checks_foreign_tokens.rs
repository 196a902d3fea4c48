//! Tokens made by another library (PyJWT; `tests/vectors/make_jwt.py`), good ones and forgeries:
//! for a plain request, a WebSocket and an event stream alike.

use anyhow::{Context as _, Result, ensure};
use chrono::Utc;
use patchbay_tests::app::App;
use patchbay_tests::gateway::{Gateway, service};
use patchbay_tests::issuer::Publisher;
use serde_json::Value;

const PUBLISHED: &str = "algorithms = [\"RS256\"]\n";

struct Foreign {
    vectors: Value,
    app: App,
    /// Its keys are published here.
    publisher: Publisher,
}

impl Foreign {
    async fn new() -> Result<Self> {
        let vectors: Value = serde_json::from_str(include_str!("../vectors/jwt.json"))?;
        let publisher = Publisher::start(&[]).await?;
        let keys = vectors["keys"].as_array().context("no keys")?;
        publisher.publish_document(keys.clone());
        let app = App::start().await?;
        Ok(Self {
            vectors,
            app,
            publisher,
        })
    }

    /// A gateway whose one route asks for a token.
    async fn gate(&self, settings: &str) -> Result<Gateway> {
        let service = service("app", &[&self.app]);
        let route = "[gateway.routes.app]\nservice = \"app\"\nmiddleware = [\"gate\"]\n";
        Gateway::start(&format!(
            "{service}{route}[gateway.middleware.gate.jwt]\n{settings}\
             issuer = \"https://issuer.example\"\naudience = \"shop\"\n"
        ))
        .await
    }

    async fn published(&self, settings: &str) -> Result<Gateway> {
        let url = self.publisher.url();
        self.gate(&format!("jwks_url = \"{url}\"\n{settings}"))
            .await
    }

    fn tokens(&self, kind: &str) -> Result<Vec<(&str, &str)>> {
        let all = self.vectors[kind].as_object().context("no such tokens")?;
        let pairs = all
            .iter()
            .map(|(what, token)| Some((what.as_str(), token.as_str()?)));
        pairs.collect::<Option<_>>().context("not a token")
    }

    fn was_reached(&self) -> bool {
        let paths = ["/hello", "/ws/first", "/events/0"];
        paths.iter().any(|path| !self.app.seen(path).is_empty())
    }
}

async fn decides(gateway: &Gateway, token: &str) -> Result<u16> {
    let bearer = format!("Bearer {token}");
    gateway.decides_streams(&[("authorization", &bearer)]).await
}

#[tokio::test]
async fn every_algorithm_that_is_named_is_understood() -> Result<()> {
    let foreign = Foreign::new().await?;
    let all = "algorithms = [\"RS256\", \"RS384\", \"RS512\", \"PS256\", \"PS384\", \"PS512\", \
               \"ES256\", \"ES384\", \"EdDSA\"]\n";
    let gateway = foreign.published(all).await?;
    for (algorithm, token) in foreign.tokens("good")? {
        assert_eq!(decides(&gateway, token).await?, 200, "{algorithm}");
    }
    let seen = foreign.app.seen("/events/0");
    assert_eq!(seen.len(), 9);
    ensure!(
        seen.iter()
            .all(|request| request.header("authorization").is_empty())
    );
    // Only those that are named.
    let gateway = foreign.published(PUBLISHED).await?;
    for (algorithm, token) in foreign.tokens("good")? {
        let status = if algorithm == "RS256" { 200 } else { 401 };
        assert_eq!(decides(&gateway, token).await?, status, "{algorithm}");
    }
    let secret = foreign.vectors["secret"].as_str().context("no secret")?;
    let shared = format!("algorithms = [\"HS256\", \"HS384\", \"HS512\"]\nsecret = {secret:?}\n");
    let gateway = foreign.gate(&shared).await?;
    for (algorithm, token) in foreign.tokens("shared_secret")? {
        assert_eq!(decides(&gateway, token).await?, 200, "{algorithm}");
    }
    Ok(())
}

#[tokio::test]
async fn no_forgery_passes() -> Result<()> {
    let foreign = Foreign::new().await?;
    let gateway = foreign.published(PUBLISHED).await?;
    let forged = foreign.tokens("forged")?;
    ensure!(forged.len() > 20, "{} forgeries", forged.len());
    for (what, token) in forged {
        assert_eq!(decides(&gateway, token).await?, 401, "{what}");
    }
    ensure!(!foreign.was_reached(), "the app heard of it");
    let metrics = gateway.metrics().await?;
    let line = "decisions_total{route=\"app\",service=\"app\",decision=\"unauthenticated\"}";
    ensure!(metrics.contains(line), "{metrics}");
    ensure!(!metrics.contains("decision=\"admitted\""), "{metrics}");
    Ok(())
}

/// The tokens are old; leeway moves the second at which they end, or begin, to now.
#[tokio::test]
async fn a_second_decides() -> Result<()> {
    let foreign = Foreign::new().await?;
    let moment = |kind: &str, claim: &str| -> Result<(i64, &str)> {
        let vector = &foreign.vectors[kind];
        let token = vector["token"].as_str().context("no token")?;
        Ok((vector[claim].as_i64().context("no time")?, token))
    };
    let leeway = |seconds: i64| format!("{PUBLISHED}leeway = {seconds}\n");
    let (end, token) = moment("ended", "exp")?;
    let since = Utc::now().timestamp() - end;
    let gateway = foreign.published(&leeway(since - 1)).await?;
    assert_eq!(decides(&gateway, token).await?, 401, "expired by a second");
    let gateway = foreign.published(&leeway(since + 60)).await?;
    assert_eq!(decides(&gateway, token).await?, 200, "not expired");

    let (begin, token) = moment("begins", "nbf")?;
    let until = begin - Utc::now().timestamp();
    let gateway = foreign.published(&leeway(until - 60)).await?;
    assert_eq!(
        decides(&gateway, token).await?,
        401,
        "not valid for a minute"
    );
    let gateway = foreign.published(&leeway(until)).await?;
    assert_eq!(decides(&gateway, token).await?, 200, "valid");
    Ok(())
}
