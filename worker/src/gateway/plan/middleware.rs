//! Stages from their sections.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use patchbay_common::client_ips::parse_network;

use super::Flaw;
use crate::gateway::chain::{
    Addresses, ApiKeys, Compress, Cors, ForwardAuth, ForwardSettings, Holder, Jwks, JwksSettings,
    Jwt, JwtSettings, KeySource, Ledger, LimitKey, RateLimit, Required, Stage,
};
use crate::gateway::config::sections;
use crate::gateway::encoder::Coding;

/// Patience with services that are asked for keys or decisions.
const USUAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What is worth compressing, where nobody says otherwise: pictures and archives are compressed.
const USUAL_TYPES: [&str; 8] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "image/svg+xml",
    "*+json",
    "*+xml",
];
/// A shorter answer fits a packet as it is.
const USUAL_MINIMUM: u64 = 1_024;
/// More than this is an error of units, and more than the age of all clocks cannot be reckoned with.
const MOST_LEEWAY: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Between fetches of keys that tokens ask for.
const USUAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Notes flaws of one middleware.
struct Notes<'a> {
    name: &'a str,
    kind: &'static str,
    ledger: Option<&'a Arc<dyn Ledger>>,
    flaws: &'a mut Vec<Flaw>,
}

impl Notes<'_> {
    fn of(&mut self, kind: &'static str) -> &mut Self {
        self.kind = kind;
        self
    }

    fn note(&mut self, key: &str, problem: impl Into<String>) {
        let (name, kind) = (self.name, self.kind);
        let dot = if key.is_empty() { "" } else { "." };
        let key = format!("middleware.{name}.{kind}{dot}{key}");
        self.flaws.push((key, problem.into()));
    }

    fn header(&mut self, key: &str, text: &str) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(text.as_bytes());
        if name.is_err() {
            self.note(key, format!("`{text}` is not a header's name"));
        }
        name.ok()
    }

    fn headers(&mut self, key: &str, texts: &[String]) -> Vec<HeaderName> {
        let all = texts.iter();
        all.filter_map(|text| self.header(key, text)).collect()
    }

    fn url(&mut self, key: &str, text: &str) {
        let url = reqwest::Url::parse(text);
        let good = url.is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !good {
            self.note(
                key,
                format!("`{text}` is not a URL: write https://host/path"),
            );
        }
    }
}

/// `None` if it has a flaw.
pub(super) fn build(
    name: &str,
    section: &sections::Middleware,
    ledger: Option<&Arc<dyn Ledger>>,
    flaws: &mut Vec<Flaw>,
) -> Option<Stage> {
    let before = flaws.len();
    let mut found: Vec<Option<Stage>> = Vec::new();
    let mut notes = Notes {
        name,
        kind: "",
        ledger,
        flaws,
    };
    if let Some(section) = &section.jwt {
        found.push(jwt(section, notes.of("jwt")));
    }
    if let Some(section) = &section.api_key {
        found.push(api_keys(section, notes.of("api_key")));
    }
    if let Some(section) = &section.forward_auth {
        found.push(forward(section, notes.of("forward_auth")));
    }
    if let Some(section) = &section.rate_limit {
        found.push(rate_limit(section, notes.of("rate_limit")));
    }
    if let Some(section) = &section.addresses {
        found.push(addresses(section, notes.of("addresses")));
    }
    if let Some(section) = &section.cors {
        found.push(cors(section, notes.of("cors")));
    }
    if let Some(section) = &section.compress {
        found.push(compress(section, notes.of("compress")));
    }
    if found.len() != 1 {
        let problem = "must be exactly one of jwt, api_key, forward_auth, rate_limit, addresses, \
                       cors and compress";
        flaws.push((format!("middleware.{name}"), problem.into()));
    }
    let stage = found.pop().flatten();
    stage.filter(|_| flaws.len() == before)
}

