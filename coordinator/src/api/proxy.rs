//! `/v2/conf` and `/v2/proxy/*`: from a session to an opened app
//! (contract/rest-coordinator.md §7).

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use patchbay_common::circuit::Protocol;
use patchbay_common::client_ips::ClientIps;
use patchbay_common::id::TokenId;
use patchbay_common::token::SetupClaims;
use patchbay_common::worker::Worker;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Fields, Misfit, Params};
use super::{App, accept, cors};
use crate::circuits::Opening;
use crate::store::{Opened, SessionToken};

/// `POST /v2/conf`: mints the token that opens a session's apps.
pub(crate) async fn conf(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let token = session_token(&params.fields())?;
    if !app.allow_unauthorized_configure {
        app.credentials.check_bare(&headers)?;
    }
    app.store.add_token(&token).await?;
    Ok(Answer(json!({ "token": token.id })).into_response())
}

/// `GET /v2/proxy/auth`: opens an app and sends the browser to its worker.
pub(crate) async fn auth(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let fields = params.fields();
    let token = fields.required("token", params::uuid);
    let session = fields.required("session_id", params::uuid);
    let wishes = Wishes::read(&fields);
    fields.verdict()?;
    let (Some(token), Some(session), Some(wishes)) = (token, session, wishes) else {
        return Err(fields.incomplete());
    };
    let (redirect, asked) = (wishes.redirect.clone(), wishes.protocol);
    drop(fields);
    let opened = app.opener.open(wishes.opening(token, session)).await?;
    let url = setup_url(&app, token, &opened, redirect)?;
    if !accept::names_json(&headers) {
        let body = "308: Permanent Redirect";
        return Ok((StatusCode::PERMANENT_REDIRECT, [(LOCATION, url)], body).into_response());
    }
    let answer = json!({"redirect_url": url, "reuse": shown_as_reused(&opened, asked)});
    Ok((cors::for_everyone(), Answer(answer)).into_response())
}

/// `POST /v2/proxy/auth`: the same with a body. With the Manager's credential and the session in
/// the body, the token is minted on the way, which saves a round trip.
pub(crate) async fn auth_or_open(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    if !params.has("session") {
        return auth(State(app), headers, params).await;
    }
    app.credentials.check(&headers)?;
    let fields = params.fields();
    let wishes = Wishes::read(&fields);
    let token = session_token(&fields)?;
    let wishes = wishes.ok_or_else(|| fields.incomplete())?;
    let (redirect, asked) = (wishes.redirect.clone(), wishes.protocol);
    drop(fields);
    app.store.add_token(&token).await?;
    let opened = app.opener.open(wishes.opening(token.id, token.session_id)).await?;
    let url = setup_url(&app, token.id, &opened, redirect)?;
    let answer = json!({
        "redirect_url": url,
        "reuse": shown_as_reused(&opened, asked),
        "token": token.id,
    });
    Ok((cors::for_everyone(), Answer(answer)).into_response())
}

/// `GET /v2/proxy/{token}/{session}/add`: where to go to open an app. Kept for old clients.
pub(crate) async fn add(
    State(app): State<App>,
    Path((token, session)): Path<(String, String)>,
    params: Params,
) -> Result<Response, ApiError> {
    let fields = params.fields();
    let wishes = Wishes::read(&fields);
    fields.verdict()?;
    let wishes = wishes.ok_or_else(|| fields.incomplete())?;
    let mut query = wishes.query();
    query.push(("token", token));
    query.push(("session_id", session));
    let query = serde_urlencoded::to_string(&query)
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let url = format!("{}/v2/proxy/auth?{query}", app.advertise_url);
    Ok((cors::for_everyone(), Answer(json!({"code": 200, "url": url}))).into_response())
}

/// What an opener says of the app.
struct Wishes {
    app: String,
    protocol: Protocol,
    envs: Map<String, Value>,
    args: Option<String>,
    open_to_public: bool,
    allowed_client_ips: Option<String>,
    redirect: String,
    no_reuse: bool,
    port: Option<u16>,
    subdomain: Option<String>,
}

impl Wishes {
    /// `None` if a field that is needed is missing; all mistakes are noted in `fields`.
    fn read(fields: &Fields<'_>) -> Option<Self> {
        let app = fields.required("app", params::text);
        let protocol = fields.required("protocol", params::protocol);
        let wishes = Self {
            app: String::new(),
            protocol: Protocol::default(),
            envs: fields.optional("envs", params::object).unwrap_or_default(),
            args: fields.optional("args", params::text),
            open_to_public: fields.optional("open_to_public", params::flag).unwrap_or(false),
            allowed_client_ips: fields.optional("allowed_client_ips", client_ips).flatten(),
            redirect: fields.optional("redirect", params::text).unwrap_or_default(),
            no_reuse: fields.optional("no_reuse", params::flag).unwrap_or(false),
            port: fields.optional("port", params::port),
            subdomain: fields.optional("subdomain", params::text),
        };
        Some(Self { app: app?, protocol: protocol?, ..wishes })
    }

    fn opening(self, token: TokenId, session: patchbay_common::id::SessionId) -> Opening {
        Opening {
            token,
            session,
            app: self.app,
            protocol: self.protocol,
            envs: self.envs,
            arguments: self.args,
            open_to_public: self.open_to_public,
            allowed_client_ips: self.allowed_client_ips,
            no_reuse: self.no_reuse,
            port: self.port,
            subdomain: self.subdomain,
        }
    }

