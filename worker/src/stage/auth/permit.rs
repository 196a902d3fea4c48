//! Permit cookies on requests.

use patchbay_common::grant::Grant;
use patchbay_common::permit::{LEGACY_COOKIE, PermitKey};

use super::Credential;
use crate::error::Refusal;
use crate::stage::{Head, HeaderSink};
use crate::table::LiveCircuit;

/// What all permits of the incumbent's form go by: each is the same for ever, and tells nothing.
const LEGACY_GRANT: &str = "legacy-permit";

pub(super) fn check(
    head: &Head<'_>,
    live: &LiveCircuit,
    key: &PermitKey,
    legacy: bool,
    now: u64,
) -> Result<(Credential, Grant<'static>), Refusal> {
    let mut found = None;
    let (mut offered, mut revoked) = (false, false);
    each_cookie(head, &mut |name, value| {
        let accepted = if name == live.permit_cookie {
            let verify = || key.verify(value, live.circuit.id, live.circuit.user_id, now);
            live.known_permit
                .check(value, now, verify)
                .map(|permit| (Credential::Permit, Grant::named(permit.grant.to_owned())))
        } else if legacy
            && name == LEGACY_COOKIE
            && let Some(user) = live.circuit.user_id
        {
            key.verify_legacy(value, user)
                .map(|()| (Credential::LegacyPermit, Grant::named(LEGACY_GRANT)))
        } else {
            return;
        };
        offered = true;
        if let Ok((_, grant)) = &accepted
            && live.grants.denies(grant, now)
        {
            revoked = true;
            return;
        }
        if found.is_none() {
            found = accepted.ok();
        }
    });
    match found {
        Some(admitted) => Ok(admitted),
        None if revoked => Err(Refusal::Revoked),
        None if offered => Err(Refusal::PermitInvalid),
        None => Err(Refusal::PermitMissing),
    }
}

/// Takes our cookies out of `Cookie`, leaving the app's as they are.
pub(super) fn strip(head: &Head<'_>, sink: &mut dyn HeaderSink) {
    let mut ours = false;
    each_cookie(head, &mut |name, _| ours |= is_ours(name));
    if !ours {
        return;
    }
    let mut kept = String::new();
    head.headers.each("cookie", &mut |line| {
        let Ok(line) = std::str::from_utf8(line) else {
            return;
        };
        for pair in line
            .split(';')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name.trim());
            if !is_ours(name) {
                if !kept.is_empty() {
                    kept.push_str("; ");
                }
                kept.push_str(pair);
            }
        }
    });
    if kept.is_empty() {
        sink.remove("cookie");
    } else {
        sink.set("cookie", &kept);
    }
}

/// Permits of this circuit and of others on the same host alike: none is the app's business.
fn is_ours(name: &str) -> bool {
    name.strip_prefix(LEGACY_COOKIE)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// Every name and unquoted value of the `Cookie` lines (RFC 6265 §5.4).
fn each_cookie(head: &Head<'_>, visit: &mut dyn FnMut(&str, &str)) {
    head.headers.each("cookie", &mut |line| {
        let Ok(line) = std::str::from_utf8(line) else {
            return;
        };
        for pair in line.split(';') {
            if let Some((name, value)) = pair.split_once('=') {
                visit(name.trim(), value.trim().trim_matches('"'));
            }
        }
    });
}
