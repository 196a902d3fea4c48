//! gRPC by hand, over the `h2` library on both sides: a kernel that offers one method of every
//! kind, and a client that sees heads, messages and trailers as they come.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest until a head, a message or trailers arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// A window that never holds up a scenario.
const WINDOW: u32 = 16 << 20;

/// What the kernel tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Told {
    connections: Arc<AtomicUsize>,
    resets: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<Request<()>>>>,
}

/// A kernel that speaks gRPC; it ends when dropped.
#[derive(Debug)]
pub struct Kernel {
    /// Where it listens.
    pub address: SocketAddr,
    told: Told,
    task: JoinHandle<()>,
}

impl Kernel {
    /// Starts one on a free loopback port.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let told = Told::default();
        let teller = told.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                teller.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, teller.clone()));
            }
        });
        Ok(Self {
            address,
            told,
            task,
        })
    }

    /// Connections it was given.
    pub fn connections(&self) -> usize {
        self.told.connections.load(Ordering::SeqCst)
    }

    /// Calls of `Hangs` that were reset.
    pub fn resets(&self) -> usize {
        self.told.resets.load(Ordering::SeqCst)
    }

    /// The head of the last call.
    ///
    /// # Errors
    /// If there was none.
    pub fn last_head(&self) -> anyhow::Result<Request<()>> {
        let heads = self.told.heads.lock();
        let heads = heads.unwrap_or_else(PoisonError::into_inner);
        heads.last().cloned().context("nobody has called")
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, told: Told) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW);
    builder.initial_connection_window_size(WINDOW);
    builder.max_concurrent_streams(10_000);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let told = told.clone();
        // A call that breaks is seen by the client.
        tokio::spawn(async move { call(request, respond, told).await });
    }
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    told: Told,
) -> anyhow::Result<()> {
    let (head, mut body) = request.into_parts();
    let method = head
        .uri
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let mut seen = Request::new(());
    *seen.method_mut() = head.method;
    *seen.uri_mut() = head.uri;
    *seen.headers_mut() = head.headers;
    let id = seen.headers().get("x-ask").cloned();
    told.heads
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen);
    let mut answer = Response::new(());
    let headers = answer.headers_mut();
    headers.insert("content-type", "application/grpc".parse()?);
    if method == "TrailersOnly" {
        headers.insert("grpc-status", "9".parse()?);
        headers.insert("grpc-message", "not now".parse()?);
        respond.send_response(answer, true)?;
        return Ok(());
    }
    headers.insert("x-initial", "of the app".parse()?);
    let mut send = respond.send_response(answer, false)?;
    match method.as_str() {
        "Unary" => {
            let message = whole(&mut body).await?;
            send.send_data(message, false)?;
        }
        "ServerStreams" => {
            let mut message = whole(&mut body).await?;
            message.advance(5);
            for number in 0..message.get_u32() {
                send.send_data(framed(&number.to_be_bytes()), false)?;
            }
        }
        "ClientStreams" => {
            let total = whole(&mut body).await?.len() as u64;
            send.send_data(framed(&total.to_be_bytes()), false)?;
        }
        "Bidi" => {
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                send.send_data(piece, false)?;
            }
        }
        _ => {
            let reset = futures_util::future::poll_fn(|cx| send.poll_reset(cx)).await;
            if reset.is_ok() {
                told.resets.fetch_add(1, Ordering::SeqCst);
            }
            return Ok(());
        }
    }
    send.send_trailers(trailers(id)?)?;
    Ok(())
}

fn trailers(told: Option<http::HeaderValue>) -> anyhow::Result<HeaderMap> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse()?);
    if let Some(told) = told {
        trailers.insert("x-told", told);
    }
    Ok(trailers)
}

async fn whole(body: &mut RecvStream) -> anyhow::Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// A message in its frame, not compressed.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// A client's connection.
#[derive(Debug)]
pub struct Client {
    send: h2::client::SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<()>,
}

/// A call under way.
#[derive(Debug)]
pub struct Call {
    /// Takes messages.
    pub send: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
}

