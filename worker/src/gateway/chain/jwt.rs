//! JSON Web Tokens (RFC 7519) as credentials.
//!
//! Which algorithms are accepted is configured, never taken from the token, and a key is only
//! used for algorithms of its own family, so a token cannot choose how it is checked. What was
//! verified once is remembered until it expires or its keys change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ahash::RandomState;
use http::HeaderName;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::{Jwks, Passage, Required, Step, Wait, cookie, header_value};
use crate::gateway::refusal::{CredentialFault, GatewayRefusal};
use crate::stage::Head;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8_192;
/// Most verified tokens remembered.
const REMEMBERED: usize = 4_096;

/// Where the keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// From the configuration.
    Fixed(Vec<DecodingKey>),
    /// From an endpoint.
    Endpoint(Arc<Jwks>),
}

/// What a token has to be.
#[derive(Debug)]
pub struct JwtSettings {
    /// Its keys.
    pub keys: KeySource,
    /// The algorithms it may be signed by.
    pub algorithms: Vec<Algorithm>,
    /// The header it comes in, as `Bearer` if that is `authorization`, bare otherwise.
    pub header: HeaderName,
    /// A cookie it may come in instead.
    pub cookie: Option<String>,
    /// Issuers; none means any.
    pub issuers: Vec<String>,
    /// Audiences; none means any.
    pub audiences: Vec<String>,
    /// Seconds clocks may differ by.
    pub leeway: u64,
    /// The claim that holds permissions: a list, or words in one text.
    pub permissions_claim: String,
    /// Permissions it has to hold.
    pub required: Required,
    /// Claims told to the service, by header.
    pub claim_headers: Vec<(HeaderName, String)>,
    /// The service gets the token too.
    pub keep_token: bool,
}

/// The stage.
#[derive(Debug)]
pub struct Jwt {
    settings: JwtSettings,
    /// For each algorithm its own: the library takes no key where algorithms of other families are
    /// accepted too.
    validations: Vec<(Algorithm, Validation)>,
    verified: Mutex<HashMap<String, Verified, RandomState>>,
}

/// A token that held.
#[derive(Clone, Debug)]
struct Verified {
    claims: Arc<Value>,
    until: u64,
    /// Of the keys that verified it.
    generation: u64,
}

impl Jwt {
    /// The stage for these settings.
    pub fn new(settings: JwtSettings) -> Self {
        let mut validation = Validation::new(Algorithm::default());
        validation.leeway = settings.leeway;
        validation.validate_nbf = true;
        validation.validate_aud = !settings.audiences.is_empty();
        if !settings.audiences.is_empty() {
            validation.set_audience(&settings.audiences);
            validation.required_spec_claims.insert("aud".into());
        }
        if !settings.issuers.is_empty() {
            validation.set_issuer(&settings.issuers);
            validation.required_spec_claims.insert("iss".into());
        }
        let of = |algorithm: &Algorithm| {
            let mut validation = validation.clone();
            validation.algorithms = vec![*algorithm];
            (*algorithm, validation)
        };
        Self {
            validations: settings.algorithms.iter().map(of).collect(),
            settings,
            verified: Mutex::default(),
        }
    }

