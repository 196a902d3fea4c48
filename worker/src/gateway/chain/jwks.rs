//! Keys published by an issuer (RFC 7517).
//!
//! One task fetches: at the start, when what it has grows old by its own headers, and when a
//! request names a key nobody knows (not more often than the cool-down allows). Keys are kept
//! while the endpoint fails. A request that waits for a fetch waits no longer than one may take.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::jwt::fits;

/// Largest document read, in bytes.
const MAX_DOCUMENT: usize = 512 << 10;
/// Most keys used of one document.
const MAX_KEYS: usize = 64;
/// How long keys are good where the endpoint does not say, and the bounds of what it may say.
const USUAL_AGE: Duration = Duration::from_secs(300);
const LEAST_AGE: Duration = Duration::from_secs(15);
const MOST_AGE: Duration = Duration::from_secs(86_400);
/// Pause after a fetch that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Where and how keys are fetched.
#[derive(Clone, Debug)]
pub struct JwksSettings {
    /// The endpoint.
    pub url: String,
    /// Longest a fetch may take, and a request may wait for one.
    pub timeout: Duration,
    /// Between fetches that requests ask for.
    pub cooldown: Duration,
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct Jwks {
    shared: Arc<Shared>,
    started: AtomicBool,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    settings: JwksSettings,
    client: reqwest::Client,
    keys: ArcSwap<KeySet>,
    poke: Notify,
    /// Fetches that have ended.
    fetches: watch::Sender<u64>,
    /// When requests may ask again.
    ask_again: watch::Sender<Option<Instant>>,
}

/// Keys as fetched at one time.
#[derive(Debug, Default)]
pub struct KeySet {
    /// Grows whenever the keys change.
    pub generation: u64,
    named: HashMap<String, Key>,
    nameless: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    decoding: DecodingKey,
    /// The one algorithm the issuer uses it for, if it says so.
    algorithm: Option<KeyAlgorithm>,
    document: Jwk,
}

impl KeySet {
    /// Whether nothing was ever fetched.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.nameless.is_empty()
    }

    /// The keys that may have signed a token: the one it names; where it names none, all.
    pub fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let named = self
            .named
            .iter()
            .filter(move |(name, _)| kid.is_none_or(|kid| kid == name.as_str()))
            .map(|(_, key)| key);
        let nameless = self.nameless.iter().filter(move |_| kid.is_none());
        named
            .chain(nameless)
            .filter(move |key| key.signs_by(algorithm))
            .map(|key| &key.decoding)
    }

    fn parse(document: JwkSet) -> Self {
        let mut set = Self::default();
        for jwk in document.keys.into_iter().take(MAX_KEYS) {
            if matches!(&jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
                continue;
            }
            // A shared secret has no place in a public document.
            let Ok(decoding) = DecodingKey::from_jwk(&jwk) else {
                continue;
            };
            if fits(&decoding, Algorithm::HS256) {
                continue;
            }
            let key = Key {
                decoding,
                algorithm: jwk.common.key_algorithm,
                document: jwk.clone(),
            };
            match jwk.common.key_id {
                Some(name) => drop(set.named.insert(name, key)),
                None => set.nameless.push(key),
            }
        }
        set
    }

    fn equals(&self, other: &Self) -> bool {
        let same = |one: &Key, two: &Key| one.document == two.document;
        let named = self.named.iter().all(|(name, one)| {
            let two = other.named.get(name);
            two.is_some_and(|two| same(one, two))
        });
        let mut pairs = self.nameless.iter().zip(&other.nameless);
        named
            && self.named.len() == other.named.len()
            && self.nameless.len() == other.nameless.len()
            && pairs.all(|(one, two)| same(one, two))
    }
}

