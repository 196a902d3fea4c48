//! The agent's end: it is asked for streams.

use std::io;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::keep_alive::{Asked, asking, watch_over};
use super::stream::to_io;
use super::{CONNECTION_WINDOW, FRAME, MuxStream, REASON, RESET_STREAMS, SEND_BUFFER, Settings};

/// The connection itself; nothing moves unless [`AgentEnd::run`] is polled.
pub struct AgentEnd<T> {
    connection: server::Connection<T, Bytes>,
    asked: Asked,
    settings: Settings,
}

/// A stream that is asked for.
pub struct Call {
    tunnel: String,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> AgentEnd<T> {
    /// Begins on a connection that has been upgraded.
    ///
    /// # Errors
    /// If the connection breaks or speaks something else.
    pub async fn begin(io: T, settings: Settings) -> io::Result<Self> {
        let connection = server::Builder::new()
            .initial_window_size(settings.window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(settings.streams)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .handshake(io)
            .await
            .map_err(to_io)?;
        let (_, asked) = asking();
        Ok(Self {
            connection,
            asked,
            settings,
        })
    }

    /// Hands every stream that is asked for to `take`, until the connection ends or its other end
    /// gives no sign of life.
    ///
    /// # Errors
    /// Why it ended, unless it was ended in order.
    pub async fn run(mut self, mut take: impl FnMut(Call)) -> io::Result<()> {
        let Some(pings) = self.connection.ping_pong() else {
            return Ok(());
        };
        let silence = watch_over(pings, self.settings, self.asked);
        tokio::pin!(silence);
        loop {
            let accepted = tokio::select! {
                accepted = self.connection.accept() => accepted,
                () = &mut silence => return Err(io::ErrorKind::TimedOut.into()),
            };
            match accepted {
                Some(Ok((request, respond))) => take(Call {
                    tunnel: request.uri().path().trim_start_matches('/').to_owned(),
                    receive: request.into_body(),
                    respond,
                }),
                Some(Err(error)) => return Err(to_io(error)),
                None => return Ok(()),
            }
        }
    }
}

impl Call {
    /// The tunnel it is for.
    pub fn tunnel(&self) -> &str {
        &self.tunnel
    }

    /// The service has been reached: the stream to splice it with.
    ///
    /// # Errors
    /// If the connection has ended.
    pub fn accept(mut self) -> io::Result<MuxStream> {
        let send = self
            .respond
            .send_response(Response::new(()), false)
            .map_err(to_io)?;
        Ok(MuxStream::new(send, self.receive))
    }

    /// There is no such tunnel here.
    pub fn unknown(self) {
        self.refuse(StatusCode::NOT_FOUND, "");
    }

    /// The service did not take the connection in time.
    pub fn timed_out(self) {
        self.refuse(StatusCode::GATEWAY_TIMEOUT, "");
    }

    /// There is as much to do as there may be.
    pub fn busy(self) {
        self.refuse(StatusCode::SERVICE_UNAVAILABLE, "");
    }

    /// The service cannot be reached.
    pub fn unreachable(self, reason: &str) {
        self.refuse(StatusCode::BAD_GATEWAY, reason);
    }

    fn refuse(mut self, status: StatusCode, reason: &str) {
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        if let Ok(reason) = HeaderValue::from_str(reason) {
            answer.headers_mut().insert(REASON, reason);
        }
        // If it cannot be said, the connection is gone and the other end knows.
        let _ = self.respond.send_response(answer, true);
    }
}
