//! Tickets: what a browser carries from `/setup` to the app's own host, and exchanges there, once,
//! for a permit.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use patchbay_common::grant::Grant;
use patchbay_common::permit::{PermitError, PermitKey};
use uuid::Uuid;

use super::cookie::Cookies;
use super::redirect;
use crate::config::Config;
use crate::table::LiveCircuit;

/// Most used tickets remembered. A ticket lives half a minute, so that this is reached only above
/// two thousand openings a second; then tickets are refused rather than accepted twice.
const REMEMBERED: usize = 65_536;

/// What a ticket is exchanged for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// Values of `Set-Cookie`.
    pub set_cookie: Vec<String>,
    /// Path to send the browser to.
    pub location: String,
}

/// Why a ticket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not ours, for another circuit, or expired.
    #[error(transparent)]
    Permit(#[from] PermitError),
    /// What it comes of was revoked.
    #[error("the ticket has been revoked")]
    Revoked,
    /// Exchanged before.
    #[error("the ticket has been used")]
    Used,
    /// Too many were exchanged lately.
    #[error("too many tickets at once")]
    Crowded,
}

/// Exchanges tickets.
#[derive(Debug)]
pub struct Tickets {
    permits: PermitKey,
    cookies: Cookies,
    /// Used tickets that have not expired yet, by expiry.
    used: Mutex<BTreeSet<(u64, Uuid)>>,
}

impl Tickets {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            permits: config.permits.clone(),
            cookies: Cookies::new(config),
            used: Mutex::default(),
        }
    }

    /// Exchanges the ticket in `text` for a permit of `circuit`, at `now` (Unix seconds).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn redeem(
        &self,
        text: &str,
        live: &LiveCircuit,
        now: u64,
    ) -> Result<Redeemed, TicketError> {
        let circuit = &live.circuit;
        let ticket = self.permits.verify_ticket(text, now)?;
        if ticket.circuit != circuit.id {
            return Err(PermitError::Foreign.into());
        }
        if live.grants.denies(&Grant::named(&*ticket.grant), now) {
            return Err(TicketError::Revoked);
        }
        self.use_up(ticket.jti, ticket.expires, now)?;
        let location = match redirect::path(&ticket.redirect) {
            path if path.is_empty() => "/".to_owned(),
            path => path,
        };
        Ok(Redeemed {
            set_cookie: vec![self.cookies.permit(circuit, &ticket.grant, now)],
            location,
        })
    }

    fn use_up(&self, jti: Uuid, expires: u64, now: u64) -> Result<(), TicketError> {
        // Each change of the set is one call: a panic between them leaves nothing half-made.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.first().is_some_and(|(expires, _)| *expires <= now) {
            used.pop_first();
        }
        if used.contains(&(expires, jti)) {
            return Err(TicketError::Used);
        }
        if used.len() >= REMEMBERED {
            return Err(TicketError::Crowded);
        }
        used.insert((expires, jti));
        Ok(())
    }
}
