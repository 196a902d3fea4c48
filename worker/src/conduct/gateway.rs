//! Requests to the gateway: their route, their chain, and what their route does to heads.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;

use super::{Answer, Conduct, Step};
use crate::context::Context;
use crate::error::Refusal;
use crate::gateway::chain::{self, Compressing, Wait};
use crate::gateway::encoder::Encoder;
use crate::gateway::plan::Action;
use crate::gateway::refusal::GatewayRefusal;
use crate::gateway::router::path_after;
use crate::gateway::{Gateway, Visit};
use crate::stage::{Client, Head, HeaderSink};
use crate::target::Target;

impl Conduct {
    pub(super) fn pass_gateway(
        &self,
        gateway: &Gateway,
        head: &Head<'_>,
        ctx: &mut Context,
    ) -> Result<Step, Refusal> {
        let route = match gateway.route(head) {
            Ok(route) if ctx.lean && route.takes_the_other_engine(head) => {
                return Ok(Step::Elsewhere);
            }
            Ok(route) => route,
            Err(GatewayRefusal::NoRoute) if self.is_dashboard(head) => return Ok(Step::Call),
            Err(refusal) => return Err(refusal.into()),
        };
        let admitted = route.admits_origin(head);
        ctx.visit = Some(Box::new(Visit::new(route)));
        if !admitted {
            return Err(GatewayRefusal::Origin.into());
        }
        self.proceed(head, ctx)
    }

    /// Goes on with a request after what it had to wait for.
    ///
    /// # Errors
    /// Why the request is not carried.
    pub fn proceed(&self, head: &Head<'_>, ctx: &mut Context) -> Result<Step, Refusal> {
        let (Some(visit), Some(client)) = (ctx.visit.as_deref_mut(), ctx.client) else {
            return Err(Refusal::Internal);
        };
        let route = Arc::clone(&visit.route);
        let passed = route
            .chain
            .run(head, &client, &route.name, &mut visit.passage);
        match passed {
            chain::Step::Refuse(refusal) => Err(refusal.into()),
            chain::Step::Wait(wait) => Ok(Step::Wait(wait)),
            chain::Step::Answer(answer) => Ok(Step::Answer(of_chain(answer, ctx))),
            chain::Step::Carry => Ok(match &route.action {
                Action::Service(service) => {
                    visit.look(head, service);
                    ctx.target = Some(Target::Service(Arc::clone(service)));
                    self.bound_body(head, ctx)?;
                    if head.is_upgrade() {
                        Step::Upgrade
                    } else if route.minds_events(head) {
                        Step::Events
                    } else {
                        Step::Forward
                    }
                }
                Action::Redirect { to, status } => {
                    let answer = Answer::new(*status, ctx)
                        .with("location", location(to, head))
                        .body(String::new());
                    Step::Answer(dressed(answer, ctx))
                }
                Action::Respond {
                    status,
                    body,
                    content_type,
                } => {
                    let answer = Answer::new(*status, ctx)
                        .with("content-type", text(content_type))
                        .body(body.clone());
                    Step::Answer(dressed(answer, ctx))
                }
            }),
        }
    }

    /// Waits for what a chain asked for; the request then goes on with [`Conduct::proceed`].
    pub async fn wait(&self, wait: Wait, ctx: &mut Context) {
        if let Some(visit) = ctx.visit.as_deref_mut() {
            wait.resolve(&mut visit.passage).await;
        }
    }