fn jwt(section: &sections::Jwt, notes: &mut Notes<'_>) -> Option<Stage> {
    let algorithms = algorithms(section, notes);
    let keys = keys(section, &algorithms, notes);
    let header = section.header.as_deref().unwrap_or("authorization");
    let header = notes.header("header", header);
    let mut claim_headers = Vec::new();
    for (name, claim) in &section.claim_headers {
        if let Some(name) = notes.header("claim_headers", name) {
            claim_headers.push((name, claim.clone()));
        }
    }
    if section.leeway.is_some_and(|time| time.0 > MOST_LEEWAY) {
        notes.note("leeway", "is longer than any clock is wrong: 5s is usual");
    }
    let claim = section.permissions_claim.clone();
    Some(Stage::Jwt(Arc::new(Jwt::new(JwtSettings {
        keys: keys?,
        algorithms,
        header: header?,
        cookie: section.cookie.clone(),
        issuers: section.issuer.0.clone(),
        audiences: section.audience.0.clone(),
        leeway: section.leeway.map_or(0, |time| time.0.as_secs()),
        permissions_claim: claim.unwrap_or_else(|| "scope".into()),
        required: Required {
            all: section.require_all.clone(),
            any: section.require_any.clone(),
        },
        claim_headers,
        keep_token: section.keep_token,
    }))))
}

fn algorithms(section: &sections::Jwt, notes: &mut Notes<'_>) -> Vec<Algorithm> {
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for text in &section.algorithms {
        match text.parse() {
            Ok(algorithm) => algorithms.push(algorithm),
            Err(_) => notes.note(
                "algorithms",
                format!("`{text}` is not offered: HS, RS and PS256 to 512, ES256, ES384, EdDSA"),
            ),
        }
    }
    let families: Vec<AlgorithmFamily> = [
        AlgorithmFamily::Hmac,
        AlgorithmFamily::Rsa,
        AlgorithmFamily::Ec,
        AlgorithmFamily::Ed,
    ]
    .into_iter()
    .filter(|family| {
        let mut all = algorithms.iter();
        all.any(|one| family.algorithms().contains(one))
    })
    .collect();
    if section.algorithms.is_empty() {
        notes.note(
            "algorithms",
            "is missing: name those that tokens are signed by",
        );
    } else if section.jwks_url.is_none() && families.len() > 1 {
        notes.note(
            "algorithms",
            "are of several kinds, but there is one key: keep one kind",
        );
    }
    if section.jwks_url.is_some() && families.contains(&AlgorithmFamily::Hmac) {
        let problem = "names HS, whose keys are secret and never published: take it out";
        notes.note("algorithms", problem);
    }
    algorithms
}

fn keys(
    section: &sections::Jwt,
    algorithms: &[Algorithm],
    notes: &mut Notes<'_>,
) -> Option<KeySource> {
    match (&section.secret, &section.public_key, &section.jwks_url) {
        (Some(secret), None, None) => {
            if secret.expose().len() < 16 {
                notes.note("secret", "is too short: 32 random characters are usual");
            }
            if !algorithms
                .iter()
                .all(|one| AlgorithmFamily::Hmac.algorithms().contains(one))
            {
                notes.note(
                    "secret",
                    "is for HS256, HS384 and HS512: give public_key instead",
                );
            }
            let key = DecodingKey::from_secret(secret.expose().as_bytes());
            Some(KeySource::Fixed(vec![key]))
        }
        (None, Some(path), None) => {
            let key = public_key(path, algorithms);
            let key = key.map_err(|problem| notes.note("public_key", problem));
            key.ok().map(|key| KeySource::Fixed(vec![key]))
        }
        (None, None, Some(url)) => {
            notes.url("jwks_url", url);
            let keys = Jwks::new(JwksSettings {
                url: url.clone(),
                timeout: section.jwks_timeout.map_or(USUAL_TIMEOUT, |time| time.0),
                cooldown: section.jwks_cooldown.map_or(USUAL_COOLDOWN, |time| time.0),
            });
            let keys = keys.map_err(|cause| notes.note("jwks_url", cause.to_string()));
            keys.ok().map(|keys| KeySource::Endpoint(Arc::new(keys)))
        }
        _ => {
            notes.note("", "give exactly one of secret, public_key and jwks_url");
            None
        }
    }
}

