//! Who may call (contract/rest-coordinator.md §2). Decided from the head alone, before a body is
//! read.

use axum::extract::FromRequestParts;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use patchbay_common::config::Secret;
use patchbay_common::token::TokenKey;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::App;
use super::error::ApiError;

const TOKEN_HEADER: &str = "x-backendai-token";

/// Proof that the caller holds the API secret. As a handler's first argument it guards the route.
pub(crate) struct Authorized;

impl FromRequestParts<App> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.credentials.check(&parts.headers).map(|()| Self)
    }
}

/// What callers are checked against.
pub(crate) struct Credentials {
    secret: Secret,
    key: TokenKey,
}

impl Credentials {
    /// Credentials over `secrets.api_secret`.
    pub(crate) fn new(secret: Secret) -> Self {
        let key = TokenKey::new(secret.expose());
        Self { secret, key }
    }

    /// The check common to most routes: the secret in its own header, bare or behind a scheme, or
    /// a bearer token signed with it.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let refused = || ApiError::Unauthorized("Unauthorized access".into());
        if let Some(offered) = given(headers, TOKEN_HEADER)? {
            let bare = ["Bearer ", "BackendAI "]
                .iter()
                .find_map(|scheme| offered.strip_prefix(scheme))
                .unwrap_or(offered);
            // A secret that itself begins with a scheme is matched as it stands.
            let known = self.is_secret(bare) || self.is_secret(offered);
            return known.then_some(()).ok_or_else(refused);
        }
        let Some(authorization) = given(headers, AUTHORIZATION.as_str())? else {
            return Err(refused());
        };
        let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::Unauthorized(format!(
                "Unsupported authorization method {scheme}"
            )));
        }
        match self.key.verify::<Value>(token.trim()) {
            Ok(_) => Ok(()),
            Err(_) => Err(refused()),
        }
    }

    /// The stricter rule of `POST /v2/conf`: the bare secret in its own header.
    pub(crate) fn check_bare(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match given(headers, TOKEN_HEADER)? {
            Some(offered) if self.is_secret(offered) => Ok(()),
            _ => Err(ApiError::Unauthorized("Unauthorized access".into())),
        }
    }

    fn is_secret(&self, offered: &str) -> bool {
        let secret = self.secret.expose().as_bytes();
        !secret.is_empty() && bool::from(offered.as_bytes().ct_eq(secret))
    }
}

/// A header's text, if it is there and not empty.
fn given<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(ApiError::Unauthorized("Unauthorized access".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::vectors;
    use serde_json::json;

    fn check(headers: &[(&str, &str)]) -> Result<(), String> {
        let credentials = Credentials::new(Secret::new("some_api_secret"));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        credentials.check(&map).map_err(|error| error.to_string())
    }

    #[test]
    fn the_secret_bare_or_behind_a_scheme() {
        for good in [
            "some_api_secret",
            "Bearer some_api_secret",
            "BackendAI some_api_secret",
        ] {
            assert_eq!(check(&[(TOKEN_HEADER, good)]), Ok(()));
        }
        for bad in [
            "bearer some_api_secret",
            "Bearer  some_api_secret",
            "Some_api_secret",
            "x",
        ] {
            assert_eq!(
                check(&[(TOKEN_HEADER, bad)]),
                Err("Unauthorized access".into())
            );
        }
    }

    #[test]
    fn bearer_tokens_signed_with_the_secret() {
        let sample = vectors()["coordinator_api_bearer_jwt"]["token"].clone();
        let bearer = format!("bEaReR {}", sample.as_str().unwrap());
        assert_eq!(check(&[("authorization", &bearer)]), Ok(()));

        let key = TokenKey::new("some_api_secret");
        let expired = format!("Bearer {}", key.sign(&json!({"exp": 1})).unwrap());
        assert!(check(&[("authorization", &expired)]).is_err());
        let foreign = TokenKey::new("other").sign(&json!({})).unwrap();
        assert!(check(&[("authorization", &format!("Bearer {foreign}"))]).is_err());
        assert_eq!(
            check(&[("authorization", "Basic eDp5")]),
            Err("Unsupported authorization method Basic".into())
        );
    }

    #[test]
    fn the_own_header_decides_alone_when_it_is_there() {
        let key = TokenKey::new("some_api_secret");
        let good = format!("Bearer {}", key.sign(&json!({})).unwrap());
        assert!(check(&[(TOKEN_HEADER, "wrong"), ("authorization", &good)]).is_err());
        assert!(check(&[(TOKEN_HEADER, ""), ("authorization", &good)]).is_ok());
        assert!(check(&[]).is_err());
    }

    #[test]
    fn an_unset_secret_admits_nobody() {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN_HEADER, "Bearer ".parse().unwrap());
        assert!(Credentials::new(Secret::new("")).check(&headers).is_err());
    }
}
