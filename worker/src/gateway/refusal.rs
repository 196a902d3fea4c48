//! Why the gateway itself does not carry a request. What a client is told of it is decided in
//! `error`.

use super::router::PathError;

/// Why a request is not carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayRefusal {
    /// No route takes it.
    #[error("No route takes this request")]
    NoRoute,
    /// Its path cannot be compared with routes.
    #[error("The request is not acceptable: {0}")]
    Path(#[from] PathError),
    /// No credential, or not a good one.
    #[error("Not authenticated: {why}")]
    Unauthenticated {
        /// What is wrong.
        why: CredentialFault,
        /// `WWW-Authenticate` (RFC 9110 §11.6.1).
        challenge: String,
    },
    /// The subject may not do this.
    #[error("The permission is missing: {0}")]
    Permission(String),
    /// The client's address.
    #[error("The client's address is not allowed")]
    Address,
    /// A WebSocket from a page of another origin.
    #[error("Pages of this origin may not connect")]
    Origin,
    /// Too many requests.
    #[error("Too many requests: try again in {retry_after} s")]
    TooMany {
        /// Whole seconds, rounded up.
        retry_after: u64,
    },
    /// Credentials cannot be checked now.
    #[error("Credentials cannot be checked at the moment")]
    Unchecked,
    /// A stage panicked.
    #[error("The gateway failed to handle the request")]
    Panic,
}

/// What is wrong with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    /// There is none.
    #[error("no credential was sent")]
    Missing,
    /// More than one was sent.
    #[error("more than one credential was sent")]
    Several,
    /// It is longer than tokens may be.
    #[error("the token is too long")]
    TooLong,
    /// It is not a token.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by an algorithm that is not accepted here.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// Signed with a key nobody knows.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The signature does not hold.
    #[error("the token's signature does not hold")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    Immature,
    /// From another issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// For another audience.
    #[error("the token is for another audience")]
    Audience,
    /// A claim it has to carry is absent.
    #[error("the token lacks a claim")]
    Claim,
    /// An API key nobody knows.
    #[error("the API key is unknown")]
    ApiKey,
}
