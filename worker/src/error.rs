//! What a client is told when a request cannot be carried: the only file that knows statuses,
//! types and texts (contract/rest-coordinator.md §4, contract/data-plane.md §2–7).

mod admin;
mod gateway;
mod tunnel;

use std::fmt::Write as _;

use patchbay_common::request_id::RequestId;
use patchbay_common::token::TokenError;
use serde_json::json;

use crate::conduct::TimeOut;
use crate::gateway::refusal::GatewayRefusal;
use crate::tunnel::TunnelError;
use crate::upstream::Unavailable;

/// Why a request is not carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request itself is not acceptable HTTP; the connection is closed after the answer.
    #[error("{0}")]
    BadRequest(&'static str),
    /// No circuit at this port.
    #[error("Unregistered slot {0}")]
    UnknownPort(u16),
    /// No circuit at this subdomain.
    #[error("E20009: Subdomain {0} not registered")]
    UnknownSubdomain(String),
    /// The client's address is not among the circuit's.
    #[error("E20011: Client address not allowed")]
    ClientAddress,
    /// No permit cookie.
    #[error("E20004: Authorization cookie not provided")]
    PermitMissing,
    /// A permit cookie, but not a good one.
    #[error("E20005: Invalid authorization cookie")]
    PermitInvalid,
    /// The permit or token was good until somebody revoked it.
    #[error("The permit or token has been revoked")]
    Revoked,
    /// No `Authorization`.
    #[error("E20006: Authorization header not provided")]
    BearerMissing,
    /// `Authorization` of another scheme.
    #[error("E20007: Unsupported authorization method {0}")]
    BearerScheme(String),
    /// The token does not hold.
    #[error("E20008: Invalid authorization token ({0})")]
    BearerInvalid(TokenError),
    /// The token is for another circuit.
    #[error("E20009: Authorization token mismatch")]
    BearerMismatch,
    /// The ticket of a permit exchange is unknown, used, or too old.
    #[error("The link has been used or has expired: open the app again")]
    Ticket,
    /// A path of ours that does not exist.
    #[error("There is nothing at this path")]
    NotFound,
    /// The circuit has no upstream in service.
    #[error("No kernel of this app is reachable at the moment")]
    NoUpstream,
    /// The upstream cannot be connected to.
    #[error("The app's kernel refused the connection")]
    UpstreamConnect,
    /// The upstream did not take the connection in time.
    #[error("The app's kernel did not take the connection in time (connect time-out)")]
    UpstreamConnectTimeout,
    /// The upstream broke off, or spoke something that is not HTTP.
    #[error("The app's kernel broke off before it answered")]
    UpstreamBroke,
    /// The upstream did not answer in time.
    #[error("The app's kernel did not answer in time (response time-out)")]
    UpstreamTimeout,
    /// A time-out that somebody has asked for.
    #[error("{} ({} time-out)", late(*.0), word(*.0))]
    TimedOut(TimeOut),
    /// Too many requests wait for an upstream with room.
    #[error("The app has as much to do as it may, and too many requests wait already")]
    QueueFull,
    /// No upstream had room in time.
    #[error("The app has as much to do as it may, and had no room in time (queue time-out)")]
    QueueTimeout,
    /// The circuit was closed while the request was under way.
    #[error("The app was closed")]
    CircuitClosed,
    /// The head has too many fields or bytes.
    #[error("The request's header fields are too many or too long")]
    HeadTooLarge,
    /// The body is longer than the app's circuits take.
    #[error("The request's body is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The client has as many connections as it may.
    #[error("Too many connections from your address")]
    AddressBusy,
    /// The worker carries as many connections as it may.
    #[error("The worker is at its limit of connections")]
    Busy,
    /// No tunnel of this name is or was lent.
    #[error("There is no tunnel called {0}")]
    UnknownTunnel(String),
    /// The tunnel's agent is not there.
    #[error("The tunnel's agent is not connected at the moment")]
    NoAgent,
    /// The tunnel's agent has as much to do as it may.
    #[error("The tunnel's agent is busy")]
    TunnelBusy,
    /// The tunnel asks visitors for a token.
    #[error("This tunnel asks for a token")]
    VisitorToken,
    /// A control call of an agent's or an operator's.
    #[error("{0}")]
    Tunnel(TunnelError),
    /// Our own fault.
    #[error("The worker failed to handle the request")]
    Internal,
    /// The gateway does not carry it.
    #[error(transparent)]
    Gateway(#[from] GatewayRefusal),
}

/// What was too late, for people.
fn late(which: TimeOut) -> &'static str {
    match which {
        TimeOut::FirstByte => "The app's kernel did not begin its answer in time",
        TimeOut::Idle => "Nothing moved between the client and the app's kernel for too long",
        TimeOut::Total => "The request as a whole took too long",
    }
}

/// Which time-out it was.
fn word(which: TimeOut) -> &'static str {
    match which {
        TimeOut::FirstByte => "first-byte",
        TimeOut::Idle => "idle",
        TimeOut::Total => "total",
    }
}

