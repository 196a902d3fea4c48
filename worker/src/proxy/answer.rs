//! What the worker answers itself on a traffic port.

use bytes::Bytes;
use patchbay_common::request_id;
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{CircuitProxy, unix_now};
use crate::context::Context;
use crate::error::{Problem, Refusal};
use crate::stage::Preflight;
use crate::table::LiveCircuit;

/// Value of `Server` on answers of our own.
const SERVER: &str = "Patchbay";

impl CircuitProxy {
    /// Answers with a refusal.
    pub(super) async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        refusal: Refusal,
    ) -> Result<()> {
        let id = ctx.id();
        let problem = Problem::from(&refusal);
        let accept = session
            .get_header("accept")
            .map(http::HeaderValue::as_bytes);
        let (content_type, body) = problem.render(accept, &id);
        let mut head = ResponseHeader::build(problem.status, Some(10))?;
        head.insert_header("content-type", content_type)?;
        head.insert_header("content-length", body.len())?;
        head.insert_header("cache-control", "no-store")?;
        head.insert_header("access-control-allow-origin", "*")?;
        head.insert_header("access-control-allow-headers", "authorization")?;
        head.insert_header("access-control-expose-headers", request_id::HEADER)?;
        if let Some(seconds) = problem.retry_after() {
            head.insert_header("retry-after", seconds)?;
        }
        if matches!(refusal, Refusal::BadRequest(_)) {
            // What follows on this connection cannot be told apart any more.
            session.set_keepalive(None);
        }
        ctx.refusal = Some(refusal);
        self.write(session, ctx, head, body).await
    }

    /// Answers a preflight.
    pub(super) async fn answer_preflight(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        preflight: &Preflight,
    ) -> Result<()> {
        let mut head = ResponseHeader::build(204, Some(6))?;
        head.insert_header("access-control-allow-origin", "*")?;
        head.insert_header("access-control-allow-methods", &preflight.methods)?;
        head.insert_header("access-control-allow-headers", &preflight.headers)?;
        head.insert_header("access-control-max-age", "600")?;
        self.write(session, ctx, head, String::new()).await
    }

    /// Exchanges the ticket in the query for a permit and sends the browser on.
    pub(super) async fn exchange(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        circuit: &LiveCircuit,
    ) -> Result<()> {
        let query = session.req_header().uri.query().unwrap_or_default();
        let ticket = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("ticket="))
            .unwrap_or_default();
        let redeemed = match self.tickets.redeem(ticket, &circuit.circuit, unix_now()) {
            Ok(redeemed) => redeemed,
            Err(_) => return self.refuse(session, ctx, Refusal::Ticket).await,
        };
        let mut head = ResponseHeader::build(302, Some(6))?;
        head.insert_header("location", &redeemed.location)?;
        head.insert_header("cache-control", "no-store")?;
        head.insert_header("referrer-policy", "no-referrer")?;
        head.insert_header("content-length", "0")?;
        for cookie in &redeemed.set_cookie {
            head.append_header("set-cookie", cookie)?;
        }
        self.write(session, ctx, head, String::new()).await
    }

    async fn write(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut head: ResponseHeader,
        body: String,
    ) -> Result<()> {
        head.insert_header("server", SERVER)?;
        head.insert_header(request_id::HEADER, ctx.id().as_str())?;
        let end = body.is_empty() || ctx.method == "HEAD";
        session.write_response_header(Box::new(head), end).await?;
        if !end {
            session
                .write_response_body(Some(Bytes::from(body)), true)
                .await?;
        }
        Ok(())
    }
}
