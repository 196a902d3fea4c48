//! JSON Web Tokens: issuer and verifier share their claims (RFC 7519; HS256 throughout,
//! contract/rest-coordinator.md §7 and contract/data-plane.md §5).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{CircuitId, TokenId};

/// The header the incumbent writes, byte for byte.
const HEADER: &[u8] = br#"{"alg":"HS256","typ":"JWT"}"#;

/// Claims of the token that carries a browser from the coordinator to a worker's `/setup`.
/// The order is the contract's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetupClaims {
    /// The token row that opened the circuit.
    #[serde(default)]
    pub id: Option<TokenId>,
    /// Always `v2`.
    #[serde(default)]
    pub version: Option<String>,
    /// Path to send the browser to inside the app; may be empty.
    #[serde(default)]
    pub redirect: Option<String>,
    /// The circuit to set up.
    pub circuit: CircuitId,
    /// Name of the grant, kept by what comes of it (`grant`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// What a verifier needs of an endpoint token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointClaims {
    /// The circuit it is good for; compared as text.
    #[serde(default)]
    pub id: Option<String>,
    /// Name of the grant.
    #[serde(default)]
    pub jti: Option<String>,
    /// When it was issued, in Unix seconds.
    #[serde(default)]
    pub iat: Option<f64>,
}

/// Why a token was refused. The texts are the ones clients of the incumbent see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three dot-separated parts.
    #[error("Not enough segments")]
    Segments,
    /// Signed by someone else, or altered.
    #[error("Signature verification failed")]
    Signature,
    /// `exp` lies in the past.
    #[error("Signature has expired")]
    Expired,
    /// `nbf` lies in the future.
    #[error("The token is not yet valid (nbf)")]
    Immature,
    /// Signed with another algorithm than HS256.
    #[error("The specified alg value is not allowed")]
    Algorithm,
    /// Anything else: not base64, not JSON, a claim of the wrong type.
    #[error("Invalid token")]
    Malformed,
}

/// A shared key to sign and verify with.
#[derive(Clone)]
pub struct TokenKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl TokenKey {
    /// A key over the UTF-8 bytes of `secret`.
    pub fn new(secret: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_aud = false;
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        Self {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            validation,
        }
    }

    /// The signed token over `claims`.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if `claims` cannot be written as JSON.
    pub fn sign<C: Serialize>(&self, claims: &C) -> Result<String, TokenError> {
        let claims = serde_json::to_vec(claims).map_err(|_| TokenError::Malformed)?;
        let mut token = URL_SAFE_NO_PAD.encode(HEADER);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature =
            jsonwebtoken::crypto::sign(token.as_bytes(), &self.encoding, Algorithm::HS256)
                .map_err(|_| TokenError::Malformed)?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// The claims of `token` after its signature, `exp` and `nbf` (both optional) held.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify<C: DeserializeOwned + Clone>(&self, token: &str) -> Result<C, TokenError> {
        if token.split('.').count() != 3 {
            return Err(TokenError::Segments);
        }
        jsonwebtoken::decode::<C>(token, &self.decoding, &self.validation)
            .map(|data| data.claims)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::ImmatureSignature => TokenError::Immature,
                ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                    TokenError::Algorithm
                }
                _ => TokenError::Malformed,
            })
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: &str = r#"{"id":"9b2c0cb3-a583-4199-ac63-d3521cbce55b","version":"v2","redirect":"/lab?x=1","circuit":"12700342-1e86-408c-921a-8946dd88394b"}"#;

    fn claims() -> SetupClaims {
        serde_json::from_str(CLAIMS).unwrap()
    }

    #[test]
    fn signs_and_verifies_its_own() {
        let key = TokenKey::new("some_jwt_secret");
        let token = key.sign(&claims()).unwrap();
        assert!(token.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."));
        assert_eq!(key.verify::<SetupClaims>(&token).unwrap(), claims());
    }

    #[test]
    fn says_why_it_refuses() {
        let key = TokenKey::new("some_jwt_secret");
        let refuse = |token: &str| key.verify::<SetupClaims>(token).unwrap_err();
        let foreign = TokenKey::new("other").sign(&claims()).unwrap();
        assert_eq!(refuse(&foreign), TokenError::Signature);
        assert_eq!(refuse("garbage"), TokenError::Segments);
        assert_eq!(refuse("a.b.c"), TokenError::Malformed);

        let none = format!(
            "{}.{}.",
            URL_SAFE_NO_PAD.encode(br#"{"alg":"none","typ":"JWT"}"#),
            URL_SAFE_NO_PAD.encode(CLAIMS)
        );
        assert!(matches!(
            refuse(&none),
            TokenError::Malformed | TokenError::Algorithm
        ));

        let mut late = serde_json::to_value(claims()).unwrap();
        late["exp"] = 1.into();
        assert_eq!(refuse(&key.sign(&late).unwrap()), TokenError::Expired);
        late["exp"] = 4_000_000_000u64.into();
        late["nbf"] = 3_999_999_999u64.into();
        assert_eq!(refuse(&key.sign(&late).unwrap()), TokenError::Immature);
    }
}