impl Refusal {
    /// `WWW-Authenticate`, where a credential is asked for by one.
    pub fn challenge(&self) -> Option<&str> {
        match self {
            Self::Gateway(GatewayRefusal::Unauthenticated { challenge, .. }) => Some(challenge),
            _ => None,
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::NoneInService => Self::NoUpstream,
            Unavailable::QueueFull => Self::QueueFull,
            Unavailable::QueueTimeout => Self::QueueTimeout,
        }
    }
}

/// A refusal as the wire shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Last part of the problem's type URI.
    pub kind: &'static str,
    /// Short text, the same for all problems of the type.
    pub title: &'static str,
    /// The incumbent's error code.
    pub error_code: &'static str,
    /// This problem's own text.
    pub msg: String,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u64>,
    /// The request's id, where bodies carry it.
    pub request_id: Option<String>,
}

/// Status, last part of the type URI, title, error code.
type Kind = (u16, &'static str, &'static str, &'static str);

const BAD_REQUEST: Kind = (
    400,
    "generic-bad-request",
    "Bad request.",
    "agent_request_bad-request",
);
const CLIENT_ADDRESS: Kind = (
    403,
    "client-ip-not-allowed",
    "Client address not allowed.",
    "appproxy_access_forbidden",
);
const CREDENTIALS: Kind = (
    401,
    "invalid-credentials",
    "Authentication credentials not valid.",
    "agent_auth_unauthorized",
);
const NOT_FOUND: Kind = (
    404,
    "url-not-found",
    "Unknown URL path.",
    "agent_request_not-found",
);
const UPSTREAM_REFUSED: Kind = (
    502,
    "appproxy/container-connection-refused",
    "Cannot connect to Backend.AI kernel.",
    "kernel_access_unreachable",
);
const UPSTREAM_BROKE: Kind = (
    502,
    "appproxy/container-connection-broken",
    "Backend.AI kernel broke off.",
    "kernel_access_unreachable",
);
const UPSTREAM_TIMEOUT: Kind = (
    504,
    "appproxy/container-timeout",
    "Backend.AI kernel did not answer in time.",
    "kernel_access_unreachable",
);
const NO_UPSTREAM: Kind = (
    503,
    "appproxy/worker-not-available",
    "Worker not available.",
    "agent_access_not-found",
);
const UNAVAILABLE: Kind = (
    503,
    "service-unavailable",
    "Service unavailable.",
    "agent_generic_unavailable",
);
const HEAD_TOO_LARGE: Kind = (
    431,
    "request-header-fields-too-large",
    "Request header fields too large.",
    "agent_request_bad-request",
);
const BODY_TOO_LARGE: Kind = (
    413,
    "content-too-large",
    "Request body too large.",
    "agent_request_bad-request",
);
const TOO_MANY: Kind = (
    429,
    "too-many-requests",
    "Too many connections.",
    "agent_generic_unavailable",
);
const INTERNAL: Kind = (
    500,
    "internal-server-error",
    "Internal server error.",
    "agent_generic_internal-error",
);

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        use Refusal as R;
        let (status, kind, title, error_code) = match refusal {
            R::BadRequest(_) | R::UnknownPort(_) | R::UnknownSubdomain(_) => BAD_REQUEST,
            R::ClientAddress => CLIENT_ADDRESS,
            R::PermitMissing
            | R::PermitInvalid
            | R::Revoked
            | R::BearerMissing
            | R::BearerScheme(_)
            | R::BearerInvalid(_)
            | R::BearerMismatch
            | R::VisitorToken
            | R::Ticket => CREDENTIALS,
            R::NotFound | R::UnknownTunnel(_) => NOT_FOUND,
            R::Tunnel(error) => tunnel::kind(error),
            R::UpstreamConnect => UPSTREAM_REFUSED,
            R::UpstreamBroke => UPSTREAM_BROKE,
            R::UpstreamConnectTimeout | R::UpstreamTimeout | R::TimedOut(_) => UPSTREAM_TIMEOUT,
            R::NoUpstream => NO_UPSTREAM,
            R::CircuitClosed
            | R::Busy
            | R::NoAgent
            | R::TunnelBusy
            | R::QueueFull
            | R::QueueTimeout => UNAVAILABLE,
            R::HeadTooLarge => HEAD_TOO_LARGE,
            R::BodyTooLarge(_) => BODY_TOO_LARGE,
            R::AddressBusy => TOO_MANY,
            R::Internal => INTERNAL,
            R::Gateway(refusal) => gateway::kind(refusal),
        };
        Self {
            status,
            kind,
            title,
            error_code,
            msg: refusal.to_string(),
            retry_after: match refusal {
                R::Gateway(GatewayRefusal::TooMany { retry_after }) => Some(*retry_after),
                _ => matches!(status, 429 | 503).then_some(2),
            },
            request_id: None,
        }
    }
}

