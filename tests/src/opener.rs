//! The Backend.AI Manager and WebUI, as far as a circuit's life goes: the calls that open and
//! close one (contract/rest-coordinator.md §7).

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use patchbay_common::id::{CircuitId, EndpointId, RouteId, SessionId, UserId};
use patchbay_common::request_id::HEADER;
use patchbay_common::token::SetupClaims;
use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Value, json};

use crate::secrets;

/// What a session wants opened.
#[derive(Clone, Debug)]
pub struct Order {
    /// The app's name.
    pub app: String,
    /// Its protocol, as the wire names it.
    pub protocol: String,
    /// Where the app listens.
    pub kernel: SocketAddr,
    /// The host it is named by, if not by its address.
    pub kernel_host: Option<String>,
    /// The session the app runs in.
    pub session: SessionId,
    /// The person the session belongs to.
    pub user: UserId,
    /// Further parameters of the opening call (`redirect`, `port`, `subdomain`, …).
    pub parameters: Vec<(String, String)>,
    /// Request id sent with the opening call.
    pub request_id: Option<String>,
}

impl Order {
    /// An HTTP app of a new session.
    pub fn http(app: &str, kernel: SocketAddr) -> Self {
        Self {
            app: app.to_owned(),
            protocol: "http".into(),
            kernel,
            kernel_host: None,
            session: SessionId::random(),
            user: UserId::random(),
            parameters: Vec::new(),
            request_id: None,
        }
    }

    /// With one more parameter of the opening call.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.parameters.push((name.to_owned(), value.to_string()));
        self
    }

    /// The body of `POST /v2/conf`.
    pub fn conf_body(&self) -> Value {
        json!({
            "login_session_token": null,
            "kernel_host": self.kernel_host.clone().unwrap_or_else(|| self.kernel.ip().to_string()),
            "kernel_port": self.kernel.port(),
            "session": {
                "id": self.session,
                "user_uuid": self.user,
                "group_id": UserId::random(),
                "access_key": "AKSCENARIO",
                "domain_name": "default",
            },
        })
    }
}

/// What the coordinator answered to an opening.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The circuit.
    pub circuit: CircuitId,
    /// Where the browser is sent: the worker's `/setup` with its token.
    pub setup: String,
    /// An existing circuit was given.
    pub reuse: bool,
}

/// Speaks to one coordinator as the Manager and the WebUI do.
#[derive(Clone, Debug)]
pub struct Opener {
    client: Client,
    base: String,
}

