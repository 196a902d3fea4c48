//! API keys, kept as their SHA-256 only.

use std::collections::HashMap;

use ahash::RandomState;
use http::HeaderName;
use sha2::{Digest as _, Sha256};

use super::{Passage, Required, Step, header_value};
use crate::gateway::refusal::{CredentialFault, GatewayRefusal};
use crate::stage::Head;

/// Longest key that is hashed.
const MAX_KEY: usize = 1_024;

/// Who holds a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name of the holder.
    pub subject: String,
    /// What the holder may do.
    pub permissions: Vec<String>,
}

/// The keys of a gateway.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// Header the key comes in.
    pub header: HeaderName,
    /// Holders by the digest of their key. Looking a digest up tells nobody anything: who could
    /// choose it would know the key.
    pub holders: HashMap<[u8; 32], Holder, RandomState>,
    /// What holders have to be permitted.
    pub required: Required,
    /// Header that tells the service the holder's name.
    pub subject_header: Option<HeaderName>,
}

impl ApiKeys {
    pub(super) fn identity_headers(&self) -> Vec<HeaderName> {
        self.subject_header.iter().cloned().collect()
    }

    pub(super) fn run(
        &self,
        head: &Head<'_>,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        let refuse = |why| GatewayRefusal::Unauthenticated {
            why,
            challenge: format!("ApiKey header=\"{}\"", self.header),
        };
        let name = self.header.as_str();
        let key = match head.headers.count(name) {
            0 => return Err(refuse(CredentialFault::Missing)),
            1 => head.headers.get(name).unwrap_or_default(),
            _ => return Err(refuse(CredentialFault::Several)),
        };
        if key.len() > MAX_KEY {
            return Err(refuse(CredentialFault::TooLong));
        }
        let digest: [u8; 32] = Sha256::digest(key).into();
        let holder = self.holders.get(&digest);
        let holder = holder.ok_or_else(|| refuse(CredentialFault::ApiKey))?;
        let held = holder.permissions.iter().map(String::as_str);
        self.required.check(held)?;
        passage.subject = Some(holder.subject.clone());
        passage.credential = Some("api-key");
        passage.hidden.push(self.header.clone());
        if let Some(name) = &self.subject_header {
            let value = header_value(&holder.subject);
            passage.to_service.push((name.clone(), value));
        }
        Ok(None)
    }
}
