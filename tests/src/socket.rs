//! WebSocket connections through a door.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::rig::Door;

/// An open WebSocket connection.
pub type Socket = WebSocketStream<TcpStream>;

/// Longest until a message arrives.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a handshake came to.
#[derive(Debug)]
pub enum Handshake {
    /// 101.
    Open(Box<Socket>, Response),
    /// Anything else, with the body as text.
    Refused(StatusCode, String),
}

/// Opens a path of the app with the door's permit and these headers.
///
/// # Errors
/// If the handshake is refused or breaks.
pub async fn open(
    door: &Door,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<(Socket, Response)> {
    let cookie = door.cookie();
    match handshake(door, path, &cookie, headers).await? {
        Handshake::Open(socket, response) => Ok((*socket, response)),
        Handshake::Refused(status, body) => anyhow::bail!("{path} answers {status}: {body}"),
    }
}

/// Tries to open a path of the app with this `Cookie` header, none if it is empty.
///
/// # Errors
/// If the handshake breaks.
pub async fn handshake(
    door: &Door,
    path: &str,
    cookie: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<Handshake> {
    let url = format!("ws://{}{path}", door.host());
    let cookie = Some(("cookie", cookie)).filter(|(_, cookie)| !cookie.is_empty());
    let headers: Vec<_> = cookie.into_iter().chain(headers.iter().copied()).collect();
    handshake_at(&url, door.address()?, &headers).await
}

/// Tries to open `url`, whatever its host, at this address; a `Host` among the headers wins.
///
/// # Errors
/// If the handshake breaks.
pub async fn handshake_at(
    url: &str,
    address: SocketAddr,
    headers: &[(&str, &str)],
) -> anyhow::Result<Handshake> {
    let mut request = url.into_client_request()?;
    for (name, value) in headers {
        let (name, value) = (HeaderName::try_from(*name)?, HeaderValue::try_from(*value)?);
        if name == http::header::HOST {
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    let stream = TcpStream::connect(address).await?;
    let shaking = tokio_tungstenite::client_async(request, stream);
    let shaken = tokio::time::timeout(PATIENCE, shaking).await;
    match shaken.context("no answer to a WebSocket handshake")? {
        Ok((socket, response)) => Ok(Handshake::Open(Box::new(socket), response)),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = String::from_utf8_lossy(body).into_owned();
            Ok(Handshake::Refused(response.status(), body))
        }
        Err(problem) => Err(problem.into()),
    }
}

/// The next message.
///
/// # Errors
/// If none comes or the connection breaks.
pub async fn next(socket: &mut Socket) -> anyhow::Result<Message> {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await;
    let message = message.context("no message")?;
    Ok(message.context("the connection ended without a close")??)
}
