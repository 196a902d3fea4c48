//! The secrets every program of a rig is configured with, and what a scenario makes with them.

use patchbay_common::permit::{Digest, PermitKey};
use patchbay_common::token::TokenKey;

/// `secrets.api_secret`.
pub const API: &str = "scenario-api-secret";
/// `secrets.jwt_secret`.
pub const JWT: &str = "scenario-jwt-secret";
/// `permit_hash.secret`.
pub const PERMIT: &str = "scenario-permit-secret";

/// The sections of a configuration file that hold them.
pub fn sections() -> String {
    format!(
        "[secrets]\napi_secret = \"{API}\"\njwt_secret = \"{JWT}\"\n\n\
         [permit_hash]\nsecret = \"{PERMIT}\"\n\n"
    )
}

/// The key of setup and endpoint tokens.
pub fn token_key() -> TokenKey {
    TokenKey::new(JWT)
}

/// The key of permits.
pub fn permit_key() -> PermitKey {
    PermitKey::new(PERMIT, Digest::Sha256)
}
