//! A WebSocket upgrade, from its head to the end of the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{Proxy, adapt, answer};
use crate::conduct::ask;
use crate::context::{Context, SpliceEnd};
use crate::error::Refusal;
use crate::frontend::Control;
use crate::stream::{Meter, Watch, end_when_idle, mark_while, tcp, websocket};
use crate::target::Target;
use crate::upstream::Fault;

impl Proxy {
    /// Carries the upgrade and then the connection. Refusals are answered before 101.
    pub(super) async fn upgrade(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora_core::Result<()> {
        let Some(target) = ctx.target.clone() else {
            return self.refuse(session, ctx, Refusal::Internal).await;
        };
        let answered = match self.dial(&target, ctx).await {
            Ok(stream) => {
                let request = self.upgrade_request(session, ctx)?;
                self.exchange_heads(stream, request, ctx).await
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
                ctx.pace = None;
                head.insert_header("connection", "Upgrade")?;
                head.insert_header("upgrade", "websocket")?;
                session.write_response_header(head, false).await?;
                self.carry(session, ctx, upstream, &target).await;
                Ok(())
            }
        }
    }

    /// A connection to one of the target's upstreams, for a stream.
    pub(super) async fn dial(
        &self,
        target: &Target,
        ctx: &mut Context,
    ) -> Result<L4Stream, Refusal> {
        let mut key = [0; 16];
        let mut asked = ask(ctx, &mut key);
        asked.streams = true;
        let began = std::time::Instant::now();
        let visit = ctx.visit.as_deref();
        let own = visit.and_then(|visit| visit.route.connect_timeout);
        let patience = own.unwrap_or_else(|| self.conduct.patience(ctx).connect);
        let peers = self.peers.clone().within(patience);
        let prober = &self.conduct.prober;
        let (picked, stream) = tcp::dial(target.upstreams(), asked, &peers, prober).await?;
        ctx.picked = Some(picked);
        if let Some(visit) = &mut ctx.visit {
            visit.leg.begin(began);
        }
        Ok(stream.into_l4())
    }

    /// Sends the request and reads the answer's head, in the time its route grants.
    pub(super) async fn exchange_heads(
        &self,
        stream: L4Stream,
        request: RequestHeader,
        ctx: &mut Context,
    ) -> Result<websocket::Answer, Refusal> {
        let visit = ctx.visit.as_deref();
        let patience = visit.and_then(|visit| visit.route.response_timeout);
        let stop = ctx.stop();
        let answer = tokio::select! {
            answer = websocket::exchange(stream, request, patience) => answer,
            () = stop.cancelled() => {
                let late = self.conduct.timed_out(ctx).or_else(|| ctx.stopped());
                return Err(late.unwrap_or(Refusal::CircuitClosed));
            }
        };
        if let Err(refusal) = &answer {
            let fault = match refusal {
                Refusal::UpstreamTimeout => Fault::FirstByteTimeout,
                _ => Fault::Broke,
            };
            // The request has been sent, and a stream is not asked for twice.
            self.conduct.failed(ctx, fault, true);
        }
        answer
    }

    /// The client's head as the app gets it: the same headers, the way it took, and the upgrade.
    fn upgrade_request(
        &self,
        session: &Session,
        ctx: &mut Context,
    ) -> pingora_core::Result<RequestHeader> {
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
        let stop = ctx.stop().child_token();
        let habits = &self.conduct.stream_habits;
        let watch = Watch {
            log: habits.log_messages.then(|| ctx.id()),
            ..Watch::default()
        };
        // Where nothing else ends it, it is its time-out.
        let why = || ctx.stopped().map_or(SpliceEnd::Idle, SpliceEnd::stopped);
        let carrying = websocket::carry(session, upstream, (&meter, &watch), &stop, why);
        let visit = ctx.visit.as_deref();
        let own = visit.and_then(|visit| visit.route.idle_timeout);
        let idle = own.or(self.conduct.patience(ctx).websocket_idle);
        let carrying = end_when_idle(carrying, &meter, idle, &stop);
        let data = || watch.data.load(Ordering::Relaxed);
        let data = habits.data_is_use.then_some(&data as _);
        let spliced = match target.circuit() {
            Some(circuit) => {
                mark_while(&self.conduct.activity, circuit, session_id, data, carrying).await
            }
            None => carrying.await,
        };
        ctx.spliced = Some(spliced);
    }
}
