//! Tunnels at the gateway: agents' and operators' calls are answered here, `/t/{tunnel}/…` goes to
//! the service an agent lends.

use std::sync::Arc;

use patchbay_common::tunnel::{Kind, TunnelId, path};

use super::{Answer, Conduct, Step, unix_now};
use crate::context::Context;
use crate::error::Refusal;
use crate::stage::Head;
use crate::target::Target;
use crate::tunnel::{Admission, Calls, ENTER, Lent, Recent, admit};

impl Conduct {
    /// Whether a request that no route takes is for the dashboard.
    pub(super) fn is_dashboard(&self, head: &Head<'_>) -> bool {
        self.tunnels.is_some() && head.path() == "/"
    }

    /// What becomes of a request for tunnels; `None` if it is for the gateway's routes.
    pub(super) fn pass_lent(
        &self,
        head: &Head<'_>,
        ctx: &mut Context,
    ) -> Result<Option<Step>, Refusal> {
        let Some(calls) = &self.tunnels else {
            return Ok(None);
        };
        let asked = head.path();
        if let Some(rest) = asked.strip_prefix(path::TRAFFIC) {
            return self.pass_tunnel(head, calls, rest, ctx).map(Some);
        }
        if !calls.owns(asked) {
            return Ok(None);
        }
        // Agents stay connected: they hold up no drain.
        if asked == path::PULL || asked == path::CONNECT || asked == path::RELAY {
            ctx.in_flight = None;
        }
        if asked == path::CONNECT && calls.is_upgrade(head.headers) {
            let query = head.target.split_once('?').map_or("", |(_, query)| query);
            let session = calls.connecting(query, head.headers);
            let session = session.map_err(Refusal::Tunnel)?;
            return Ok(Some(Step::Attach(session)));
        }
        if asked == path::RELAY && calls.is_upgrade(head.headers) {
            calls
                .another_gateway(head.headers)
                .map_err(Refusal::Tunnel)?;
            return Ok(Some(Step::Relay));
        }
        Ok(Some(Step::Call))
    }

    fn pass_tunnel(
        &self,
        head: &Head<'_>,
        calls: &Calls,
        rest: &str,
        ctx: &mut Context,
    ) -> Result<Step, Refusal> {
        let (name, below) = match rest.find('/') {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        let unknown = || Refusal::UnknownTunnel(name.chars().take(64).collect());
        let id: TunnelId = name.parse().map_err(|_| unknown())?;
        let lent = calls.registry.tunnel(&id).ok_or_else(unknown)?;
        if lent.kind() == Kind::Tcp {
            return Err(unknown());
        }
        let query = head.target.split_once('?').map(|(_, query)| query);
        if below == ENTER {
            return self.enter(head, calls, &lent, query.unwrap_or_default(), ctx);
        }
        let visitors = lent.visitors();
        let admission = admit(&id, visitors.as_ref(), head.headers, unix_now());
        if admission == Admission::Refused {
            return Err(Refusal::VisitorToken);
        }
        if below.is_empty() {
            // Relative links of a page only work below the slash.
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let location = format!("{}{id}/{query}", path::TRAFFIC);
            let answer = Answer::new(308, ctx).with("location", location);
            return Ok(Step::Answer(answer.body("")));
        }
        ctx.admission = Some(admission);
        let prefix = path::TRAFFIC.len() + name.len();
        ctx.forward_target = head.target.get(prefix..).map(str::to_owned);
        ctx.target = Some(Target::Tunnel(lent));
        Ok(if head.is_upgrade() {
            Step::Upgrade
        } else {
            Step::Forward
        })
    }

    /// Exchanges a one-time link for the cookie.
    fn enter(
        &self,
        head: &Head<'_>,
        calls: &Calls,
        lent: &Arc<Lent>,
        query: &str,
        ctx: &mut Context,
    ) -> Result<Step, Refusal> {
        let ticket = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("ticket="))
            .unwrap_or_default();
        let tls = ctx
            .client
            .is_some_and(|client| self.stages.is_tls(head, &client));
        let visitors = lent.visitors();
        let cookie = calls
            .visitors
            .enter(&lent.id, visitors.as_ref(), ticket, (unix_now(), tls))
            .ok_or(Refusal::Ticket)?;
        let answer = Answer::new(303, ctx)
            .with("location", format!("{}{}/", path::TRAFFIC, lent.id))
            .with("set-cookie", cookie)
            .with("cache-control", "no-store")
            .with("referrer-policy", "no-referrer");
        Ok(Step::Answer(answer.body("")))
    }

    /// Accounts for a request through a tunnel.
    pub(super) fn note_tunnel(&self, status: u16, bytes: (u64, u64), ctx: &mut Context) {
        let (Some(calls), Some(Target::Tunnel(lent))) = (&self.tunnels, &ctx.target) else {
            return;
        };
        let lent = Arc::clone(lent);
        let one = Recent {
            at: 0.0,
            tunnel: lent.id.as_str().to_owned(),
            request_id: ctx.id().as_str().to_owned(),
            method: ctx.method.clone().into_owned(),
            path: ctx.path.clone(),
            status,
            milliseconds: ctx.started.elapsed().as_secs_f64() * 1_000.0,
            bytes_in: bytes.0,
            bytes_out: bytes.1,
        };
        calls.registry.note(&lent, one);
    }
}