/// What a call came to.
#[derive(Debug)]
pub struct Reply {
    /// The answer's head.
    pub head: Response<()>,
    /// Its messages, in their frames.
    pub body: Bytes,
    /// Its trailers, if it has any.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// A header of the trailers, or of the head where there are none.
    pub fn status(&self, name: &str) -> &str {
        let headers = self.trailers.as_ref().unwrap_or(self.head.headers());
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

impl Client {
    /// Connects in plaintext, with prior knowledge.
    ///
    /// # Errors
    /// If nobody speaks HTTP/2 there.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Self::over("http", &address.to_string(), stream).await
    }

    /// Speaks over this stream.
    ///
    /// # Errors
    /// If nobody speaks HTTP/2 there.
    pub async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        scheme: &str,
        host: &str,
        stream: S,
    ) -> anyhow::Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW);
        builder.initial_connection_window_size(WINDOW);
        let shaking = builder.handshake(stream);
        let (send, connection) = tokio::time::timeout(PATIENCE, shaking).await??;
        let driver = tokio::spawn(async move {
            // Its end shows in the calls.
            let _ = connection.await;
        });
        Ok(Self {
            send,
            authority: format!("{scheme}://{host}"),
            driver,
        })
    }

    /// Begins a call with these headers beside gRPC's own.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn call(&self, method: &str, headers: &[(&str, &str)]) -> anyhow::Result<Call> {
        let uri = format!("{}/scenario.Kinds/{method}", self.authority);
        let mut request = Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = tokio::time::timeout(PATIENCE, self.send.clone().ready())
            .await
            .context("no stream is to be had")??;
        let (response, send) = ready.send_request(request.body(())?, false)?;
        Ok(Call {
            send,
            response: Some(response),
            body: None,
        })
    }

    /// A call with one message.
    ///
    /// # Errors
    /// If the answer does not come.
    pub async fn unary(
        &self,
        method: &str,
        message: &[u8],
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Reply> {
        let mut call = self.call(method, headers).await?;
        call.send.send_data(framed(message), true)?;
        call.reply().await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Call {
    /// The answer's head.
    ///
    /// # Errors
    /// If it does not come, or has come before.
    pub async fn head(&mut self) -> anyhow::Result<Response<()>> {
        let response = self.response.take().context("the head has come")?;
        let response = tokio::time::timeout(PATIENCE, response).await;
        let (head, body) = response.context("no head")??.into_parts();
        self.body = Some(body);
        Ok(Response::from_parts(head, ()))
    }

    /// The next piece of the answer; `None` at its end.
    ///
    /// # Errors
    /// If none comes or the stream breaks.
    pub async fn piece(&mut self) -> anyhow::Result<Option<Bytes>> {
        let body = self.body.as_mut().context("no head yet")?;
        let piece = tokio::time::timeout(PATIENCE, body.data()).await;
        let piece = piece.context("no message")?.transpose()?;
        if let Some(piece) = &piece {
            body.flow_control().release_capacity(piece.len())?;
        }
        Ok(piece)
    }

    /// The rest of the answer.
    ///
    /// # Errors
    /// If it does not come or the stream breaks.
    pub async fn reply(mut self) -> anyhow::Result<Reply> {
        let head = self.head().await?;
        ensure!(head.status() == 200, "{head:?}");
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            all.extend_from_slice(&piece);
        }
        let mut body = self.body.take().context("no body")?;
        let trailers = tokio::time::timeout(PATIENCE, body.trailers()).await;
        Ok(Reply {
            head,
            body: all.freeze(),
            trailers: trailers.context("no trailers")??,
        })
    }

    /// The first message; more of it may follow.
    ///
    /// # Errors
    /// If none comes.
    pub async fn message(&mut self, length: usize) -> anyhow::Result<Bytes> {
        let mut all = BytesMut::new();
        while all.len() < length + 5 {
            all.extend_from_slice(&self.piece().await?.context("the answer ends")?);
        }
        ensure!(all.len() == length + 5, "{} bytes", all.len());
        Ok(all.freeze().slice(5..))
    }
}
