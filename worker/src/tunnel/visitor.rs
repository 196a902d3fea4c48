//! Who may use a tunnel that asks for a token: by header, as bearer, or by a cookie that a
//! one-time link was exchanged for. None of them reaches the service.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use patchbay_common::config::Secret;
use patchbay_common::tunnel::TunnelId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use uuid::Uuid;

use crate::stage::{HeaderLookup, HeaderSink};

/// Header that carries the token.
const HEADER: &str = "x-tunnel-token";
/// What the cookie's name begins with; the tunnel's name follows.
const COOKIE: &str = "patchbay_tunnel_";
/// How long a cookie is good.
const COOKIE_LIFETIME: u64 = 7 * 86_400;
/// How long a link is good.
const LINK_LIFETIME: Duration = Duration::from_secs(600);
/// Most links that wait to be used.
const MAX_LINKS: usize = 10_000;
/// Path, below the tunnel's, where a link's ticket is exchanged for the cookie.
pub const ENTER: &str = "/.patchbay/enter";

/// One-time links.
#[derive(Debug, Default)]
pub struct Visitors {
    links: Mutex<HashMap<[u8; 32], (TunnelId, Instant)>>,
}

/// Whether a visitor may use a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It asks for nothing.
    Open,
    /// By the header.
    Header,
    /// By `Authorization: Bearer`.
    Bearer,
    /// By the cookie.
    Cookie,
    /// Not at all.
    Refused,
}

impl Admission {
    /// By what right, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Header => "tunnel-header",
            Self::Bearer => "tunnel-bearer",
            Self::Cookie => "tunnel-cookie",
            Self::Refused => "refused",
        }
    }
}

/// What a visitor token is known by: its digest. Other gateways are given no more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VisitorKey([u8; 32]);

impl VisitorKey {
    /// Of a token.
    pub fn of(token: &Secret) -> Self {
        Self(Sha256::digest(token.expose().as_bytes()).into())
    }

    /// As other gateways are told.
    pub fn told(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// As another gateway has told; what is no key admits nobody.
    pub fn read(told: &Secret) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode(told.expose()).unwrap_or_default();
        let unknown = || Uuid::new_v4().into_bytes();
        Self(bytes.try_into().unwrap_or_else(|_| {
            let mut nobody = [0; 32];
            nobody[..16].copy_from_slice(&unknown());
            nobody[16..].copy_from_slice(&unknown());
            nobody
        }))
    }
}

impl std::fmt::Debug for VisitorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VisitorKey")
    }
}

fn same(given: &[u8], key: &VisitorKey) -> bool {
    Sha256::digest(given).ct_eq(&key.0).into()
}

fn bearer(headers: &dyn HeaderLookup) -> Option<&[u8]> {
    let value = headers.get("authorization")?;
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

fn cookie_name(id: &TunnelId) -> String {
    format!("{COOKIE}{id}")
}

/// Signs by what comes of the visitor token: a new token makes every cookie worthless.
fn seal(key: &VisitorKey, id: &TunnelId, expires: u64) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).ok()?;
    mac.update(format!("patchbay tunnel {id} until {expires}").as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Some(format!("{expires}.{signature}"))
}

fn is_sealed(cookie: &str, key: &VisitorKey, id: &TunnelId, now: u64) -> bool {
    let expires = cookie
        .split_once('.')
        .and_then(|(text, _)| text.parse().ok());
    let Some(expires) = expires.filter(|expires| *expires > now) else {
        return false;
    };
    seal(key, id, expires).is_some_and(|good| good.as_bytes().ct_eq(cookie.as_bytes()).into())
}

fn each_cookie<'a>(headers: &'a dyn HeaderLookup, visit: &mut dyn FnMut(&'a str)) {
    headers.each("cookie", &mut |value| {
        if let Ok(text) = std::str::from_utf8(value) {
            text.split(';').map(str::trim).for_each(&mut *visit);
        }
    });
}

/// Whether a visitor may use the tunnel. `now` is in Unix seconds.
pub fn admit(
    id: &TunnelId,
    key: Option<&VisitorKey>,
    headers: &dyn HeaderLookup,
    now: u64,
) -> Admission {
    let Some(key) = key else {
        return Admission::Open;
    };
    if headers.get(HEADER).is_some_and(|given| same(given, key)) {
        return Admission::Header;
    }
    if bearer(headers).is_some_and(|given| same(given, key)) {
        return Admission::Bearer;
    }
    let (wanted, mut good) = (cookie_name(id), false);
    each_cookie(headers, &mut |pair| {
        if let Some((name, value)) = pair.split_once('=')
            && name == wanted
        {
            good |= is_sealed(value, key, id, now);
        }
    });
    if good {
        Admission::Cookie
    } else {
        Admission::Refused
    }
}

/// Takes out what admitted the visitor, and everything else that is ours.
pub fn strip(admission: Admission, sink: &mut dyn HeaderSink) {
    sink.remove(HEADER);
    if admission == Admission::Bearer {
        sink.remove("authorization");
    }
    let (mut kept, mut ours) = (Vec::new(), false);
    each_cookie(&*sink, &mut |pair| {
        if pair.starts_with(COOKIE) {
            ours = true;
        } else if !pair.is_empty() {
            kept.push(pair.to_owned());
        }
    });
    if ours {
        sink.remove("cookie");
        if !kept.is_empty() {
            sink.set("cookie", &kept.join("; "));
        }
    }
}

impl Visitors {
    /// A link for one visitor, good once; `None` if too many wait to be used.
    pub fn link(&self, id: &TunnelId) -> Option<String> {
        let ticket = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() >= MAX_LINKS {
            links.retain(|_, (_, until)| *until > Instant::now());
            if links.len() >= MAX_LINKS {
                return None;
            }
        }
        let until = Instant::now() + LINK_LIFETIME;
        links.insert(
            Sha256::digest(ticket.as_bytes()).into(),
            (id.clone(), until),
        );
        Some(format!("/t/{id}{ENTER}?ticket={ticket}"))
    }

    /// Exchanges a ticket for the value of `Set-Cookie`; `None` if it is not good (any more).
    pub fn enter(
        &self,
        id: &TunnelId,
        visitors: Option<&VisitorKey>,
        ticket: &str,
        (now, tls): (u64, bool),
    ) -> Option<String> {
        let key: [u8; 32] = Sha256::digest(ticket.as_bytes()).into();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, until) = links.remove(&key)?;
        if of != *id || until <= Instant::now() {
            return None;
        }
        let sealed = seal(visitors?, id, now + COOKIE_LIFETIME)?;
        let secure = if tls { "; Secure" } else { "" };
        Some(format!(
            "{}={sealed}; Path=/t/{id}/; Max-Age={COOKIE_LIFETIME}; HttpOnly; SameSite=Lax{secure}",
            cookie_name(id)
        ))
    }
}
