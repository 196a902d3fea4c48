//! The gateway's end: it opens streams.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::keep_alive::{Asked, Asker, asking, watch_over};
use super::stream::to_io;
use super::{CONNECTION_WINDOW, FRAME, MuxStream, REASON, RESET_STREAMS, SEND_BUFFER, Settings};
use crate::tunnel::TunnelId;

/// The connection itself; nothing moves unless [`GatewayEnd::run`] is polled.
pub struct GatewayEnd<T> {
    connection: client::Connection<T, Bytes>,
    pings: Option<h2::PingPong>,
    asked: Asked,
    settings: Settings,
}

/// Opens streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: SendRequest<Bytes>,
    asker: Asker,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection has ended, or ended while we waited.
    #[error("the agent's connection broke off")]
    Gone,
    /// The agent lends no such tunnel.
    #[error("the agent does not lend this tunnel")]
    Unknown,
    /// The service did not take the connection in time.
    #[error("the service did not take the connection in time")]
    TimedOut,
    /// Who lends it has as much to do as it may.
    #[error("the agent is busy")]
    Busy,
    /// The service could not be reached.
    #[error("the agent cannot reach the service: {0}")]
    Unreachable(String),
}

impl<T: AsyncRead + AsyncWrite + Unpin> GatewayEnd<T> {
    /// Begins on a connection that has been upgraded.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn begin(io: T, settings: Settings) -> io::Result<(Opener, Self)> {
        let (requests, mut connection) = client::Builder::new()
            .initial_window_size(settings.window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .max_concurrent_reset_streams(RESET_STREAMS)
            // Counted over the whole life of a connection: what still arrives for streams that
            // visitors have left would end an agent's connection one day.
            .max_local_error_reset_streams(None)
            .handshake(io)
            .await
            .map_err(to_io)?;
        let (asker, asked) = asking();
        let pings = connection.ping_pong();
        Ok((
            Opener { requests, asker },
            Self {
                connection,
                pings,
                asked,
                settings,
            },
        ))
    }

    /// Carries all streams until the connection ends or its other end gives no sign of life.
    pub async fn run(self) {
        let Some(pings) = self.pings else { return };
        tokio::select! {
            _ = self.connection => {}
            () = watch_over(pings, self.settings, self.asked) => {}
        }
    }
}

impl Opener {
    /// Opens a stream to the service behind a tunnel; returns once the agent has reached it.
    /// Waits where as many streams are open as may be: the caller bounds that.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, tunnel: &TunnelId) -> Result<MuxStream, OpenError> {
        let requests = self.requests.clone().ready().await;
        let mut requests = requests.map_err(|_| OpenError::Gone)?;
        let request = Request::post(format!("http://agent/{tunnel}"))
            .body(())
            .map_err(|_| OpenError::Unknown)?;
        let (answer, send) = requests
            .send_request(request, false)
            .map_err(|_| OpenError::Gone)?;
        let answer = answer.await.map_err(|_| OpenError::Gone)?;
        match answer.status() {
            StatusCode::OK => Ok(MuxStream::new(send, answer.into_body())),
            StatusCode::NOT_FOUND => Err(OpenError::Unknown),
            StatusCode::GATEWAY_TIMEOUT => Err(OpenError::TimedOut),
            StatusCode::SERVICE_UNAVAILABLE => Err(OpenError::Busy),
            _ => {
                let reason = answer.headers().get(REASON);
                let reason = reason.map(|value| String::from_utf8_lossy(value.as_bytes()));
                Err(OpenError::Unreachable(
                    reason.unwrap_or_default().into_owned(),
                ))
            }
        }
    }

    /// Whether the agent gives a sign of life within `patience`.
    pub async fn answers(&self, patience: Duration) -> bool {
        let mut requests = self.requests.clone();
        let usable = timeout(patience, std::future::poll_fn(|cx| requests.poll_ready(cx))).await;
        !matches!(usable, Ok(Err(_))) && self.asker.answers(patience).await
    }
}
