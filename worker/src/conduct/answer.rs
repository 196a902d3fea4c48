//! What is answered here and not by an app.

use std::borrow::Cow;

use bytes::Bytes;
use patchbay_common::request_id;

use super::{Conduct, Entrance, gateway, grpc, unix_now};
use crate::context::Context;
use crate::error::{Problem, Refusal, wants_page};
use crate::stage::{Head, Preflight};
use crate::target::Target;
use crate::tunnel::Reply;

/// Value of `Server` on answers of our own.
const SERVER: &str = "Patchbay";

/// What the dashboard's page may load: itself, and our own facts.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                           script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Seconds after which an app that is starting may be asked again.
const STARTING_AGAIN: u64 = 2;

/// Whether the app is one that has never answered and is young enough to be on its way.
fn is_starting(refusal: &Refusal, ctx: &Context) -> bool {
    matches!(
        refusal,
        Refusal::UpstreamConnect | Refusal::UpstreamConnectTimeout | Refusal::NoUpstream
    ) && ctx
        .target
        .as_ref()
        .and_then(Target::circuit)
        .is_some_and(|live| live.upstreams.is_starting())
}

/// Whether what follows on the connection cannot be told apart, or will not be read.
fn ends_connection(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::BadRequest(_) | Refusal::HeadTooLarge | Refusal::BodyTooLarge(_)
    )
}

/// An answer for an engine to write. A body is not sent for a `HEAD` request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, in order, `Content-Length` among them.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Bytes,
    /// What follows on the connection cannot be told apart any more: it has to end.
    pub close: bool,
}

impl Answer {
    pub(super) fn new(status: u16, ctx: &mut Context) -> Self {
        Self {
            status,
            headers: vec![
                ("server".into(), SERVER.to_owned()),
                (request_id::HEADER.into(), ctx.id().as_str().to_owned()),
            ],
            body: Bytes::new(),
            close: false,
        }
    }

    pub(super) fn with(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self.headers
            .push(("content-length".into(), body.len().to_string()));
        self.body = body;
        self
    }
}

impl Conduct {
    /// The answer that refuses a request. `accept` is the request's `Accept`.
    pub fn refusal(&self, refusal: Refusal, accept: Option<&[u8]>, ctx: &mut Context) -> Answer {
        if let Some(grpc) = ctx.grpc {
            let mut answer = grpc::refusal(grpc, &refusal, ctx);
            answer.close = ends_connection(&refusal);
            ctx.refusal = Some(refusal);
            return answer;
        }
        let mut problem = match &self.entrance {
            Entrance::Circuits => Problem::from(&refusal),
            Entrance::Gateway(gateway) => {
                Problem::at_gateway(&refusal, gateway.timeout_status(), &ctx.id())
            }
        };
        let starting = is_starting(&refusal, ctx);
        let (content_type, body) = if starting && ctx.method == "GET" && wants_page(accept) {
            problem.status = 503;
            ("text/html; charset=utf-8", Problem::waiting_page(&ctx.id()))
        } else {
            problem.render(accept, &ctx.id())
        };
        let mut answer = Answer::new(problem.status, ctx)
            .with("content-type", content_type)
            .with("cache-control", "no-store");
        answer = match &self.entrance {
            Entrance::Circuits => answer
                .with("access-control-allow-origin", "*")
                .with("access-control-allow-headers", "authorization")
                .with("access-control-expose-headers", request_id::HEADER),
            // Its routes have a stage for that.
            Entrance::Gateway(_) => gateway::dressed(answer, ctx),
        };
        if let Some(challenge) = refusal.challenge() {
            answer = answer.with("www-authenticate", challenge);
        }
        answer = answer.body(body);
        let again = starting.then_some(STARTING_AGAIN);
        if let Some(seconds) = problem.retry_after.or(again) {
            answer = answer.with("retry-after", seconds.to_string());
        }
        answer.close = ends_connection(&refusal);
        ctx.refusal = Some(refusal);
        answer
    }

    /// The answer to a call.
    pub fn reply(&self, reply: &Reply, ctx: &mut Context) -> Answer {
        let mut answer = Answer::new(200, ctx)
            .with("content-type", reply.content_type)
            .with("cache-control", "no-store");
        if reply.content_type.starts_with("text/html") {
            answer = answer
                .with("content-security-policy", PAGE_POLICY)
                .with("x-frame-options", "DENY");
        }
        answer.body(reply.body.clone())
    }

    /// The answer to a preflight.
    pub fn preflight(&self, preflight: &Preflight, ctx: &mut Context) -> Answer {
        Answer::new(204, ctx)
            .with("access-control-allow-origin", "*")
            .with("access-control-allow-methods", &preflight.methods)
            .with("access-control-allow-headers", &preflight.headers)
            .with("access-control-max-age", "600")
    }

    /// Exchanges the ticket in the query for a permit and sends the browser on.
    pub fn exchange(&self, head: &Head<'_>, ctx: &mut Context) -> Answer {
        let query = head.target.split_once('?').map_or("", |(_, query)| query);
        let ticket = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("ticket="))
            .unwrap_or_default();
        let circuit = ctx.target.as_ref().and_then(Target::circuit);
        let redeemed = circuit.and_then(|live| self.tickets.redeem(ticket, live, unix_now()).ok());
        let Some(redeemed) = redeemed else {
            return self.refusal(Refusal::Ticket, head.headers.get("accept"), ctx);
        };
        let mut answer = Answer::new(302, ctx)
            .with("location", redeemed.location)
            .with("cache-control", "no-store")
            .with("referrer-policy", "no-referrer")
            .body(String::new());
        for cookie in redeemed.set_cookie {
            answer = answer.with("set-cookie", cookie);
        }
        answer
    }
}
