//! A rig whose worker is a gateway too, and the calls that put services at its coordinator.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::App;
use crate::browser::{Answer, Browser};
use crate::eventually::eventually;
use crate::load::Target;
use crate::ports::Ports;
use crate::rig::{Parts, Rig};
use crate::secrets;

/// Longest any change may take to be seen; what it takes is measured.
const PATIENCE: Duration = Duration::from_secs(15);

/// Coordinator, a worker with a gateway, and what they stand on.
#[derive(Debug)]
pub struct Fleet {
    /// All of it.
    pub rig: Rig,
    ports: Ports,
    browser: Browser,
}

impl Fleet {
    /// Starts it, with these lines in `[gateway]` and below.
    ///
    /// # Errors
    /// If a part does not come up.
    pub async fn start(parts: Parts, gateway: &str) -> anyhow::Result<Self> {
        let ports = Ports::reserve(1)?;
        let bind = format!(
            "[gateway]\nbind = \"127.0.0.1:{}\"\n{gateway}\n",
            ports.first()
        );
        Ok(Self {
            rig: Rig::start(parts.worker(&bind)).await?,
            ports,
            browser: Browser::new()?,
        })
    }

    /// URL of a path of the gateway.
    pub fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.first())
    }

    /// A GET through the gateway.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.browser.get(&self.at(path)).await
    }

    /// A page of the gateway for a load to ask for.
    pub fn target(&self, path: &str) -> Target {
        Target {
            url: self.at(path),
            cookie: String::new(),
            expected: "hello from the app",
        }
    }

    /// A call of the coordinator with the API's secret.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.rig.coordinator.url());
        let request = self.browser.request(method, &url)?;
        let mut request = request.header("x-backendai-token", secrets::API);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        self.browser.send(request).await
    }

    /// Puts a service.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn put(&self, name: &str, body: &Value) -> anyhow::Result<Value> {
        let path = format!("/api/services/{name}");
        let answer = self.call(Method::PUT, &path, Some(body)).await?;
        answer.expect(200)?.json()
    }

    /// Takes one away.
    ///
    /// # Errors
    /// If it is not.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let path = format!("/api/services/{name}");
        let answer = self.call(Method::DELETE, &path, None).await?;
        answer.expect(200).map(drop)
    }

    /// Waits until a path of the gateway answers so; answers with how long it took.
    ///
    /// # Errors
    /// If it does not.
    pub async fn answers(&self, path: &str, status: u16) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let what = format!("{path} answers {status}");
        eventually(&what, PATIENCE, async || {
            let answer = self.get(path).await?;
            answer.expect(status).map(drop)
        })
        .await?;
        Ok(began.elapsed())
    }

    /// Waits until an app is asked for a path through the gateway; answers with how long it took.
    ///
    /// # Errors
    /// If it is not.
    pub async fn reaches(&self, app: &App, path: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let inside = path.rsplit_once('/').map_or(path, |(_, last)| last);
        let inside = format!("/{inside}");
        let before = app.seen(&inside).len();
        eventually(&format!("{path} reaches it"), PATIENCE, async || {
            self.get(path).await?.expect(200)?;
            (app.seen(&inside).len() > before)
                .then_some(())
                .context("another one answers")
        })
        .await?;
        Ok(began.elapsed())
    }
}

/// A service at these apps, reached below `/name/`.
pub fn service(name: &str, apps: &[&App]) -> Value {
    let instances: Vec<String> = apps.iter().map(|app| app.address.to_string()).collect();
    json!({
        "service": {"instances": instances},
        "routes": {name: {"path": format!("/{name}/*"), "strip_prefix": format!("/{name}")}},
    })
}
