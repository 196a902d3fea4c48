//! A WebSocket upgrade, from its head to the end of the connection.

use std::sync::Arc;

use pingora_core::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{Proxy, adapt, answer};
use crate::conduct::ask;
use crate::context::Context;
use crate::error::Refusal;
use crate::frontend::Control;
use crate::stream::{Meter, mark_while, tcp, websocket};
use crate::target::Target;

impl Proxy {
    /// Carries the upgrade and then the connection. Refusals are answered before 101.
    pub(super) async fn upgrade(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        let Some(target) = ctx.target.clone() else {
            return self.refuse(session, ctx, Refusal::Internal).await;
        };
        let mut key = [0; 16];
        let asked = ask(ctx, &mut key);
        let prober = &self.conduct.prober;
        let dialled = tcp::dial(target.upstreams(), asked, &self.peers, prober).await;
        let answered = match dialled {
            Ok((picked, stream)) => {
                ctx.picked = Some(picked);
                let request = self.upgrade_request(session, ctx)?;
                websocket::exchange(stream.into_l4(), request).await
            }
            Err(refusal) => Err(refusal),
        };
        match answered {
            Err(refusal) => self.refuse(session, ctx, refusal).await,
            Ok(websocket::Answer::Ordinary(mut head, mut upstream)) => {
                self.conduct.answered(ctx, head.status.as_u16(), false);
                self.dress(&mut head, ctx)?;
                answer::end_if_unread(session);
                session.write_response_header(head, false).await?;
                websocket::relay_body(session, &mut upstream).await
            }
            Ok(websocket::Answer::Switched(mut head, upstream)) => {
                self.conduct.answered(ctx, 101, false);
                self.dress(&mut head, ctx)?;
                head.insert_header("connection", "Upgrade")?;
                head.insert_header("upgrade", "websocket")?;
                session.write_response_header(head, false).await?;
                self.carry(session, ctx, upstream, &target).await;
                Ok(())
            }
        }
    }

    /// The client's head as the app gets it: the same headers, the way it took, and the upgrade.
    fn upgrade_request(&self, session: &Session, ctx: &mut Context) -> Result<RequestHeader> {
        let mut request = session.req_header().clone();
        self.prepare(session, &mut request, ctx)?;
        request.insert_header("connection", "Upgrade")?;
        request.insert_header("upgrade", "websocket")?;
        Ok(request)
    }

    async fn carry(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        upstream: Box<pingora_core::protocols::http::v1::client::HttpSession>,
        target: &Target,
    ) {
        let Some(session_id) = ctx.picked.as_ref().map(|picked| picked.session) else {
            return;
        };
        let _open = self.conduct.metrics.websocket_opened();
        adapt::with_guard(session, Control::free);
        let meter = Arc::new(Meter::default());
        let carrying = websocket::carry(session, upstream, &meter, target.closed());
        let spliced = match target.circuit() {
            Some(circuit) => {
                mark_while(&self.conduct.activity, circuit, session_id, carrying).await
            }
            None => carrying.await,
        };
        ctx.spliced = Some(spliced);
    }
}