    /// Writes what the service is told into the head it gets.
    pub(super) fn inject_for_service(
        &self,
        head: &Head<'_>,
        client: &Client,
        ctx: &mut Context,
        sink: &mut dyn HeaderSink,
    ) {
        let id = ctx.id();
        self.stages.inject_forwarded(head, client, &id, sink);
        let Some(visit) = &ctx.visit else { return };
        for name in visit.route.identity.iter() {
            sink.remove_alike(name);
        }
        for name in &visit.passage.hidden {
            sink.remove(name.as_str());
        }
        for (name, value) in &visit.passage.to_service {
            sink.add(name, value);
        }
        for (name, value) in &visit.route.request_headers {
            match value {
                Some(value) => sink.write(name, value),
                None => sink.remove(name.as_str()),
            }
        }
        if let (false, Some(picked)) = (visit.route.pass_host, &ctx.picked)
            && let Ok(host) = HeaderValue::from_str(picked.upstream.host_for_app())
        {
            sink.write(&http::header::HOST, &host);
        }
    }

    /// The target the upstream is sent, where it is another than the client's.
    pub fn target<'a>(&self, head: &Head<'a>, ctx: &Context) -> Option<Cow<'a, str>> {
        if let Some(target) = &ctx.forward_target {
            return Some(Cow::Owned(target.clone()));
        }
        let route = &ctx.visit.as_ref()?.route;
        if route.strip == 0 && route.add_prefix.is_empty() {
            return None;
        }
        let (path, query) = match head.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (head.target, None),
        };
        let rest = path_after(path, route.strip);
        let mut target = String::with_capacity(head.target.len() + route.add_prefix.len());
        target.push_str(&route.add_prefix);
        target.push_str(rest);
        if target.is_empty() {
            target.push('/');
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        Some(Cow::Owned(target))
    }

    /// Changes the head of a service's answer, dressed already, if its body is to be compressed;
    /// answers with what compresses it.
    pub fn encode(&self, status: u16, ctx: &Context, sink: &mut dyn HeaderSink) -> Option<Encoder> {
        let compressing = ctx.visit.as_deref()?.passage.compressing.as_ref()?;
        let coding = compressing.choose(status, sink)?;
        // Without memory for one the answer stays as it is.
        let encoder = Encoder::new(coding).ok()?;
        Compressing::apply(coding, sink);
        Some(encoder)
    }

    /// Writes what the client is told with an answer of a service.
    pub(super) fn dress_of_service(&self, ctx: &Context, sink: &mut dyn HeaderSink) {
        let Some(visit) = &ctx.visit else { return };
        for (name, value) in &visit.passage.to_client {
            sink.add(name, value);
        }
        if let (Some(Target::Service(service)), Some(picked)) = (&ctx.target, &ctx.picked)
            && let Some(sticky) = &service.sticky
            && !matches!(&visit.preferred, Some(known) if Arc::ptr_eq(known, &picked.upstream))
            && let Some(cookie) = sticky.set_cookie(&picked.upstream)
            && let Ok(cookie) = HeaderValue::from_str(&cookie)
        {
            sink.add(&http::header::SET_COOKIE, &cookie);
        }
        for (name, value) in &visit.route.response_headers {
            match value {
                Some(value) => sink.write(name, value),
                None => sink.remove(name.as_str()),
            }
        }
    }
}

/// An answer of a stage's.
fn of_chain(answer: chain::Answer, ctx: &mut Context) -> Answer {
    let mut out = Answer::new(answer.status, ctx);
    for (name, value) in answer.headers {
        out = out.with(name.as_str().to_owned(), text(&value));
    }
    if answer.status != 204 {
        out = out.body(answer.body);
    }
    dressed(out, ctx)
}

/// An answer of ours with what the chain tells the client.
pub(super) fn dressed(mut answer: Answer, ctx: &Context) -> Answer {
    if let Some(visit) = &ctx.visit {
        for (name, value) in &visit.passage.to_client {
            answer = answer.with(name.as_str().to_owned(), text(value));
        }
    }
    answer
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Where a redirect leads; `{path}` stands for the request's path and query.
fn location(to: &str, head: &Head<'_>) -> String {
    // Two slashes at the beginning would name another host.
    let path = head.target.trim_start_matches('/');
    to.replace("{path}", &format!("/{path}"))
}
