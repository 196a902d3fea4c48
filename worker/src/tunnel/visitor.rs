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

fn same(given: &[u8], token: &Secret) -> bool {
    let known = Sha256::digest(token.expose().as_bytes());
    Sha256::digest(given).ct_eq(&known).into()
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

/// Signs by the visitor token itself: a new token makes every cookie worthless.
fn seal(token: &Secret, id: &TunnelId, expires: u64) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.expose().as_bytes()).ok()?;
    mac.update(format!("patchbay tunnel {id} until {expires}").as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Some(format!("{expires}.{signature}"))
}

fn is_sealed(cookie: &str, token: &Secret, id: &TunnelId, now: u64) -> bool {
    let expires = cookie
        .split_once('.')
        .and_then(|(text, _)| text.parse().ok());
    let Some(expires) = expires.filter(|expires| *expires > now) else {
        return false;
    };
    seal(token, id, expires).is_some_and(|good| good.as_bytes().ct_eq(cookie.as_bytes()).into())
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
    token: Option<&Secret>,
    headers: &dyn HeaderLookup,
    now: u64,
) -> Admission {
    let Some(token) = token else {
        return Admission::Open;
    };
    if headers.get(HEADER).is_some_and(|given| same(given, token)) {
        return Admission::Header;
    }
    if bearer(headers).is_some_and(|given| same(given, token)) {
        return Admission::Bearer;
    }
    let (name, mut good) = (cookie_name(id), false);
    each_cookie(headers, &mut |pair| {
        if let Some((key, value)) = pair.split_once('=')
            && key == name
        {
            good |= is_sealed(value, token, id, now);
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
        token: Option<&Secret>,
        ticket: &str,
        (now, tls): (u64, bool),
    ) -> Option<String> {
        let key: [u8; 32] = Sha256::digest(ticket.as_bytes()).into();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, until) = links.remove(&key)?;
        if of != *id || until <= Instant::now() {
            return None;
        }
        let sealed = seal(token?, id, now + COOKIE_LIFETIME)?;
        let secure = if tls { "; Secure" } else { "" };
        Some(format!(
            "{}={sealed}; Path=/t/{id}/; Max-Age={COOKIE_LIFETIME}; HttpOnly; SameSite=Lax{secure}",
            cookie_name(id)
        ))
    }
}
