//! Permit cookies: what lets a browser use an interactive circuit.
//!
//! Two forms exist. The **legacy** form is the incumbent's: an HMAC of the user's id, the same for
//! every app, good for ever (contract/rest-worker.md §2). The **bound** form is ours:
//! `v1.{jti}.{expiry}.{mac}`, good for one circuit of one user until it expires.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::grant;
use crate::id::{CircuitId, UserId};

/// Name of the legacy cookie, and the stem of ours.
pub const LEGACY_COOKIE: &str = "appproxy_permit";

/// The hash of a permit's HMAC (`permit_hash.digest_mod`; any case is accepted).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Digest {
    /// SHA-224.
    Sha224,
    /// SHA-256, the default.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.to_ascii_lowercase().as_str() {
            "sha224" => Ok(Self::Sha224),
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            _ => Err(serde::de::Error::custom(format!(
                "`{name}` is not one of sha224, sha256, sha384, sha512"
            ))),
        }
    }
}

/// Why a permit was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// Not in a form we issue, or issued for another circuit or user, or altered.
    #[error("the permit does not belong to this circuit")]
    Foreign,
    /// Its time is over.
    #[error("the permit has expired")]
    Expired,
}

/// The cookie name of a circuit's own permit. Cookies ignore ports, so apps on one host need
/// names of their own.
pub fn cookie_name(circuit: CircuitId) -> String {
    format!("{LEGACY_COOKIE}_{}", circuit.0.simple())
}

/// The key permits and tickets are made and checked with.
#[derive(Clone)]
pub struct PermitKey {
    secret: Vec<u8>,
    digest: Digest,
}

impl PermitKey {
    /// A key over the UTF-8 bytes of `permit_hash.secret`.
    pub fn new(secret: &str, digest: Digest) -> Self {
        Self {
            secret: secret.as_bytes().to_vec(),
            digest,
        }
    }

    /// The incumbent's permit for a user.
    pub fn legacy(&self, user: UserId) -> String {
        let mac = self.mac(user.to_string().as_bytes());
        STANDARD.encode(hex(&mac))
    }

    /// Whether `value` is the incumbent's permit for `user`.
    pub fn verify_legacy(&self, value: &str, user: UserId) -> Result<(), PermitError> {
        equal(value.as_bytes(), self.legacy(user).as_bytes())
    }

    /// A permit for one circuit, good until `expires` (Unix seconds), of a grant of its own.
    pub fn issue(&self, circuit: CircuitId, user: Option<UserId>, expires: u64) -> String {
        let name = grant::new_name().to_string();
        self.issue_as(circuit, user, &name, expires)
    }

    /// The same, with the name of the grant it comes of.
    pub fn issue_as(
        &self,
        circuit: CircuitId,
        user: Option<UserId>,
        jti: &str,
        expires: u64,
    ) -> String {
        let mac = self.mac(message(circuit, user, jti, expires).as_bytes());
        format!("v1.{jti}.{expires}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// What `value` says, if it is a permit for this circuit and user that holds at `now` (Unix
    /// seconds).
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify<'v>(
        &self,
        value: &'v str,
        circuit: CircuitId,
        user: Option<UserId>,
        now: u64,
    ) -> Result<Permit<'v>, PermitError> {
        let mut parts = value.split('.');
        let (Some("v1"), Some(jti), Some(expires), Some(mac), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(PermitError::Foreign);
        };
        let expires: u64 = expires.parse().map_err(|_| PermitError::Foreign)?;
        let mac = URL_SAFE_NO_PAD
            .decode(mac)
            .map_err(|_| PermitError::Foreign)?;
        let expected = self.mac(message(circuit, user, jti, expires).as_bytes());
        equal(&mac, &expected)?;
        if expires <= now {
            return Err(PermitError::Expired);
        }
        Ok(Permit {
            grant: jti,
            expires,
        })
    }

