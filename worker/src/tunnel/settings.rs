//! `[tunnels]`: what the operator decides about tunnels.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use patchbay_common::client_ips::parse_network;
use patchbay_common::config::{ByteSize, Loader, Mistake, Seconds, Secret, Strictness};
use patchbay_common::tunnel::{Limits, TunnelId, mux};
use serde::Deserialize;

use super::tokens::{Token, Tokens, matches};

/// Its name in the file.
pub const SECTION: &str = "tunnels";

/// Variables a token for all tunnels is read from, the first that is set.
const TOKEN_VARIABLES: [&str; 2] = ["PATCHBAY_AGENT_TOKEN", "PROXER_AGENT_TOKEN"];

/// The section as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Section {
    tokens: Vec<Token>,
    shared: Vec<String>,
    operators: Vec<String>,
    session_ttl: Seconds,
    queue: usize,
    max_body: ByteSize,
    response_timeout: Seconds,
    max_sessions: usize,
    window: ByteSize,
    ping_interval: Seconds,
    relay: Option<String>,
    relay_ca: Option<PathBuf>,
    tcp: Vec<TcpPort>,
}

/// A port whose connections are carried to a tunnel.
#[derive(Clone, Debug, Deserialize)]
pub struct TcpPort {
    /// Where to listen.
    pub bind: SocketAddr,
    /// The tunnel.
    pub tunnel: TunnelId,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            shared: Vec::new(),
            operators: vec!["127.0.0.0/8".into(), "::1/128".into()],
            session_ttl: Seconds::from_secs(30),
            queue: 64,
            max_body: ByteSize(16 << 20),
            response_timeout: Seconds::from_secs(60),
            max_sessions: 10_000,
            window: ByteSize(256 << 10),
            ping_interval: Seconds::from_secs(5),
            relay: None,
            relay_ca: None,
            tcp: Vec::new(),
        }
    }
}

/// What tunnels are run by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may register.
    pub tokens: Tokens,
    /// Patterns of the tunnels that several agents may hold.
    pub shared: Vec<String>,
    /// Who may see all tunnels.
    pub operators: Vec<IpNet>,
    /// How long a session outlives its agent's last word.
    pub session_ttl: Duration,
    /// Most requests of a session that wait to be pulled, and again as many to be answered.
    pub queue: usize,
    /// Most bytes of a body that travels by long polling.
    pub max_body: usize,
    /// How soon a pulled request has to be answered.
    pub response_timeout: Duration,
    /// Most sessions.
    pub max_sessions: usize,
    /// The multiplexed connection.
    pub mux: mux::Settings,
    /// Base URL at which other gateways of the coordinator reach this one.
    pub relay: Option<String>,
    /// Certificates (PEM) to trust other gateways by, beside the system's.
    pub relay_ca: Vec<u8>,
    /// Ports carried to tunnels.
    pub tcp: Vec<TcpPort>,
}

impl Settings {
    /// What holds where there is no section: nobody may register.
    pub fn closed() -> Self {
        let section = Section::default();
        Self {
            tokens: Tokens::default(),
            shared: Vec::new(),
            operators: Vec::new(),
            session_ttl: section.session_ttl.0,
            queue: section.queue,
            max_body: 0,
            response_timeout: section.response_timeout.0,
            max_sessions: 0,
            mux: mux::Settings::default(),
            relay: None,
            relay_ca: Vec::new(),
            tcp: Vec::new(),
        }
    }

