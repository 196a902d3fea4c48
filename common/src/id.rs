//! Identifiers: one newtype per noun, so that a worker's id can never be passed for a circuit's.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id_type {
    ($(#[$doc:meta] $name:ident),+ $(,)?) => {$(
        #[$doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh random (version 4) identifier.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text.trim()).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    )+};
}

id_type! {
    /// One circuit: a port or subdomain of a worker that leads to an app.
    CircuitId,
    /// One worker, in the coordinator's books. Its authority is its name, this is its key.
    WorkerId,
    /// A token minted by `POST /v2/conf`, the credential for opening one session's apps.
    TokenId,
    /// A model-serving endpoint (the Manager's deployment id).
    EndpointId,
    /// A compute session.
    SessionId,
    /// One route of an inference circuit, named by the Manager.
    RouteId,
    /// The user a circuit or an endpoint belongs to.
    UserId,
    /// The project (the wires also say "group") a session belongs to.
    ProjectId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_as_hyphenated_lower_case() {
        let text = "1d6c0f9e-0f5b-4c36-9a77-1f0e3c2b1a10";
        let id: CircuitId = "1D6C0F9E0F5B4C369A771F0E3C2B1A10".parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        assert!("not-a-uuid".parse::<CircuitId>().is_err());
    }
}