fn public_key(path: &std::path::Path, algorithms: &[Algorithm]) -> Result<DecodingKey, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|cause| format!("{shown} cannot be read: {cause}"))?;
    let is = |family: AlgorithmFamily| {
        let first = algorithms.first();
        first.is_some_and(|one| family.algorithms().contains(one))
    };
    let key = if is(AlgorithmFamily::Ec) {
        DecodingKey::from_ec_pem(&pem)
    } else if is(AlgorithmFamily::Ed) {
        DecodingKey::from_ed_pem(&pem)
    } else if is(AlgorithmFamily::Rsa) {
        DecodingKey::from_rsa_pem(&pem)
    } else {
        return Err("is not for HS256, HS384 and HS512: give secret instead".into());
    };
    key.map_err(|cause| format!("{shown} is not a public key of this kind: {cause}"))
}

fn api_keys(section: &sections::ApiKey, notes: &mut Notes<'_>) -> Option<Stage> {
    let header = section.header.as_deref().unwrap_or("x-api-key");
    let header = notes.header("header", header);
    let subject = section.subject_header.as_deref();
    let subject_header = subject.and_then(|name| notes.header("subject_header", name));
    if section.keys.is_empty() {
        notes.note("keys", "is missing: add [….api_key.keys.NAME] with sha256");
    }
    let mut holders = std::collections::HashMap::default();
    for (name, key) in &section.keys {
        let Some(digest) = digest(&key.sha256) else {
            let problem = "must be 64 hexadecimal digits: printf %s KEY | sha256sum";
            notes.note(&format!("keys.{name}.sha256"), problem);
            continue;
        };
        let holder = Holder {
            subject: name.clone(),
            permissions: key.permissions.clone(),
        };
        if holders.insert(digest, holder).is_some() {
            notes.note(&format!("keys.{name}.sha256"), "is another holder's too");
        }
    }
    Some(Stage::ApiKey(Arc::new(ApiKeys {
        header: header?,
        holders,
        required: Required {
            all: section.require_all.clone(),
            any: section.require_any.clone(),
        },
        subject_header,
    })))
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn forward(section: &sections::ForwardAuth, notes: &mut Notes<'_>) -> Option<Stage> {
    notes.url("url", &section.url);
    let usual = ["authorization".to_owned(), "cookie".to_owned()];
    let shown = section.request_headers.as_deref().unwrap_or(&usual);
    let subject = section.subject_header.as_deref();
    let made = ForwardAuth::new(ForwardSettings {
        url: section.url.clone(),
        timeout: section.timeout.map_or(USUAL_TIMEOUT, |time| time.0),
        request_headers: notes.headers("request_headers", shown),
        response_headers: notes.headers("response_headers", &section.response_headers),
        subject_header: subject.and_then(|name| notes.header("subject_header", name)),
    });
    let made = made.map_err(|cause| notes.note("url", cause.to_string()));
    made.ok().map(|service| Stage::Forward(Arc::new(service)))
}

fn rate_limit(section: &sections::RateLimit, notes: &mut Notes<'_>) -> Option<Stage> {
    let per = section.per.map_or(Duration::from_secs(1), |time| time.0);
    let rate = section.rate.filter(|rate| rate.is_finite() && *rate > 0.0);
    if rate.is_none() {
        notes.note(
            "rate",
            "is missing: write how many requests may come in each `per`",
        );
    }
    let rate = rate?;
    let period = Duration::try_from_secs_f64(per.as_secs_f64() / rate).unwrap_or_default();
    let usual = rate.ceil().clamp(1.0, f64::from(u32::MAX));
    // In range, as clamped.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let burst = NonZeroU32::new(section.burst.unwrap_or(usual as u32));
    if burst.is_none() {
        notes.note("burst", "must be at least 1");
    }
    let key = match section.key.as_deref().unwrap_or("address") {
        "address" => LimitKey::Address,
        "subject" => LimitKey::Subject,
        "route" => LimitKey::Route,
        other => match other.strip_prefix("header:") {
            Some(name) => LimitKey::Header(notes.header("key", name)?.as_str().to_owned()),
            None => {
                let problem = format!("`{other}`: write address, subject, route or header:NAME");
                notes.note("key", problem);
                return None;
            }
        },
    };
    let limit = RateLimit::new(notes.name, key, period, burst?);
    if limit.is_none() {
        notes.note("rate", "is more than one in a nanosecond");
    }
    let mut limit = limit?;
    if section.shared {
        match notes.ledger {
            Some(ledger) => limit = limit.shared(Arc::clone(ledger)),
            None => notes.note("shared", "needs Redis: add [redis] with addr"),
        }
    }
    Some(Stage::RateLimit(Arc::new(limit)))
}

fn addresses(section: &sections::Addresses, notes: &mut Notes<'_>) -> Option<Stage> {
    let mut parse = |key: &str, texts: &sections::Texts| -> Vec<IpNet> {
        let parse = |text: &String| {
            let network = parse_network(text.trim());
            if network.is_none() {
                notes.note(key, format!("`{text}` is neither an address nor a network"));
            }
            network
        };
        texts.0.iter().filter_map(parse).collect()
    };
    let made = Addresses {
        allow: parse("allow", &section.allow),
        deny: parse("deny", &section.deny),
    };
    if section.allow.0.is_empty() && section.deny.0.is_empty() {
        notes.note("", "names no address: give allow or deny");
    }
    Some(Stage::Addresses(Arc::new(made)))
}

fn cors(section: &sections::Cors, notes: &mut Notes<'_>) -> Option<Stage> {
    if section.origins.is_empty() {
        notes.note(
            "origins",
            "is missing: name origins such as https://app.example.com",
        );
    }
    for origin in &section.origins {
        let has_scheme = origin.contains("://") && !origin.ends_with('/');
        if origin != "*" && !has_scheme {
            let problem = format!("`{origin}`: write scheme and host, https://app.example.com");
            notes.note("origins", problem);
        }
        if origin == "*" && section.credentials {
            notes.note("credentials", "must not be given to all origins: name them");
        }
    }
    let lists = [&section.methods, &section.headers, &section.expose];
    let [methods, headers, expose] = lists.map(|list| list.join(", "));
    for (key, text) in [
        ("methods", &methods),
        ("headers", &headers),
        ("expose", &expose),
    ] {
        if HeaderValue::from_str(text).is_err() {
            notes.note(key, "cannot stand in a header");
        }
    }
    Some(Stage::Cors(Arc::new(Cors {
        origins: section.origins.clone(),
        methods,
        headers,
        expose,
        credentials: section.credentials,
        max_age: section.max_age.map_or(600, |time| time.0.as_secs()),
    })))
}

fn compress(section: &sections::Compress, notes: &mut Notes<'_>) -> Option<Stage> {
    let mut codings = Vec::new();
    for name in section.codings.iter().flatten() {
        match Coding::ALL.iter().find(|coding| coding.as_str() == name) {
            Some(coding) if !codings.contains(coding) => codings.push(*coding),
            Some(_) => notes.note("codings", format!("names `{name}` twice")),
            None => notes.note("codings", format!("`{name}`: write zstd, br or gzip")),
        }
    }
    if section.codings.is_none() {
        codings = Coding::ALL.into();
    } else if codings.is_empty() {
        notes.note("codings", "is empty: leave it out or name some");
    }
    let usual = || USUAL_TYPES.map(str::to_owned).into();
    let mut types = section.types.clone().unwrap_or_else(usual);
    for kind in &mut types {
        let suffix = kind.strip_prefix("*+").is_some_and(|rest| !rest.is_empty());
        let two = kind.split_once('/').is_some_and(|(one, two)| {
            let whole = !two.is_empty() && !two.contains('*');
            !one.is_empty() && !one.contains('*') && (whole || two == "*")
        });
        if !suffix && !two {
            notes.note(
                "types",
                format!("`{kind}`: write text/html, text/* or *+json"),
            );
        }
        kind.make_ascii_lowercase();
    }
    Some(Stage::Compress(Arc::new(Compress {
        codings,
        types,
        minimum: section.minimum.map_or(USUAL_MINIMUM, |size| size.0),
        event_streams: section.event_streams,
    })))
}