impl Problem {
    /// Content type and body: a page for browsers, JSON for everyone else.
    pub fn render(&self, accept: Option<&[u8]>, request_id: &RequestId) -> (&'static str, String) {
        if wants_page(accept) {
            ("text/html; charset=utf-8", self.page(request_id))
        } else {
            ("application/problem+json; charset=utf-8", self.json())
        }
    }

    /// The page for a person whose app is still starting: it asks again by itself, and shows the
    /// app as soon as that answers.
    pub fn waiting_page(request_id: &RequestId) -> String {
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <noscript><meta http-equiv=\"refresh\" content=\"3\"></noscript>\
             <title>The app is starting</title><style>{STYLE}</style></head><body><main>\
             <h1>The app is starting</h1><p>It does not answer yet. This page shows it as soon as \
             it does; there is nothing you need to do.</p>\
             <p class=\"id\">Request id <code>{id}</code></p></main><script>{RELOAD}</script>\
             </body></html>",
            id = escape(request_id.as_str()),
        )
    }

    /// The whole answer as bytes of HTTP/1.1, for a connection that is closed after it.
    pub fn farewell(&self) -> String {
        let body = self.json();
        format!(
            "HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json; charset=utf-8\r\n\
             Content-Length: {length}\r\nRetry-After: {again}\r\nConnection: close\r\n\r\n{body}",
            status = self.status,
            title = self.title.trim_end_matches('.'),
            length = body.len(),
            again = self.retry_after.unwrap_or(2),
        )
    }

    fn json(&self) -> String {
        let mut body = json!({
            "type": format!("https://api.backend.ai/probs/{}", self.kind),
            "title": self.title,
            "error_code": self.error_code,
            "msg": self.msg,
        });
        if let Some(id) = &self.request_id {
            body["request_id"] = json!(id);
        }
        body.to_string()
    }

    fn page(&self, request_id: &RequestId) -> String {
        let mut page = String::with_capacity(2_048);
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{status} {title}</title><style>{STYLE}</style></head><body><main>\
             <p class=\"status\">{status}</p><h1>{title}</h1><p>{msg}</p><p>{advice}</p>\
             <p class=\"id\">Request id <code>{id}</code></p></main></body></html>",
            status = self.status,
            title = escape(self.title),
            msg = escape(&self.msg),
            advice = self.advice(),
            id = escape(request_id.as_str()),
        );
        page
    }

    fn advice(&self) -> &'static str {
        match self.status {
            401 if self.kind.starts_with("gateway/") => "Sign in, or send a valid credential.",
            403 | 404 if self.kind.starts_with("gateway/") => "Check the address and your rights.",
            429 => "Wait a moment before you try again.",
            401 => "Open the app again from where you started it.",
            403 => "This app may only be used from certain networks.",
            400 | 404 => "The app may have been closed. Check the address, or start it again.",
            502..=504 => "The app may still be starting, or has stopped. Try again in a moment.",
            _ => "If it happens again, tell the people who run this service the request id below.",
        }
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:0;display:grid;min-height:100vh;\
place-items:center;background:#f6f7f9;color:#1c2430}main{max-width:34rem;padding:2rem}\
.status{font-size:3rem;font-weight:700;margin:0;color:#8a94a6}h1{font-size:1.35rem;margin:.2rem 0 1rem}\
.id{color:#6b7588;font-size:.85rem}code{user-select:all}\
@media(prefers-color-scheme:dark){body{background:#14181f;color:#e6e9ef}}";

/// Asks until something other than a gateway's error comes back, then shows it.
const RELOAD: &str = "(async()=>{for(;;){await new Promise(r=>setTimeout(r,1000));try{\
const a=await fetch(location.href,{method:\"HEAD\",cache:\"no-store\"});\
if(![502,503,504].includes(a.status)){location.reload();return}}catch(e){}}})()";

/// Whether a person looks at the answer: `Accept` names `text/html` and does not name JSON.
pub fn wants_page(accept: Option<&[u8]>) -> bool {
    let names = |wanted: &str| {
        accept
            .unwrap_or_default()
            .split(|byte| *byte == b',')
            .filter_map(|entry| entry.split(|byte| *byte == b';').next())
            .any(|kind| kind.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    names("text/html") && !names("application/json")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(accept: Option<&str>) -> (&'static str, String) {
        let id = RequestId::parse("req-1").unwrap();
        Problem::from(&Refusal::UnknownSubdomain("<b>".into()))
            .render(accept.map(str::as_bytes), &id)
    }

    #[test]
    fn people_get_a_page_and_programs_get_json() {
        for accept in [
            None,
            Some("*/*"),
            Some("application/json"),
            Some("text/html, application/json"),
        ] {
            let (kind, body) = render(accept);
            assert_eq!(kind, "application/problem+json; charset=utf-8");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                json["type"],
                "https://api.backend.ai/probs/generic-bad-request"
            );
            assert_eq!(json["error_code"], "agent_request_bad-request");
            assert_eq!(json["msg"], "E20009: Subdomain <b> not registered");
        }
        let (kind, page) = render(Some("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"));
        assert_eq!(kind, "text/html; charset=utf-8");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert!(page.contains("req-1"));
    }
}