    /// What differs from the defaults, as the incumbent writes it.
    fn query(&self) -> Vec<(&'static str, String)> {
        let envs = (!self.envs.is_empty()).then(|| Value::Object(self.envs.clone()).to_string());
        let set = |flag: bool| flag.then(|| "True".to_owned());
        let redirect = (!self.redirect.is_empty()).then(|| self.redirect.clone());
        let pairs = [
            ("app", Some(self.app.clone())),
            ("protocol", Some(self.protocol.as_str().to_owned())),
            ("envs", envs),
            ("args", self.args.clone()),
            ("open_to_public", set(self.open_to_public)),
            ("allowed_client_ips", self.allowed_client_ips.clone()),
            ("redirect", redirect),
            ("no_reuse", set(self.no_reuse)),
            ("port", self.port.map(|port| port.to_string())),
            ("subdomain", self.subdomain.clone()),
        ];
        pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }
}

/// A list of networks, every entry of which means something: a typing mistake must not be found
/// out by the people it locks out. A blank list is none.
fn client_ips(value: &Value) -> Result<Option<String>, Misfit> {
    let list = params::text(value)?;
    let parsed = ClientIps::parse(Some(&list));
    if let Some(entry) = parsed.refused().first() {
        let msg = format!("`{entry}` is neither an address nor a network");
        return Err(("value_error", msg));
    }
    Ok(parsed.is_restricted().then_some(list))
}

fn session_token(fields: &Fields<'_>) -> Result<SessionToken, ApiError> {
    let login_session_token = fields.optional("login_session_token", params::text);
    let kernel_host = fields.required("kernel_host", kernel_host);
    let kernel_port = fields.required("kernel_port", params::port);
    let session = fields.inner("session");
    let token = session.as_ref().and_then(|session| {
        let project = if session.has("project_id") { "project_id" } else { "group_id" };
        let user = session.required("user_uuid", params::uuid);
        let project = session.required(project, params::uuid);
        let domain_name = session.required("domain_name", params::text);
        let access_key = session.optional("access_key", params::text);
        Some(SessionToken {
            id: TokenId::random(),
            login_session_token,
            kernel_host: kernel_host?,
            kernel_port: kernel_port?,
            session_id: session.optional("id", params::uuid)?,
            user: user?,
            project: project?,
            access_key: access_key.filter(|key| !key.is_empty())?,
            domain_name: domain_name?,
        })
    });
    fields.verdict()?;
    // Everything given is well formed, so what is missing is the session's id or access key,
    // which inference sessions do not have.
    token.ok_or_else(|| ApiError::BadRequest("Not meant for inference apps".into()))
}

/// A host a worker can dial.
fn kernel_host(value: &Value) -> Result<String, Misfit> {
    let host = params::filled(value)?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"/?#@".contains(c);
    if !host.chars().all(plain) {
        return Err(("value_error", "Input should be a host name or an address".into()));
    }
    Ok(host)
}

/// The address of the worker's `/setup` with the token it expects.
fn setup_url(
    app: &App,
    token: TokenId,
    opened: &Opened,
    redirect: String,
) -> Result<String, ApiError> {
    let claims = SetupClaims {
        id: Some(token),
        version: Some("v2".into()),
        redirect: Some(redirect),
        circuit: opened.circuit.id,
    };
    let jwt = app.jwt.sign(&claims);
    let jwt = jwt.map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(redirect_url(&opened.worker, &jwt))
}

fn redirect_url(worker: &Worker, jwt: &str) -> String {
    format!("{}/setup?token={jwt}", worker.api_endpoint().to_lowercase())
}

/// Byte streams need their local gateway each time, which the WebUI skips on reuse
/// (pitfalls.md B20).
fn shown_as_reused(opened: &Opened, asked: Protocol) -> bool {
    opened.reused && asked.carried() != Protocol::Tcp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{sample_worker, vectors};

    #[test]
    fn redirect_urls_are_the_incumbents() {
        for case in vectors()["setup_jwt"]["redirect_url_examples"].as_array().unwrap() {
            let given = &case["worker"];
            let worker = Worker {
                hostname: given["hostname"].as_str().unwrap().into(),
                api_port: u16::try_from(given["api_port"].as_u64().unwrap()).unwrap(),
                tls_listen: given["tls_listen"].as_bool().unwrap(),
                tls_advertised: given["tls_advertised"].as_bool().unwrap(),
                ..sample_worker()
            };
            assert_eq!(redirect_url(&worker, "<jwt>"), case["url"]);
        }
    }

    #[test]
    fn client_networks_are_validated_by_entry() {
        assert_eq!(client_ips(&json!(" ")), Ok(None));
        assert_eq!(client_ips(&json!("10.0.0.0/8, ::1")), Ok(Some("10.0.0.0/8, ::1".into())));
        let (_, msg) = client_ips(&json!("10.0.0.0/8, nonsense")).unwrap_err();
        assert!(msg.contains("`nonsense`"), "{msg}");
    }

    #[test]
    fn hosts_that_cannot_be_dialled_are_refused() {
        for good in ["10.10.0.5", "kernel.local", "fd00::1", "node_1"] {
            assert!(kernel_host(&json!(good)).is_ok());
        }
        for bad in ["", " ", "a b", "http://x", "user@host", "a\nb"] {
            assert!(kernel_host(&json!(bad)).is_err(), "{bad:?}");
        }
    }
}
