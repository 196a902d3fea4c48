//! An issuer of tokens: its keys, the document that publishes them, and tokens put together byte
//! by byte, good ones and forgeries. It shares no code with what verifies them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::Utc;
use hmac::{Hmac, Mac as _};
use http::StatusCode;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePublicKey as _;
use rsa::rand_core::OsRng;
use rsa::sha2::Sha256;
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::traits::PublicKeyParts as _;
use rsa::{RsaPrivateKey, RsaPublicKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A key and the name it is published under.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its `kid`.
    pub name: String,
    private: RsaPrivateKey,
}

impl Key {
    /// A fresh RSA key of 2,048 bits.
    ///
    /// # Errors
    /// If none can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            private: RsaPrivateKey::new(&mut OsRng, 2_048)?,
        })
    }

    /// The public half, PEM.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn public_pem(&self) -> anyhow::Result<String> {
        let public = RsaPublicKey::from(&self.private);
        Ok(public.to_public_key_pem(rsa::pkcs8::LineEnding::LF)?)
    }

    fn jwk(&self) -> Value {
        let public = RsaPublicKey::from(&self.private);
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.name,
            "n": URL_SAFE_NO_PAD.encode(public.n().to_bytes_be()),
            "e": URL_SAFE_NO_PAD.encode(public.e().to_bytes_be()),
        })
    }

    /// A token signed with it, by RS256.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(
            &json!({"alg": "RS256", "typ": "JWT", "kid": self.name}),
            claims,
        )
    }

    /// The same with a header of its own.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let body = unsigned(header, claims);
        let key = SigningKey::<Sha256>::new(self.private.clone());
        let signature = key.sign(body.as_bytes()).to_bytes();
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and claims, encoded, without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// A token signed by HS256 with these bytes as the secret.
pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> anyhow::Result<String> {
    let body = unsigned(header, claims);
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(secret)?;
    mac.update(body.as_bytes());
    let signature = mac.finalize().into_bytes();
    Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Claims of `ada`, good for a minute; `more` is added and wins.
pub fn claims(more: &Value) -> Value {
    let now = Utc::now().timestamp();
    let mut claims = json!({
        "iss": "https://issuer.example", "aud": "shop", "sub": "ada",
        "exp": now + 60, "nbf": now - 1, "scope": "read write",
    });
    if let (Some(all), Some(more)) = (claims.as_object_mut(), more.as_object()) {
        for (name, value) in more {
            if value.is_null() {
                all.remove(name);
            } else {
                all.insert(name.clone(), value.clone());
            }
        }
    }
    claims
}

/// SHA-256 of a text, as a configuration wants it.
pub fn digest(text: &str) -> String {
    use rsa::sha2::Digest as _;
    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64 of a text.
pub fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// A server that publishes keys; it ends when dropped.
#[derive(Debug)]
pub struct Publisher {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: Mutex<Vec<Value>>,
    down: AtomicBool,
    fetches: AtomicUsize,
}

impl Publisher {
    /// Publishes these keys.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start(keys: &[&Key]) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/keys", get(document));
        let router = router.with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // It serves until aborted; there is nothing to do about its end.
            let _ = axum::serve(listener, router).await;
        });
        let publisher = Self {
            address,
            shared,
            server,
        };
        publisher.publish(keys);
        Ok(publisher)
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, keys: &[&Key]) {
        self.publish_document(keys.iter().map(|key| key.jwk()).collect());
    }

    /// Publishes these keys, written by others, from now on.
    pub fn publish_document(&self, keys: Vec<Value>) {
        let mut published = self
            .shared
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *published = keys;
    }

    /// Answers 500 from now on, or no more.
    pub fn fail(&self, fails: bool) {
        self.shared.down.store(fails, Ordering::SeqCst);
    }

    /// How often it was asked.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn document(State(shared): State<Arc<Shared>>) -> Response {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    if shared.down.load(Ordering::SeqCst) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let keys = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
    axum::Json(json!({"keys": *keys})).into_response()
}
