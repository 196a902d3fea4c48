//! One plain request from its head to its line in the log, as `conduct` says.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use pingora_core::protocols::IO;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer;
use super::connection::{After, Connection};
use super::flow::Broken;
use super::head::Headers;
use super::request::{Reason, Request};
use super::rewrite::Rewrite;
use crate::conduct::{Answer, Outcome, Step};
use crate::context::Context;
use crate::error::Refusal;
use crate::metrics::Engine;
use crate::stage::{Head, HeaderLookup as _};
use crate::target::Target;
use crate::upstream::Fault;

/// An upstream connection.
pub(super) struct Upstream {
    pub(super) stream: TcpStream,
    address: SocketAddr,
    /// It has carried a request before, and the app may have closed it meanwhile.
    reused: bool,
}

/// What an exchange has come to.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) status: Option<u16>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Body bytes that have not been taken from the client.
    pub(super) body_left: u64,
    client_gone: bool,
    failure: Option<&'static str>,
    /// The connection can carry another request.
    pub(super) kept: bool,
}

impl<S: IO + 'static> Connection<S> {
    /// Carries a request whose head is at the front of what has been read.
    pub(super) async fn exchange(&mut self, request: Request) -> After {
        let memory = &mut self.memory;
        memory.head.clear();
        memory
            .head
            .extend_from_slice(&memory.up.data()[..request.length]);
        memory.request.clear();
        let mut account = Account {
            body_left: request.body,
            ..Account::default()
        };
        let mut ctx = Context::new();
        ctx.lean = true;
        self.lane.conduct.begin(&mut ctx);
        let step = self.pass(&request, &mut ctx);
        if matches!(step, Ok(Step::Elsewhere)) {
            return After::HandOver(Reason::Changed);
        }
        let lent = |target: &Target| target.upstreams().all().any(|one| one.tunnel().is_some());
        if matches!(step, Ok(Step::Forward)) && ctx.target.as_ref().is_some_and(lent) {
            return After::HandOver(Reason::Tunnel);
        }
        self.memory.up.consume(request.length);
        self.lane.conduct.metrics.carried_by(Engine::Lane);
        let answer = match step {
            Ok(Step::Forward) => match self.forward(&request, &mut ctx, &mut account).await {
                Ok(()) => None,
                Err(refusal) => Some((self.refusal(refusal, &mut ctx), false)),
            },
            Ok(Step::Exchange) => Some((self.redeem(&request, &mut ctx), true)),
            Ok(Step::Preflight(preflight)) => {
                Some((self.lane.conduct.preflight(&preflight, &mut ctx), true))
            }
            Ok(Step::Answer(answer)) => Some((answer, true)),
            // Upgrades are not plain, and no stage of circuits waits.
            Ok(
                Step::Upgrade
                | Step::Events
                | Step::Wait(_)
                | Step::Call
                | Step::Elsewhere
                | Step::Attach(_),
            ) => Some((self.refusal(Refusal::Internal, &mut ctx), false)),
            Err(refusal) => Some((self.refusal(refusal, &mut ctx), true)),
        };
        if let Some((answer, keep)) = answer {
            self.answer(&request, &answer, keep, &mut account).await;
        }
        let outcome = Outcome {
            status: account.status,
            bytes_in: account.bytes_in,
            bytes_out: account.bytes_out,
            client_gone: account.client_gone,
            failure: account.failure,
        };
        self.lane.conduct.report(&outcome, &mut ctx);
        match account.kept {
            true => After::Kept,
            false => After::Closed,
        }
    }

    fn headers(&self) -> Headers<'_> {
        Headers {
            bytes: &self.memory.head,
            fields: &self.memory.fields,
        }
    }

    fn head<'a>(&self, request: &Request, headers: &'a Headers<'a>) -> Head<'a> {
        Head {
            method: request.method.text(headers.bytes),
            target: request.target.text(headers.bytes),
            authority: None,
            is_http11: true,
            headers,
            peer: self.peer,
            local: self.local,
            tls: self.tls,
        }
    }

    fn pass(&self, request: &Request, ctx: &mut Context) -> Result<Step, Refusal> {
        let headers = self.headers();
        // The bytes need no second inspection: a head that is not neat has been handed over.
        let head = self.head(request, &headers);
        self.lane.conduct.pass(&head, None, ctx)
    }

    fn redeem(&self, request: &Request, ctx: &mut Context) -> Answer {
        let headers = self.headers();
        let head = self.head(request, &headers);
        self.lane.conduct.exchange(&head, ctx)
    }

    fn refusal(&self, refusal: Refusal, ctx: &mut Context) -> Answer {
        let headers = self.headers();
        let accept = headers.get("accept");
        self.lane.conduct.refusal(refusal, accept, ctx)
    }

    /// Writes an answer of our own.
    async fn answer(
        &mut self,
        request: &Request,
        answer: &Answer,
        keep: bool,
        account: &mut Account,
    ) {
        // A body that nobody reads would be taken for the next request.
        let keep = keep && !answer.close && !request.close && request.body == 0;
        let keep = keep && !self.is_last();
        let to_head = request.method.bytes(&self.memory.head) == b"HEAD";
        answer::own(answer, to_head, keep, &mut self.memory.out);
        let written = async {
            self.client.write_all(&self.memory.out).await?;
            self.client.flush().await
        };
        if written.await.is_err() {
            account.client_gone = true;
            account.failure = Some("WriteError");
            return;
        }
        account.status = Some(answer.status);
        account.bytes_out = if to_head { 0 } else { answer.body.len() as u64 };
        account.kept = keep;
    }

    /// Sends the request to an upstream and its answer back.
    async fn forward(
        &mut self,
        request: &Request,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let lane = std::sync::Arc::clone(&self.lane);
        let conduct = &lane.conduct;
        let mut again = false;
        loop {
            let mut upstream = self.connect(ctx, again).await?;
            if self.memory.request.is_empty() {
                self.prepare(request, ctx, account)?;
            }
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
            match broken.cause {
                Broken::Client(word) => {
                    account.client_gone = true;
                    account.failure = Some(word);
                    return Ok(());
                }
                Broken::Closed => {
                    account.client_gone = true;
                    account.failure = Some("ReadError");
                    return Ok(());
                }
                // A pooled connection that the app had closed: nothing was lost but time.
                Broken::Upstream(_) if broken.again && upstream.reused && !again => again = true,
                Broken::Upstream(word) => {
                    account.failure = Some(word);
                    if account.status.is_none() {
                        // An idle connection that ended says nothing about the upstream.
                        let another = !upstream.reused && conduct.failed(ctx, Fault::Broke, true);
                        if another && broken.again {
                            continue;
                        }
                        return Err(Refusal::UpstreamBroke);
                    }
                    // Too late for another answer: the connection is cut, so that nobody takes
                    // the part that was sent for the whole.
                    ctx.refusal = Some(Refusal::UpstreamBroke);
                    return Ok(());
                }
            }
        }
    }

    /// A connection to an upstream that takes the request; a fresh one if `fresh` is asked for.
    async fn connect(&self, ctx: &mut Context, fresh: bool) -> Result<Upstream, Refusal> {
        let conduct = &self.lane.conduct;
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
            let dialled = timeout(self.lane.patience.connect, dial(address)).await;
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

    /// Writes the head the app gets, and behind it what is there of the body.
    fn prepare(
        &mut self,
        request: &Request,
        ctx: &mut Context,
        account: &mut Account,
    ) -> Result<(), Refusal> {
        let mut added = std::mem::take(&mut self.memory.added);
        let mut out = std::mem::take(&mut self.memory.request);
        let headers = self.headers();
        let head = self.head(request, &headers);
        let mut rewrite = Rewrite::new(headers, &mut added);
        rewrite.remove_hop_by_hop();
        let injected = self.lane.conduct.inject(&head, ctx, &mut rewrite);
        for part in [head.method, " ", head.target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        rewrite.render(&mut out);
        out.extend_from_slice(b"\r\n");
        let memory = &mut self.memory;
        let here = memory.up.data();
        let here = &here[..here
            .len()
            .min(usize::try_from(request.body).unwrap_or(usize::MAX))];
        out.extend_from_slice(here);
        account.bytes_in = here.len() as u64;
        account.body_left = request.body - account.bytes_in;
        memory.up.consume(here.len());
        memory.added = added;
        memory.request = out;
        injected
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Small requests must not wait for acknowledgements; a socket that cannot be told still works.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
