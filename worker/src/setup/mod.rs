//! The handshake between the coordinator's redirect and the app: a signed setup token comes in, a
//! permit for one circuit goes out (contract/rest-worker.md §2). On the app's own host the permit
//! is set as a cookie at once; elsewhere the browser carries a ticket there, which `proxy` has
//! [`Tickets`] exchange. The room knows the table and may ask the coordinator once for a circuit
//! whose event is still under way; it refuses to know HTTP beyond locations and cookies. `admin`
//! calls it.

mod address;
mod cookie;
mod redirect;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::Arc;

use patchbay_common::circuit::{AppMode, Circuit, Protocol};
use patchbay_common::grant::{self, Grant};
use patchbay_common::id::WorkerId;
use patchbay_common::permit::{PermitKey, Ticket};
use patchbay_common::token::{SetupClaims, TokenError, TokenKey};
use uuid::Uuid;

use crate::config::Config;
use crate::sync::{CallError, Coordinator};
use crate::table::{LiveCircuit, Table};
use address::AppAddress;
use cookie::Cookies;

pub use ticket::{Redeemed, TicketError, Tickets};

/// Path on an app's own host where a ticket is exchanged for a permit.
pub const PERMIT_PATH: &str = "/.patchbay/permit";

/// Seconds a browser has to carry a ticket to the app's host.
const TICKET_LIFETIME: u64 = 30;

/// Why there is no permit.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The request names no token.
    #[error("token: Field required")]
    NoToken,
    /// The token does not hold.
    #[error("Invalid setup token ({0})")]
    Token(#[from] TokenError),
    /// The token is good no more: what it grants was revoked.
    #[error("The link to the app has been revoked: open the app again")]
    Revoked,
    /// The circuit is not open, or not on this worker.
    #[error("The app is not open on this worker: open it again")]
    NoCircuit,
    /// Inference circuits are used with a token.
    #[error("E20011: Not supported for inference apps")]
    Inference,
    /// The circuit carries neither HTTP nor TCP.
    #[error("E20002: Protocol not available as interactive app")]
    Protocol,
    /// The coordinator could not be asked.
    #[error("The coordinator cannot be asked at the moment")]
    Coordinator(#[from] CallError),
}

/// A request for a permit.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The setup token.
    pub token: &'a str,
    /// The host the browser used, without its port.
    pub host: Option<&'a str>,
    /// This worker's key, if it is registered.
    pub worker: Option<WorkerId>,
    /// Unix seconds.
    pub now: u64,
}

/// What to answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Send the browser there, with these cookies.
    Redirect {
        /// Where to.
        location: String,
        /// Values of `Set-Cookie`.
        cookies: Vec<String>,
    },
    /// Tell a program where the TCP app is.
    Gateway(String),
}

/// The handshake.
#[derive(Debug)]
pub struct Setup {
    address: AppAddress,
    cookies: Cookies,
    tokens: TokenKey,
    permits: PermitKey,
    table: Arc<Table>,
    coordinator: Coordinator,
}

impl Setup {
    /// As configured.
    pub fn new(config: &Config, table: Arc<Table>, coordinator: Coordinator) -> Self {
        Self {
            address: AppAddress::new(config),
            cookies: Cookies::new(config),
            tokens: config.tokens.clone(),
            permits: config.permits.clone(),
            table,
            coordinator,
        }
    }

    /// Answers a request for a permit.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn answer(&self, ask: Ask<'_>) -> Result<Answer, SetupError> {
        let claims: SetupClaims = self.tokens.verify(ask.token)?;
        let circuit = self.circuit(&claims, ask.worker).await?;
        if circuit.app_mode == AppMode::Inference {
            return Err(SetupError::Inference);
        }
        let grant = match &claims.jti {
            Some(jti) if grant::is_name(jti) => Grant::named(jti.clone()),
            // Of a Python coordinator's, which revokes nothing.
            _ => Grant::named(grant::new_name().to_string()),
        };
        let live = self.table.by_id(circuit.id);
        let denied = |live: Arc<LiveCircuit>| live.grants.denies(&grant, ask.now);
        if circuit.revocations.denies(&grant, ask.now) || live.is_some_and(denied) {
            return Err(SetupError::Revoked);
        }
        let asked = claims.redirect.as_deref().unwrap_or_default();
        match circuit.protocol.carried() {
            Protocol::Http => self.http(&circuit, &grant.name, asked, ask),
            Protocol::Tcp => self.tcp(&circuit, asked, ask),
            _ => Err(SetupError::Protocol),
        }
    }

    /// The circuit, from the table, or from the coordinator if its event is still under way.
    async fn circuit(
        &self,
        claims: &SetupClaims,
        worker: Option<WorkerId>,
    ) -> Result<Circuit, SetupError> {
        if let Some(live) = self.table.by_id(claims.circuit) {
            return Ok(live.circuit.clone());
        }
        let found = self.coordinator.circuit(claims.circuit).await?;
        found
            .filter(|circuit| Some(circuit.worker) == worker)
            .ok_or(SetupError::NoCircuit)
    }

    fn http(
        &self,
        circuit: &Circuit,
        grant: &str,
        asked: &str,
        ask: Ask<'_>,
    ) -> Result<Answer, SetupError> {
        let base = self
            .address
            .base(circuit, ask.host)
            .ok_or(SetupError::NoCircuit)?;
        let mut cookies = Vec::from_iter(self.cookies.legacy(circuit));
        let path = redirect::path(asked);
        if self.address.is_here(circuit, ask.host) {
            cookies.push(self.cookies.permit(circuit, grant, ask.now));
            let location = format!("{base}{path}");
            return Ok(Answer::Redirect { location, cookies });
        }
        let ticket = self.permits.issue_ticket(&Ticket {
            circuit: circuit.id,
            grant: grant.to_owned(),
            jti: Uuid::new_v4(),
            expires: ask.now + TICKET_LIFETIME,
            redirect: path,
        });
        let location = format!("{base}{PERMIT_PATH}?ticket={ticket}");
        Ok(Answer::Redirect { location, cookies })
    }

    /// Where a program on the user's machine finds the port (contract/rest-worker.md §2).
    fn tcp(&self, circuit: &Circuit, asked: &str, ask: Ask<'_>) -> Result<Answer, SetupError> {
        let gateway = self
            .address
            .gateway(circuit, ask.host)
            .ok_or(SetupError::Protocol)?;
        let start = format!(
            "http://localhost:45678/start?directTCP=true&auth={}&proto=tcp&gateway=",
            ask.token
        );
        if asked.is_empty() {
            let escaped = gateway.replace(':', "%3A").replace('/', "%2F");
            return Ok(Answer::Gateway(start + &escaped));
        }
        Ok(Answer::Redirect {
            location: start + &gateway,
            cookies: Vec::new(),
        })
    }
}