    pub(super) fn identity_headers(&self) -> Vec<HeaderName> {
        let names = self.settings.claim_headers.iter();
        names.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn start(&self) {
        if let KeySource::Endpoint(keys) = &self.settings.keys {
            keys.start();
        }
    }

    pub(super) fn run(
        &self,
        head: &Head<'_>,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        let token = self.token(head).map_err(|why| self.refusal(why))?;
        let generation = self.generation();
        let claims = match self.known(token, generation) {
            Some(claims) => claims,
            None => match self.verify(token) {
                Ok(claims) => self.remember(token, claims, generation),
                Err(CredentialFault::UnknownKey) => return self.unknown_key(passage),
                Err(why) => return Err(self.refusal(why)),
            },
        };
        self.admit(&claims, passage).map(|()| None)
    }

    /// The token, if exactly one was sent.
    fn token<'a>(&self, head: &'a Head<'_>) -> Result<&'a str, CredentialFault> {
        let name = self.settings.header.as_str();
        let header = match head.headers.count(name) {
            0 => None,
            1 => head.headers.get(name),
            _ => return Err(CredentialFault::Several),
        };
        let token = match header {
            Some(value) => {
                let text = std::str::from_utf8(value).map_err(|_| CredentialFault::Malformed)?;
                bearer(text.trim(), name == "authorization")
            }
            None => None,
        };
        let from_cookie = || cookie(head, self.settings.cookie.as_deref()?);
        let token = token.or_else(from_cookie).filter(|token| !token.is_empty());
        let token = token.ok_or(CredentialFault::Missing)?;
        if token.len() > MAX_TOKEN {
            return Err(CredentialFault::TooLong);
        }
        Ok(token)
    }

    fn verify(&self, token: &str) -> Result<Value, CredentialFault> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| fault(&error))?;
        let mut validations = self.validations.iter();
        let found = validations.find(|(algorithm, _)| *algorithm == header.alg);
        let (_, validation) = found.ok_or(CredentialFault::Algorithm)?;
        // RFC 7515 §4.1.11: extensions that must be understood, and none is here.
        if header.crit.is_some() {
            return Err(CredentialFault::Malformed);
        }
        match &self.settings.keys {
            KeySource::Fixed(keys) => {
                let fitting = keys.iter().filter(|key| fits(key, header.alg));
                verify_by(token, validation, fitting)
            }
            KeySource::Endpoint(endpoint) => {
                let set = endpoint.keys();
                let fitting = set.candidates(header.kid.as_deref(), header.alg);
                verify_by(token, validation, fitting)
            }
        }
    }

    fn unknown_key(&self, passage: &Passage) -> Result<Option<Step>, GatewayRefusal> {
        if let KeySource::Endpoint(keys) = &self.settings.keys {
            if !passage.waited && keys.may_look_again() {
                return Ok(Some(Step::Wait(Wait::Keys(Arc::clone(keys)))));
            }
            if keys.keys().is_empty() {
                return Err(GatewayRefusal::Unchecked);
            }
        }
        Err(self.refusal(CredentialFault::UnknownKey))
    }

    fn admit(&self, claims: &Value, passage: &mut Passage) -> Result<(), GatewayRefusal> {
        let settings = &self.settings;
        passage.subject = claims.get("sub").and_then(text);
        passage.credential = Some("jwt");
        if !settings.required.is_empty() {
            let held = permissions(claims.get(&settings.permissions_claim));
            settings.required.check(held.iter().copied())?;
        }
        for (name, claim) in &settings.claim_headers {
            if let Some(value) = claims.get(claim).and_then(text) {
                passage
                    .to_service
                    .push((name.clone(), header_value(&value)));
            }
        }
        if !settings.keep_token {
            passage.hidden.push(settings.header.clone());
        }
        Ok(())
    }

    fn refusal(&self, why: CredentialFault) -> GatewayRefusal {
        // RFC 6750 §3.1: no error code where no credential was sent.
        let challenge = match why {
            CredentialFault::Missing => "Bearer".to_owned(),
            _ => format!("Bearer error=\"invalid_token\", error_description=\"{why}\""),
        };
        GatewayRefusal::Unauthenticated { why, challenge }
    }

    fn generation(&self) -> u64 {
        match &self.settings.keys {
            KeySource::Fixed(_) => 0,
            KeySource::Endpoint(keys) => keys.keys().generation,
        }
    }

    fn known(&self, token: &str, generation: u64) -> Option<Arc<Value>> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let known = verified.get(token)?;
        let good = known.generation == generation && unix_now() < known.until;
        good.then(|| Arc::clone(&known.claims))
    }

    fn remember(&self, token: &str, claims: Value, generation: u64) -> Arc<Value> {
        let claims = Arc::new(claims);
        let until = claims.get("exp").and_then(Value::as_u64);
        let until = until.unwrap_or_default() + self.settings.leeway;
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED {
            let now = unix_now();
            verified.retain(|_, known| known.generation == generation && now < known.until);
            if verified.len() >= REMEMBERED {
                verified.clear();
            }
        }
        let entry = Verified {
            claims: Arc::clone(&claims),
            until,
            generation,
        };
        verified.insert(token.to_owned(), entry);
        claims
    }
}

fn verify_by<'a>(
    token: &str,
    validation: &Validation,
    keys: impl Iterator<Item = &'a DecodingKey>,
) -> Result<Value, CredentialFault> {
    let mut why = CredentialFault::UnknownKey;
    for key in keys {
        match jsonwebtoken::decode::<Value>(token, key, validation) {
            Ok(data) => return Ok(data.claims),
            Err(error) => why = fault(&error),
        }
        if why != CredentialFault::Signature {
            break;
        }
    }
    Err(why)
}

/// Whether a key may check this algorithm.
pub(super) fn fits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    key.family().algorithms().contains(&algorithm)
}

fn bearer(value: &str, has_scheme: bool) -> Option<&str> {
    if !has_scheme {
        return Some(value);
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start())
}

/// A claim as text; lists and objects as JSON.
fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// RFC 8693 §4.2 has scopes as words in one text, others have lists.
fn permissions(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(words)) => words.split_ascii_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fault(error: &jsonwebtoken::errors::Error) -> CredentialFault {
    match error.kind() {
        ErrorKind::InvalidSignature => CredentialFault::Signature,
        ErrorKind::ExpiredSignature => CredentialFault::Expired,
        ErrorKind::ImmatureSignature => CredentialFault::Immature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => CredentialFault::Algorithm,
        ErrorKind::InvalidIssuer => CredentialFault::Issuer,
        ErrorKind::InvalidAudience => CredentialFault::Audience,
        ErrorKind::MissingRequiredClaim(_) => CredentialFault::Claim,
        _ => CredentialFault::Malformed,
    }
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