    /// Takes the section, if there is one. What is wrong is noted in `loader`; `environment` is
    /// where a token may be.
    pub fn read(loader: &mut Loader, environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if !loader.has(SECTION) {
            return None;
        }
        let section: Section = loader.section(SECTION, Strictness::Ours);
        let mut tokens = section.tokens;
        for token in &tokens {
            if token.name.is_empty() || token.token.expose().is_empty() {
                let problem = "every token needs a name and a token";
                loader.mistake(Mistake::new("tunnels.tokens", problem));
            }
        }
        let mut names: Vec<_> = tokens.iter().map(|token| token.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let problem = format!("`{}` names two tokens: names are unique", twice[0]);
            loader.mistake(Mistake::new("tunnels.tokens", problem));
        }
        if section.queue == 0 {
            loader.mistake(Mistake::new("tunnels.queue", "must be at least 1"));
        }
        let window = u32::try_from(section.window.0).ok();
        let window = window.filter(|window| (65_535..1 << 31).contains(window));
        if window.is_none() {
            let problem = "must be between 64KiB and 2GiB";
            loader.mistake(Mistake::new("tunnels.window", problem));
        }
        let mut operators = Vec::new();
        for text in &section.operators {
            match parse_network(text) {
                Some(network) => operators.push(network),
                None => loader.mistake(Mistake::new(
                    "tunnels.operators",
                    format!("`{text}` is neither an address nor a network"),
                )),
            }
        }
        let variable = TOKEN_VARIABLES.iter().find_map(|name| environment(name));
        if let Some(token) = variable.filter(|token| !token.is_empty()) {
            tokens.push(Token::of_all("environment", Secret::new(token)));
        }
        let defaults = mux::Settings::default();
        let ping = section.ping_interval.0.max(Duration::from_millis(100));
        Some(Self {
            tokens: Tokens::new(tokens),
            shared: section.shared,
            operators,
            session_ttl: section.session_ttl.0.max(Duration::from_secs(1)),
            queue: section.queue.max(1),
            max_body: usize::try_from(section.max_body.0).unwrap_or(usize::MAX),
            response_timeout: section.response_timeout.0,
            max_sessions: section.max_sessions,
            mux: mux::Settings {
                window: window.unwrap_or(defaults.window),
                ping_every: ping,
                ping_patience: ping,
                ..defaults
            },
            relay: relay(loader, section.relay),
            relay_ca: relay_ca(loader, section.relay_ca),
            tcp: section.tcp,
        })
    }

    /// Whether several agents may hold this tunnel.
    pub fn is_shared(&self, id: &TunnelId) -> bool {
        self.shared
            .iter()
            .any(|pattern| matches(pattern.as_bytes(), id.as_str().as_bytes()))
    }

    /// Longest a pull may wait: an agent that pulls is heard often enough.
    pub fn max_wait(&self) -> Duration {
        (self.session_ttl / 2).min(Duration::from_secs(30))
    }

    /// What agents are told.
    pub fn limits(&self) -> Limits {
        Limits {
            session_ttl_seconds: self.session_ttl.as_secs().max(1),
            heartbeat_seconds: (self.session_ttl.as_secs() / 3).max(1),
            max_wait_seconds: self.max_wait().as_secs(),
            response_timeout_seconds: self.response_timeout.as_secs(),
            max_body_bytes: self.max_body as u64,
        }
    }

    /// Most bytes of a control call: a body in base64, and what is around it.
    pub fn max_call(&self) -> usize {
        self.max_body
            .saturating_add(self.max_body / 3)
            .saturating_add(256 << 10)
    }
}

fn relay(loader: &mut Loader, given: Option<String>) -> Option<String> {
    let url = given?;
    let parsed = url.parse::<http::Uri>().ok();
    let is_base = parsed.is_some_and(|url| {
        let scheme = url.scheme_str();
        scheme.is_some_and(|scheme| ["http", "https"].contains(&scheme))
            && url.host().is_some_and(|host| !host.is_empty())
            && url.path() == "/"
            && url.query().is_none()
    });
    if !is_base {
        let problem = format!("`{url}` is not a base URL: write http://10.0.0.5:8080");
        loader.mistake(Mistake::new("tunnels.relay", problem));
    }
    Some(url.trim_end_matches('/').to_owned())
}

fn relay_ca(loader: &mut Loader, file: Option<PathBuf>) -> Vec<u8> {
    let Some(file) = file else { return Vec::new() };
    let problem = match std::fs::read(&file) {
        Ok(pem) => match reqwest::Certificate::from_pem_bundle(&pem) {
            Ok(all) if !all.is_empty() => return pem,
            _ => format!("{} holds no certificate (PEM)", file.display()),
        },
        Err(cause) => format!("{} cannot be read: {cause}", file.display()),
    };
    loader.mistake(Mistake::new("tunnels.relay_ca", problem));
    Vec::new()
}