impl Key {
    fn signs_by(&self, algorithm: Algorithm) -> bool {
        let said = self.algorithm.map(|said| said.to_string());
        fits(&self.decoding, algorithm) && said.is_none_or(|said| said == format!("{algorithm:?}"))
    }
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Call(#[from] reqwest::Error),
    #[error("it answers {0}")]
    Status(u16),
    #[error("its document is larger than {MAX_DOCUMENT} bytes")]
    TooLarge,
    #[error("its document is not a key set: {0}")]
    Document(#[from] serde_json::Error),
    #[error("its document has no key that could be used")]
    NoKeys,
    #[error("it took more than {0:?}")]
    TimeOut(Duration),
}

impl Jwks {
    /// Nothing fetched yet.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(settings: JwksSettings) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        let stop = CancellationToken::new();
        Ok(Self {
            shared: Arc::new(Shared {
                settings,
                client,
                keys: ArcSwap::default(),
                poke: Notify::new(),
                fetches: watch::channel(0).0,
                ask_again: watch::channel(None).0,
            }),
            started: AtomicBool::new(false),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// The keys there are.
    pub fn keys(&self) -> Arc<KeySet> {
        self.shared.keys.load_full()
    }

    /// Begins to fetch, on the current runtime; a second call changes nothing.
    pub fn start(&self) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = shared.run() => {}
            }
        });
    }

    /// Whether a request may ask for another fetch.
    pub fn may_look_again(&self) -> bool {
        let now = Instant::now();
        self.shared
            .ask_again
            .borrow()
            .is_none_or(|then| now >= then)
            || self.keys().is_empty()
    }

    /// Asks for a fetch and waits until it has ended, or for as long as one may take. Those who
    /// ask at the same time wait for the same one.
    pub async fn look_again(&self) {
        let shared = &self.shared;
        let mut fetches = shared.fetches.subscribe();
        fetches.mark_unchanged();
        if self.may_look_again() {
            let then = Instant::now() + shared.settings.cooldown;
            shared.ask_again.send_replace(Some(then));
            shared.poke.notify_one();
        }
        // Time-out or end of the task: the keys are looked at again in any case.
        let _ = tokio::time::timeout(shared.settings.timeout, fetches.changed()).await;
    }
}

impl Shared {
    async fn run(&self) {
        let mut failing = false;
        loop {
            let wait = match self.refresh().await {
                Ok(age) => {
                    if failing {
                        log::info!("keys of {} are fetched again", self.settings.url);
                    }
                    failing = false;
                    age
                }
                Err(cause) => {
                    if !failing {
                        let url = &self.settings.url;
                        log::warn!("keys of {url} cannot be fetched, those known stay: {cause}");
                    }
                    failing = true;
                    AFTER_FAILURE
                }
            };
            self.fetches.send_modify(|count| *count += 1);
            let _ = tokio::time::timeout(wait, self.poke.notified()).await;
        }
    }

    async fn refresh(&self) -> Result<Duration, FetchError> {
        let patience = self.settings.timeout;
        let fetched = tokio::time::timeout(patience, self.fetch()).await;
        let (mut set, age) = fetched.map_err(|_| FetchError::TimeOut(patience))??;
        let known = self.keys.load();
        if set.is_empty() {
            return Err(FetchError::NoKeys);
        }
        if !set.equals(&known) {
            set.generation = known.generation + 1;
            self.keys.store(Arc::new(set));
        }
        Ok(age)
    }

    async fn fetch(&self) -> Result<(KeySet, Duration), FetchError> {
        let mut answer = self.client.get(&self.settings.url).send().await?;
        if answer.status() != 200 {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let said = answer.headers().get(http::header::CACHE_CONTROL);
        let age = said.and_then(|value| max_age(value.to_str().ok()?));
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            document.extend_from_slice(&piece);
            if document.len() > MAX_DOCUMENT {
                return Err(FetchError::TooLarge);
            }
        }
        // Keys of kinds nobody knows yet must not spoil the others.
        let mut value: serde_json::Value = serde_json::from_slice(&document)?;
        if let Some(keys) = value.get_mut("keys").and_then(|keys| keys.as_array_mut()) {
            keys.retain(|key| serde_json::from_value::<Jwk>(key.clone()).is_ok());
        }
        let set = KeySet::parse(serde_json::from_value(value)?);
        Ok((set, age.unwrap_or(USUAL_AGE).clamp(LEAST_AGE, MOST_AGE)))
    }
}

fn max_age(cache_control: &str) -> Option<Duration> {
    let mut parts = cache_control.split(',').map(str::trim);
    let seconds = parts.find_map(|part| part.strip_prefix("max-age="))?;
    seconds.parse().ok().map(Duration::from_secs)
}