    /// What a permit says, whether or not it is one of ours.
    pub fn said(value: &str) -> Option<Permit<'_>> {
        let mut parts = value.split('.').skip(1);
        Some(Permit {
            grant: parts.next()?,
            expires: parts.next()?.parse().ok()?,
        })
    }

    /// A ticket to be exchanged for a permit on the app's own host.
    pub fn issue_ticket(&self, ticket: &Ticket) -> String {
        let body = serde_json::to_vec(ticket).unwrap_or_default();
        let mac = self.mac(&[b"ticket\n", body.as_slice()].concat());
        format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(body),
            URL_SAFE_NO_PAD.encode(mac)
        )
    }

    /// The ticket in `text`, if it is ours and holds at `now` (Unix seconds). The caller sees to
    /// it that each is used once.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_ticket(&self, text: &str, now: u64) -> Result<Ticket, PermitError> {
        let (body, mac) = text.split_once('.').ok_or(PermitError::Foreign)?;
        let decode = |part| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| PermitError::Foreign)
        };
        let (body, mac) = (decode(body)?, decode(mac)?);
        equal(&mac, &self.mac(&[b"ticket\n", body.as_slice()].concat()))?;
        let ticket: Ticket = serde_json::from_slice(&body).map_err(|_| PermitError::Foreign)?;
        if ticket.expires <= now {
            return Err(PermitError::Expired);
        }
        Ok(ticket)
    }

    fn mac(&self, message: &[u8]) -> Vec<u8> {
        fn run<M: Mac + hmac::digest::KeyInit>(secret: &[u8], message: &[u8]) -> Vec<u8> {
            // HMAC takes keys of any length; the error arm cannot be reached and refuses all.
            <M as Mac>::new_from_slice(secret)
                .map(|mut mac| {
                    mac.update(message);
                    mac.finalize().into_bytes().to_vec()
                })
                .unwrap_or_default()
        }
        match self.digest {
            Digest::Sha224 => run::<Hmac<Sha224>>(&self.secret, message),
            Digest::Sha256 => run::<Hmac<Sha256>>(&self.secret, message),
            Digest::Sha384 => run::<Hmac<Sha384>>(&self.secret, message),
            Digest::Sha512 => run::<Hmac<Sha512>>(&self.secret, message),
        }
    }
}

impl fmt::Debug for PermitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PermitKey({:?}, ***)", self.digest)
    }
}

/// What a permit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit<'v> {
    /// Name of the grant it comes of.
    pub grant: &'v str,
    /// Unix seconds from which it is void.
    pub expires: u64,
}

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// The circuit to hand a permit out for.
    pub circuit: CircuitId,
    /// Name of the grant it comes of, which the permit keeps.
    pub grant: String,
    /// Makes the ticket one of a kind, so that it can be used once.
    pub jti: Uuid,
    /// Unix seconds after which it is void.
    pub expires: u64,
    /// Path the browser goes on to.
    pub redirect: String,
}

fn message(circuit: CircuitId, user: Option<UserId>, jti: &str, expires: u64) -> String {
    let user = user.map(|user| user.to_string()).unwrap_or_default();
    format!("permit\n{circuit}\n{user}\n{jti}\n{expires}")
}

fn equal(left: &[u8], right: &[u8]) -> Result<(), PermitError> {
    let same = !right.is_empty() && bool::from(left.ct_eq(right));
    same.then_some(()).ok_or(PermitError::Foreign)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        })
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PermitKey {
        PermitKey::new("some_permit_hash_secret", Digest::Sha256)
    }

    #[test]
    fn a_permit_is_good_for_its_circuit_user_and_time_only() {
        let (circuit, user) = (CircuitId::random(), Some(UserId::random()));
        let permit = key().issue_as(circuit, user, "jti-1", 100);
        let said = Permit {
            grant: "jti-1",
            expires: 100,
        };
        assert_eq!(key().verify(&permit, circuit, user, 99), Ok(said));
        assert_eq!(PermitKey::said(&permit), Some(said));
        let renamed = permit.replacen("jti-1", "jti-2", 1);
        let foreign = Err(PermitError::Foreign);
        assert_eq!(key().verify(&renamed, circuit, user, 1), foreign);
        assert_eq!(
            key().verify(&permit, circuit, user, 100),
            Err(PermitError::Expired)
        );
        assert_eq!(key().verify(&permit, CircuitId::random(), user, 1), foreign);
        assert_eq!(key().verify(&permit, circuit, None, 1), foreign);
        let later = permit.replacen(".100.", ".900.", 1);
        assert_eq!(key().verify(&later, circuit, user, 1), foreign);
        let other = PermitKey::new("other", Digest::Sha256);
        assert_eq!(other.verify(&permit, circuit, user, 1), foreign);
        for garbage in ["", "v1", "v1...", "v1.a.b.c", "v2.a.1.c", "v1.a.1.c.d"] {
            assert_eq!(key().verify(garbage, circuit, user, 1), foreign);
        }
    }

    #[test]
    fn a_ticket_cannot_be_altered_or_kept() {
        let ticket = Ticket {
            circuit: CircuitId::random(),
            grant: "jti-1".into(),
            jti: Uuid::new_v4(),
            expires: 50,
            redirect: "/lab".into(),
        };
        let text = key().issue_ticket(&ticket);
        assert_eq!(key().verify_ticket(&text, 49), Ok(ticket));
        assert_eq!(key().verify_ticket(&text, 50), Err(PermitError::Expired));
        let altered = format!("A{}", &text[1..]);
        assert_eq!(key().verify_ticket(&altered, 1), Err(PermitError::Foreign));
    }
}
