//! The JSON bodies of the control calls (docs/TUNNELS.md). Unknown keys are passed over, so that
//! either side may be newer.

use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AgentId, Kind, TunnelId};
use crate::config::Secret;

/// `POST /api/agent/register`.
#[derive(Clone, Debug, Deserialize)]
pub struct Register {
    /// Name of the agent.
    pub agent_id: AgentId,
    /// The registration token; it may come as `Authorization: Bearer` instead.
    #[serde(default)]
    pub token: Secret,
    /// What it lends.
    pub tunnels: Vec<Offer>,
}

/// One service an agent lends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The name it is to have.
    pub id: TunnelId,
    /// What visitors have to show.
    pub visitor_token: Option<Secret>,
    /// What it carries.
    pub kind: Kind,
}

impl<'de> Deserialize<'de> for Offer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Full {
            id: TunnelId,
            #[serde(default)]
            token: Option<Secret>,
            #[serde(default)]
            kind: Kind,
        }
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a tunnel: \"id\", \"id@token\" or {\"id\": …, \"token\": …, \"kind\": \"http\" or \"tcp\"}"
        )]
        enum Form {
            Short(String),
            Full(Full),
        }
        match Form::deserialize(deserializer)? {
            Form::Full(full) => Ok(Self {
                id: full.id,
                visitor_token: full.token.filter(|token| !token.expose().is_empty()),
                kind: full.kind,
            }),
            Form::Short(text) => {
                let (id, token) = match text.split_once('@') {
                    Some((id, token)) => (id, Some(Secret::new(token))),
                    None => (text.as_str(), None),
                };
                Ok(Self {
                    id: id.parse().map_err(serde::de::Error::custom)?,
                    visitor_token: token.filter(|token| !token.expose().is_empty()),
                    kind: Kind::Http,
                })
            }
        }
    }
}

/// A way for requests to reach the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The multiplexed connection.
    Mux,
    /// Long polling.
    Poll,
}

/// The answer to a registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// Secret name of the session; whoever knows it speaks for the agent.
    pub session_id: String,
    /// The agent it belongs to.
    pub agent_id: AgentId,
    /// Where the public finds what is lent.
    pub tunnels: Vec<Granted>,
    /// What the gateway offers, the preferred first.
    pub transports: Vec<Transport>,
    /// How long things may take and how big they may be.
    #[serde(flatten)]
    pub limits: Limits,
}

/// A tunnel that is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// Its name.
    pub id: TunnelId,
    /// Path on the gateway, or empty where it carries no HTTP.
    pub path: String,
}

/// What an agent has to keep to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Longest time between two calls before the session is over.
    pub session_ttl_seconds: u64,
    /// How often a heartbeat should come where nothing else does.
    pub heartbeat_seconds: u64,
    /// Longest `wait` of a pull.
    pub max_wait_seconds: u64,
    /// How soon a request has to be answered that was pulled.
    pub response_timeout_seconds: u64,
    /// Most bytes of a body that travels by long polling.
    pub max_body_bytes: u64,
}

/// The answer to `GET /api/agent/pull`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pulled {
    /// Requests to answer, the oldest first; empty if there were none in time.
    pub requests: Vec<Dispatch>,
}

/// One request to answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dispatch {
    /// Names it in the answer.
    pub request_id: String,
    /// The tunnel it came by.
    pub tunnel_id: TunnelId,
    /// Its method.
    pub method: String,
    /// Path and query, as the service is to see them.
    pub path: String,
    /// Its headers, in order; see [`encode_header`].
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(rename = "body_base64", with = "base64_text", default)]
    pub body: Vec<u8>,
}

/// `POST /api/agent/respond`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Respond {
    /// The session.
    pub session_id: String,
    /// The request that is answered.
    pub request_id: String,
    /// HTTP status.
    #[serde(default)]
    pub status: u16,
    /// Headers, in order; see [`encode_header`].
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(rename = "body_base64", with = "base64_text", default)]
    pub body: Vec<u8>,
    /// Why there is no answer, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `POST /api/agent/heartbeat`, `/drain` and `/leave`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentRequest {
    /// The session.
    pub session_id: String,
}

/// The answer to a call that has no other answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// Always true.
    pub ok: bool,
}

/// A header's value as JSON text: one character for each byte (ISO 8859-1), so that any value
/// passes unchanged.
pub fn encode_header(value: &[u8]) -> String {
    value.iter().map(|byte| char::from(*byte)).collect()
}

/// A header's value from JSON text; `None` if a character is not a byte.
pub fn decode_header(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

mod base64_text {
    use base64::Engine as _;

    use super::{Deserialize, Deserializer, STANDARD, Serializer};

    pub(super) fn serialize<S: Serializer>(body: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(body))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text).map_err(|cause| {
            serde::de::Error::custom(format!("body_base64 is not base64 (RFC 4648 §4): {cause}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_in_both_forms() {
        let text = r#"{"agent_id": "a", "token": "t", "later": 1, "tunnels":
            ["web", "api@secret", {"id": "ssh", "kind": "tcp", "token": ""}]}"#;
        let register: Register = serde_json::from_str(text).unwrap();
        let ids: Vec<_> = register.tunnels.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["web", "api", "ssh"]);
        let token = register.tunnels[1].visitor_token.as_ref().unwrap();
        assert_eq!(token.expose(), "secret");
        assert_eq!(register.tunnels[2].kind, Kind::Tcp);
        assert_eq!(register.tunnels[2].visitor_token, None);
        for bad in [
            r#""a/b""#,
            r#"{"id": ""}"#,
            "1",
            r#"{"id":"a","kind":"udp"}"#,
        ] {
            assert!(serde_json::from_str::<Offer>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_byte_survives_a_header_and_a_body() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_header(&encode_header(&all)).unwrap(), all);
        assert_eq!(decode_header("€"), None);
        let respond = Respond {
            session_id: "s".into(),
            request_id: "r".into(),
            status: 200,
            headers: Vec::new(),
            body: all.clone(),
            error: None,
        };
        let text = serde_json::to_string(&respond).unwrap();
        let back: Respond = serde_json::from_str(&text).unwrap();
        assert_eq!(back.body, all);
        let broken = r#"{"session_id":"s","request_id":"r","status":200,"body_base64":"*"}"#;
        assert!(serde_json::from_str::<Respond>(broken).is_err());
    }
}
