//! `/v2/conf` and `/v2/proxy/*`: from a session's app to a URL that opens it
//! (contract/rest-coordinator.md §7).

use axum::extract::{FromRequest as _, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use patchbay_common::circuit::Protocol;
use patchbay_common::client_ips::ClientIps;
use patchbay_common::grant;
use patchbay_common::id::{SessionId, TokenId};
use patchbay_common::token::SetupClaims;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::error::ApiError;
use super::json::Answer;
use super::params::{self, Fields, Misfit, Params};
use super::{App, accept, cors, view, workers};
use crate::circuits::{Opening, Source};
use crate::store::{Actor, Cause, Opened, Reason, SessionToken};

/// `POST /v2/conf`: a token to open a session's apps with.
pub(crate) async fn conf(
    State(app): State<App>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    if !app.allow_unauthorized_configure {
        app.credentials.check_bare(&headers)?;
    }
    let params = Params::from_request(request, &app).await?;
    let token = session_token(&params)?;
    app.store.add_token(&token).await?;
    Ok(Answer(json!({"token": token.id})).into_response())
}

/// `GET /v2/proxy/auth`: opens a circuit, or shares one, and leads there.
pub(crate) async fn auth(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let asked = asked(&params)?;
    let (token, session) = credential(&params)?;
    let opening = opening(&asked, token, session, Actor::Session);
    let opened = app.opener.open(opening).await?;
    let url = setup_url(&app, Some(token), &asked.redirect, &opened)?;
    lead(&headers, &asked, &opened, &url)
}

/// `POST /v2/proxy/auth`: as GET; with the API's credential and the fields of `/v2/conf` in place
/// of a token, both calls in one.
pub(crate) async fn auth_or_open(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    if params.has("token") {
        return auth(State(app), headers, params).await;
    }
    // Anonymous callers are told what they lack, as with GET.
    if !params.has("session") {
        asked(&params)?;
        credential(&params)?;
    }
    app.credentials.check(&headers)?;
    let asked = asked(&params)?;
    let token = session_token(&params)?;
    app.store.add_token(&token).await?;
    let opening = opening(&asked, token.id, token.session_id, Actor::Manager);
    let opened = app.opener.open(opening).await?;
    let url = setup_url(&app, Some(token.id), &asked.redirect, &opened)?;
    Ok(Answer(json!({
        "redirect_url": url,
        "reuse": reuse(&asked, &opened),
        "token": token.id,
        "circuit": opened.circuit.id,
    }))
    .into_response())
}

/// `GET /v2/proxy/{token}/{session}/add`: the URL of `auth` with these parameters.
pub(crate) async fn add(
    State(app): State<App>,
    Path((token, session)): Path<(String, String)>,
    params: Params,
) -> Result<Response, ApiError> {
    let asked = asked(&params)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("app", &asked.app);
    query.append_pair("protocol", asked.protocol.as_str());
    if !asked.envs.is_empty() {
        query.append_pair("envs", &Value::Object(asked.envs).to_string());
    }
    let truth = |flag: bool| flag.then(|| "True".to_owned());
    let redirect = Some(asked.redirect).filter(|path| !path.is_empty());
    let rest = [
        ("args", asked.arguments),
        ("open_to_public", truth(asked.open_to_public)),
        ("allowed_client_ips", asked.allowed_client_ips),
        ("redirect", redirect),
        ("no_reuse", truth(asked.no_reuse)),
        ("port", asked.port.map(|port| port.to_string())),
        ("subdomain", asked.subdomain),
        ("token", Some(token)),
        ("session_id", Some(session)),
    ];
    for (name, value) in rest {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let url = format!("{}/v2/proxy/auth?{}", app.advertise_url, query.finish());
    let answer = Answer(json!({"code": 200, "url": url}));
    Ok((cors::for_everyone(), answer).into_response())
}

/// `/v2/proxy/{token}/{session}/delete`: the session's app is done with, or all of its apps where
/// none is named. What is gone already stays gone.
pub(crate) async fn remove(
    State(app): State<App>,
    Path((token, session)): Path<(String, String)>,
    params: Params,
) -> Result<Response, ApiError> {
    let name = {
        let fields = params.fields();
        let name = fields.optional("app", params::filled);
        fields.verdict()?;
        name
    };
    let token = app.store.token(workers::id(&token, "token")?).await?;
    let token = token.ok_or(ApiError::NoSuch("token"))?;
    if session.parse() != Ok(token.session_id) {
        return Err(ApiError::SessionMismatch);
    }
    let cause = Cause::now(Actor::Session, Reason::Requested);
    app.closer
        .close_app(token.session_id, name.as_deref(), &cause)
        .await?;
    let answer = Answer(json!({"code": 200, "success": true}));
    Ok((cors::for_everyone(), answer).into_response())
}

/// What an opener asks for, whatever its credential.
struct Asked {
    app: String,
    protocol: Protocol,
    envs: Map<String, Value>,
    arguments: Option<String>,
    open_to_public: bool,
    allowed_client_ips: Option<String>,
    redirect: String,
    no_reuse: bool,
    port: Option<u16>,
    subdomain: Option<String>,
}

fn asked(params: &Params) -> Result<Asked, ApiError> {
    let fields = params.fields();
    let app = fields.required("app", params::filled);
    let protocol = fields.required("protocol", params::protocol);
    let asked = (|| {
        Some(Asked {
            envs: fields.optional("envs", params::object).unwrap_or_default(),
            arguments: fields.optional("args", params::text),
            open_to_public: fields
                .optional("open_to_public", params::flag)
                .unwrap_or(false),
            allowed_client_ips: fields.optional("allowed_client_ips", networks).flatten(),
            redirect: fields
                .optional("redirect", params::text)
                .unwrap_or_default(),
            no_reuse: fields.optional("no_reuse", params::flag).unwrap_or(false),
            port: fields.optional("port", params::port),
            subdomain: fields.optional("subdomain", params::text),
            app: app?,
            protocol: protocol?,
        })
    })();
    fields.verdict()?;
    asked.ok_or_else(|| fields.incomplete())
}

/// Networks as clients list them. One that cannot be read is refused here, where someone sees it:
/// at the worker it would admit nobody.
pub(crate) fn networks(value: &Value) -> Result<Option<String>, Misfit> {
    let text = params::text(value)?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    match ClientIps::parse(Some(&text)).refused() {
        [] => Ok(Some(text)),
        refused => Err((
            "value_error",
            format!(
                "Input should be addresses and networks, which these are not: {}",
                refused.join(", ")
            ),
        )),
    }
}

fn credential(params: &Params) -> Result<(TokenId, SessionId), ApiError> {
    let fields = params.fields();
    let token = fields.required("token", params::uuid);
    let session = fields.required("session_id", params::uuid);
    fields.verdict()?;
    token.zip(session).ok_or_else(|| fields.incomplete())
}

fn opening(asked: &Asked, token: TokenId, session: SessionId, by: Actor) -> Opening {
    Opening {
        source: Source::Token(token),
        session,
        by,
        app: asked.app.clone(),
        protocol: asked.protocol,
        envs: asked.envs.clone(),
        arguments: asked.arguments.clone(),
        open_to_public: asked.open_to_public,
        allowed_client_ips: asked.allowed_client_ips.clone(),
        no_reuse: asked.no_reuse,
        port: asked.port,
        subdomain: asked.subdomain.clone(),
    }
}

/// The token that the fields of `/v2/conf` describe.
fn session_token(params: &Params) -> Result<SessionToken, ApiError> {
    let fields = params.fields();
    let login = fields.required("login_session_token", params::nullable_text);
    let kernel_host = fields.required("kernel_host", params::filled);
    let kernel_port = fields.required("kernel_port", params::port);
    let token = fields.inner("session").and_then(|session| {
        let id = session.required("id", nullable(params::uuid));
        let user = session.required("user_uuid", params::uuid);
        let project = project(&session);
        let access_key = session.required("access_key", params::nullable_text);
        let domain_name = session.required("domain_name", params::text);
        Some((id?, user?, project?, access_key?, domain_name?))
    });
    fields.verdict()?;
    let parts = token.zip(login).zip(kernel_host.zip(kernel_port));
    let ((session, login_session_token), (kernel_host, kernel_port)) =
        parts.ok_or_else(|| fields.incomplete())?;
    let (id, user, project, access_key, domain_name) = session;
    let access_key = access_key.filter(|key| !key.is_empty());
    let (Some(session_id), Some(access_key)) = (id, access_key) else {
        return Err(ApiError::NoSession);
    };
    Ok(SessionToken {
        id: TokenId::random(),
        login_session_token,
        kernel_host,
        kernel_port,
        session_id,
        user,
        project,
        access_key,
        domain_name,
    })
}

/// `project_id`, which older Managers call `group_id`.
fn project<T: std::str::FromStr>(session: &Fields<'_>) -> Option<T> {
    session
        .optional("project_id", params::uuid)
        .or_else(|| session.required("group_id", params::uuid))
}

fn nullable<T>(
    read: impl Fn(&Value) -> Result<T, Misfit>,
) -> impl Fn(&Value) -> Result<Option<T>, Misfit> {
    move |value| match value {
        Value::Null => Ok(None),
        value => read(value).map(Some),
    }
}

/// Where the opener's browser goes: the worker's handshake, with a token for this circuit.
pub(crate) fn setup_url(
    app: &App,
    token: Option<TokenId>,
    redirect: &str,
    opened: &Opened,
) -> Result<String, ApiError> {
    let claims = SetupClaims {
        id: token,
        version: Some("v2".into()),
        redirect: Some(redirect.to_owned()),
        circuit: opened.circuit.id,
        jti: Some(grant::new_name().to_string()),
    };
    let signed = app
        .jwt
        .sign(&claims)
        .map_err(|error| ApiError::Internal(format!("a setup token cannot be signed: {error}")))?;
    Ok(format!(
        "{}/setup?token={signed}",
        view::endpoint(&opened.worker)
    ))
}

/// Whether the opener may take the circuit as open already. For the TCP family the answer is
/// always no, because clients then skip opening their local gateway (contract §7).
fn reuse(asked: &Asked, opened: &Opened) -> bool {
    opened.reused && asked.protocol.carried() != Protocol::Tcp
}

/// JSON where it is asked for by name, else a redirect.
fn lead(
    headers: &HeaderMap,
    asked: &Asked,
    opened: &Opened,
    url: &str,
) -> Result<Response, ApiError> {
    if accept::names_json(headers) {
        // Whatever the worker calls itself, clients get a URL in its normal form.
        let url = url::Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
        let answer = Answer(json!({"redirect_url": url, "reuse": reuse(asked, opened)}));
        return Ok((cors::for_everyone(), answer).into_response());
    }
    let location = HeaderValue::try_from(url)
        .map_err(|_| ApiError::Internal(format!("the worker's URL {url} fits no header")))?;
    let answer = (StatusCode::PERMANENT_REDIRECT, "308: Permanent Redirect");
    Ok(([(LOCATION, location)], answer).into_response())
}
