//! Endpoint tokens on requests.

use patchbay_common::grant::Grant;
use patchbay_common::token::{EndpointClaims, TokenKey};

use super::Credential;
use crate::error::Refusal;
use crate::stage::Head;
use crate::table::LiveCircuit;

pub(super) fn check(
    head: &Head<'_>,
    live: &LiveCircuit,
    key: &TokenKey,
) -> Result<(Credential, Grant<'static>), Refusal> {
    let value = head
        .headers
        .get("authorization")
        .ok_or(Refusal::BearerMissing)?;
    let value = String::from_utf8_lossy(value);
    let (scheme, token) = value.split_once(' ').unwrap_or((&value, ""));
    // The schemes are compared as written (contract/data-plane.md §5).
    if scheme != "Bearer" && scheme != "BackendAI" {
        return Err(Refusal::BearerScheme(scheme.to_owned()));
    }
    let claims: EndpointClaims = key.verify(token.trim()).map_err(Refusal::BearerInvalid)?;
    if claims.id.as_deref() != Some(live.id_text.as_str()) {
        return Err(Refusal::BearerMismatch);
    }
    let issued = claims.iat.filter(|at| *at >= 0.0).map(|at| at as u64);
    let grant = Grant::of_token(token.trim(), claims.jti, issued);
    Ok((Credential::Bearer, grant))
}
