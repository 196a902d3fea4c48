//! A request on its way to an upstream: the connection it gets, the head it gets, and what is done
//! when it breaks.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use pingora_core::protocols::IO;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::carry::Break;
use super::connection::Connection;
use super::exchange::Account;
use super::flow::Broken;
use super::request::{Body, Request, is_origin_form};
use super::rewrite::Rewrite;
use crate::context::Context;
use crate::error::Refusal;
use crate::upstream::Fault;

/// An upstream connection.
pub(super) struct Upstream {
    pub(super) stream: TcpStream,
    address: SocketAddr,
    /// It has carried a request before, and the app may have closed it meanwhile.
    reused: bool,
}

impl<S: IO + 'static> Connection<S> {
    /// Sends the request to an upstream and its answer back.
    pub(super) async fn forward(
        &mut self,
        request: &Request,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let mut again = false;
        loop {
            // What cannot be sent again is not sent over a connection that may have ended.
            let fresh = again || request.body == Body::Chunked;
            let mut upstream = self.connect(ctx, fresh).await?;
            self.prepare(request, ctx, account)?;
            let broken = match self.carry(&mut upstream, request, ctx, account).await {
                Ok(rests) => {
                    if rests {
                        let address = upstream.address;
                        self.pool.put(address, upstream.stream, Instant::now());
                    }
                    return Ok(());
                }
                Err(broken) => broken,
            };
            account.kept = false;
            match self.settle(&broken, upstream.reused && !again, ctx, account) {
                ControlFlow::Continue(resend) => again |= resend,
                ControlFlow::Break(settled) => return settled,
            }
        }
    }

    /// What becomes of a request whose exchange broke: it is over, or it is tried again, over a
    /// fresh connection if that is asked for. The connection had carried a request before if it
    /// was `reused`.
    fn settle(
        &self,
        broken: &Break,
        reused: bool,
        ctx: &mut Context,
        account: &mut Account,
    ) -> ControlFlow<Result<(), Refusal>, bool> {
        let conduct = &self.lane.conduct;
        let refusal = match broken.cause {
            Broken::Client(word) => {
                account.client_gone = true;
                account.failure = Some(word);
                return ControlFlow::Break(Ok(()));
            }
            Broken::Closed => match conduct.timed_out(ctx) {
                Some(late) => {
                    account.failure = Some("TimedOut");
                    late
                }
                None => {
                    account.client_gone = true;
                    account.failure = Some("ReadError");
                    return ControlFlow::Break(Ok(()));
                }
            },
            Broken::TooLarge => {
                account.failure = Some("BodyTooLarge");
                Refusal::BodyTooLarge(ctx.body_limit)
            }
            // The answer is thrown away, and another upstream asked.
            Broken::Refused => return ControlFlow::Continue(false),
            Broken::Silent => {
                account.failure = Some("ReadTimedout");
                if account.status.is_none() && !reused {
                    conduct.failed(ctx, Fault::FirstByteTimeout, true);
                }
                Refusal::UpstreamTimeout
            }
            // A pooled connection that the app had closed: nothing was lost but time.
            Broken::Upstream(_) if broken.again && reused => return ControlFlow::Continue(true),
            Broken::Upstream(word) => {
                account.failure = Some(word);
                // An idle connection that ended says nothing about the upstream.
                let fresh = account.status.is_none() && !reused;
                if fresh && conduct.failed(ctx, Fault::Broke, true) && broken.again {
                    return ControlFlow::Continue(false);
                }
                conduct.broke(ctx);
                Refusal::UpstreamBroke
            }
        };
        if account.status.is_none() {
            return ControlFlow::Break(Err(refusal));
        }
        // Too late for another answer: the connection is cut, so that nobody takes the part that
        // was sent for the whole.
        ctx.refusal = Some(refusal);
        ControlFlow::Break(Ok(()))
    }

    /// A connection to an upstream that takes the request; a fresh one if `fresh` is asked for.
    async fn connect(&self, ctx: &mut Context, fresh: bool) -> Result<Upstream, Refusal> {
        let conduct = &self.lane.conduct;
        let own = ctx
            .visit
            .as_deref()
            .and_then(|visit| visit.route.connect_timeout);
        let patience = own.unwrap_or_else(|| conduct.patience(ctx).connect);
        loop {
            let upstream = conduct.pick(ctx).await?;
            let address = match upstream.address().await {
                Ok(address) => address,
                Err(cause) => {
                    log::debug!("{} does not resolve: {cause}", upstream.label);
                    conduct.unreachable(ctx, Fault::Resolve);
                    return Err(Refusal::UpstreamConnect);
                }
            };
            if !fresh && let Some(stream) = self.pool.take(address) {
                conduct.connected(ctx);
                conduct.reused(ctx);
                return Ok(Upstream {
                    stream,
                    address,
                    reused: true,
                });
            }
            let dialled = timeout(patience, dial(address)).await;
            if let Ok(Ok(stream)) = dialled {
                conduct.connected(ctx);
                return Ok(Upstream {
                    stream,
                    address,
                    reused: false,
                });
            }
            let (fault, refusal) = match dialled {
                Err(_) => (Fault::ConnectTimeout, Refusal::UpstreamConnectTimeout),
                Ok(_) => (Fault::Connect, Refusal::UpstreamConnect),
            };
            if !conduct.unreachable(ctx, fault) {
                return Err(refusal);
            }
        }
    }

    /// Writes the head the upstream chosen gets, and behind it what is there of the body.
    fn prepare(
        &mut self,
        request: &Request,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let mut added = std::mem::take(&mut self.memory.added);
        let mut out = std::mem::take(&mut self.memory.request);
        // At a second attempt, what the first one took of the body stands behind the head.
        let first = account.head_length == 0;
        let taken = match first {
            true => Vec::new(),
            false => out.split_off(account.head_length.min(out.len())),
        };
        out.clear();
        let headers = self.headers();
        let head = self.head(request, &headers);
        let mut rewrite = Rewrite::new(headers, &mut added);
        rewrite.remove_hop_by_hop();
        let injected = self.lane.conduct.inject(&head, ctx, &mut rewrite);
        let target = self.lane.conduct.target(&head, ctx);
        let target = target.as_deref().unwrap_or(head.target);
        let written = if is_origin_form(target.as_bytes()) {
            injected
        } else {
            Err(Refusal::BadRequest("the path is not one"))
        };
        for part in [head.method, " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        rewrite.render(&mut out);
        out.extend_from_slice(b"\r\n");
        account.head_length = out.len();
        out.extend_from_slice(&taken);
        let memory = &mut self.memory;
        if first {
            let here = memory.up.data();
            let most = usize::try_from(request.body.length()).unwrap_or(usize::MAX);
            let here = &here[..here.len().min(most)];
            out.extend_from_slice(here);
            account.bytes_in = here.len() as u64;
            memory.up.consume(account.bytes_in as usize);
        }
        memory.added = added;
        memory.request = out;
        written
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small requests must not wait for acknowledgements; a socket that cannot be told still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