impl Opener {
    /// An opener at the coordinator whose API is at `base`.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        Ok(Self {
            client: crate::browser::client()?,
            base: base.to_owned(),
        })
    }

    /// Opens a circuit: `POST /v2/conf`, then `GET /v2/proxy/auth`.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn open(&self, order: &Order) -> anyhow::Result<Opened> {
        let token = self.conf(order).await?;
        self.auth(order, &token).await
    }

    /// `POST /v2/conf`, as the Manager sends it: without its secret. Answers with the token.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn conf(&self, order: &Order) -> anyhow::Result<String> {
        let request = self.client.post(format!("{}/v2/conf", self.base));
        let answer = answer(request.json(&order.conf_body())).await?;
        let token = answer["token"].as_str().context("no token")?;
        Ok(token.to_owned())
    }

    /// `GET /v2/proxy/auth` as the WebUI sends it.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn auth(&self, order: &Order, token: &str) -> anyhow::Result<Opened> {
        let answer = answer(self.auth_request(order, token)?).await?;
        let setup = answer["redirect_url"].as_str().context("no redirect_url")?;
        let url = Url::parse(setup)?;
        let jwt = url.query_pairs().find(|(name, _)| name == "token");
        let (_, jwt) = jwt.context("no token in the redirect")?;
        let claims: SetupClaims = secrets::token_key().verify(&jwt)?;
        Ok(Opened {
            circuit: claims.circuit,
            setup: setup.to_owned(),
            reuse: answer["reuse"].as_bool().context("no reuse")?,
        })
    }

    /// The opening call, not yet sent.
    ///
    /// # Errors
    /// If the coordinator's address is not a URL.
    pub fn auth_request(&self, order: &Order, token: &str) -> anyhow::Result<RequestBuilder> {
        let session = order.session.to_string();
        let fixed = [
            ("app", order.app.as_str()),
            ("protocol", &order.protocol),
            ("token", token),
            ("session_id", &session),
        ];
        let more = order.parameters.iter();
        let more = more.map(|(name, value)| (name.as_str(), value.as_str()));
        let url = format!("{}/v2/proxy/auth", self.base);
        let url = Url::parse_with_params(&url, fixed.into_iter().chain(more))?;
        let mut request = self.client.get(url).header("accept", "application/json");
        if let Some(id) = &order.request_id {
            request = request.header(HEADER, id);
        }
        Ok(request)
    }

    /// Closes a circuit: `DELETE /api/circuit/{id}`.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn close(&self, circuit: CircuitId) -> anyhow::Result<()> {
        let path = format!("/api/circuit/{circuit}");
        let answer = answer(self.authorized(self.client.delete(self.at(&path)))).await?;
        ensure!(answer["success"] == true, "{answer}");
        Ok(())
    }

    /// Reads from the coordinator's API with the Manager's secret.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn read(&self, path: &str) -> anyhow::Result<Value> {
        answer(self.authorized(self.client.get(self.at(path)))).await
    }

    /// Posts to the coordinator's API with the Manager's secret.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn send(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        answer(self.authorized(self.client.post(self.at(path)).json(body))).await
    }

    /// Opens an endpoint with one route to a model server that listens here; answers with its id
    /// and URL.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn open_endpoint(
        &self,
        kernel: SocketAddr,
        public: bool,
    ) -> anyhow::Result<(EndpointId, String)> {
        let (id, user) = (EndpointId::random(), UserId::random());
        let item = json!({
            "deployment_id": id, "service_name": "my-llm", "open_to_public": public,
            "tags": {
                "session": {"user_uuid": user, "project_id": user, "domain_name": "default"},
                "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null},
            },
        });
        let route = json!({
            "session_id": SessionId::random(), "route_id": RouteId::random(),
            "kernel_host": kernel.ip().to_string(), "kernel_port": kernel.port(),
        });
        let opened = json!({ "endpoints": [item] });
        let opened = self.send("/v2/endpoints/bulk", &opened).await?;
        let routes = json!({"endpoints": [{"deployment_id": id, "routes": [route]}]});
        self.send("/v2/endpoints/bulk/routes", &routes).await?;
        let url = opened["endpoints"][0]["url"].as_str().context("no URL")?;
        Ok((id, url.trim_end_matches('/').to_owned()))
    }

    /// The circuit as the coordinator knows it.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn circuit(&self, circuit: CircuitId) -> anyhow::Result<Value> {
        self.read(&format!("/api/circuit/{circuit}")).await
    }

    /// Opens an endpoint that is open to the public, with these kernels and this health check, as
    /// the Manager does; answers with its id and its circuit's.
    ///
    /// # Errors
    /// What the coordinator answers instead.
    pub async fn endpoint(
        &self,
        kernels: &[SocketAddr],
        health_check: Value,
    ) -> anyhow::Result<(EndpointId, CircuitId)> {
        let (id, user) = (EndpointId::random(), UserId::random());
        let item = json!({
            "deployment_id": id, "service_name": "my-llm", "open_to_public": true,
            "tags": {"session": {"user_uuid": user, "project_id": user, "domain_name": "default"},
                "endpoint": {"id": id, "runtime_variant": "vllm", "existing_url": null}},
            "health_check": health_check,
        });
        let routes: Vec<Value> = kernels
            .iter()
            .map(|kernel| {
                json!({"session_id": SessionId::random(), "route_id": RouteId::random(),
                    "kernel_host": kernel.ip().to_string(), "kernel_port": kernel.port()})
            })
            .collect();
        let post = |path: &str, body: Value| self.client.post(self.at(path)).json(&body);
        let opened = post("/v2/endpoints/bulk", json!({"endpoints": [item]}));
        answer(self.authorized(opened)).await?;
        let routes = json!({"endpoints": [{"deployment_id": id, "routes": routes}]});
        answer(self.authorized(post("/v2/endpoints/bulk/routes", routes))).await?;
        let listed = self.read("/health/endpoints").await?;
        let all = listed["endpoints"].as_array().into_iter().flatten();
        let mut all = all.filter(|one| one["endpoint_id"] == json!(id));
        let circuit = all.next().context("no such endpoint")?["circuit_id"].clone();
        Ok((id, serde_json::from_value(circuit)?))
    }

    /// Adds the Manager's secret.
    pub fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("x-backendai-token", secrets::API)
    }

    /// The URL of a path of the API.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The HTTP client, for calls without a name here.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

async fn answer(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let (url, status) = (response.url().clone(), response.status());
    let text = response.text().await?;
    ensure!(status == 200, "{} answers {status}: {text}", url.path());
    serde_json::from_str(&text).with_context(|| text)
}
