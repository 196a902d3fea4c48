//! One look at an upstream: does it take a connection, or answer as its owner says it should.

use std::net::SocketAddr;
use std::time::Duration;

use patchbay_common::health_check::HealthCheck;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_http::RequestHeader;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Upstream;

/// What is sent as `User-Agent`.
const AGENT: &str = "Patchbay health check";
/// Least time between checks, whatever is asked for.
const SHORTEST: Duration = Duration::from_millis(100);

/// How an upstream is checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// It has to take a connection.
    Tcp {
        /// Between checks.
        interval: Duration,
        /// Patience.
        patience: Duration,
    },
    /// It has to answer a GET.
    Http {
        /// Between checks.
        interval: Duration,
        /// Patience, from the connect to the answer's head.
        patience: Duration,
        /// Path and query.
        path: String,
        /// Status of a good answer.
        status: u16,
        /// Failures in a row that take it out of service.
        failures: u32,
        /// How long failures are not held against a new upstream.
        grace: Duration,
    },
}

impl Check {
    /// As an endpoint's owner wishes; `None` if it is switched off.
    pub fn of(wish: &HealthCheck) -> Option<Self> {
        wish.enable.then(|| Self::Http {
            interval: seconds(wish.interval).max(SHORTEST),
            patience: seconds(wish.max_wait_time).max(SHORTEST),
            path: if wish.path.starts_with('/') {
                wish.path.clone()
            } else {
                format!("/{}", wish.path)
            },
            status: wish.expected_status_code,
            failures: wish.max_retries.max(1),
            grace: seconds(wish.initial_delay),
        })
    }

    /// Between checks.
    pub(super) fn interval(&self) -> Duration {
        match self {
            Self::Tcp { interval, .. } | Self::Http { interval, .. } => *interval,
        }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// What is wrong with the upstream, in few words.
    pub(super) async fn run(&self, upstream: &Upstream) -> Result<(), String> {
        let (patience, attempt) = match self {
            Self::Tcp { patience, .. } => (*patience, None),
            Self::Http {
                patience,
                path,
                status,
                ..
            } => (*patience, Some((path, *status))),
        };
        let look = async {
            let address = upstream
                .address()
                .await
                .map_err(|error| error.to_string())?;
            match attempt {
                None => connect(address).await.map(drop),
                Some((path, status)) => ask(address, &upstream.label, path, status).await,
            }
        };
        match timeout(patience, look).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", patience.as_secs_f64())),
        }
    }
}

/// Seconds as wires carry them; what no duration can hold is none.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())
}

async fn ask(address: SocketAddr, host: &str, path: &str, wanted: u16) -> Result<(), String> {
    let stream = connect(address).await?;
    let request = || -> pingora_core::Result<RequestHeader> {
        let mut request = RequestHeader::build("GET", path.as_bytes(), Some(3))?;
        request.insert_header("host", host)?;
        request.insert_header("user-agent", AGENT)?;
        request.insert_header("connection", "close")?;
        Ok(request)
    };
    let unusable = |error: Box<pingora_core::Error>| error.etype().as_str().to_owned();
    let request = request().map_err(unusable)?;
    let mut session = HttpSession::new(Box::new(Stream::from(stream)));
    session
        .write_request_header(Box::new(request))
        .await
        .map_err(unusable)?;
    let status = loop {
        session.read_response().await.map_err(unusable)?;
        match session.resp_header().map(|head| head.status.as_u16()) {
            // Interim answers come before the real one (RFC 9110 §15.2).
            Some(100..=199) => {}
            Some(status) => break status,
            None => return Err("no answer".to_owned()),
        }
    };
    if status == wanted {
        Ok(())
    } else {
        Err(format!("status {status} instead of {wanted}"))
    }
}
