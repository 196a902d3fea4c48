//! What the operator decides: a TOML file, the environment, flags, in rising order of weight.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use patchbay_common::config::Seconds;
use patchbay_common::config::{
    ConfigError, Discovery, Loader, Logging, Mistake, Secret, Strictness, environment,
};
use patchbay_common::tunnel::{AgentId, Transport};
use serde::Deserialize;

use crate::arguments::Arguments;
use crate::tunnel::Tunnel;

/// Where the file may be.
pub const DISCOVERY: Discovery = Discovery {
    names: &["patchbay-agent", "agent"],
};

/// Variables the token is read from, the first that is set.
const TOKEN_VARIABLES: [&str; 2] = ["PATCHBAY_AGENT_TOKEN", "PROXER_AGENT_TOKEN"];

/// How long streams may go on after SIGTERM, unless the file says otherwise.
const GRACE: Duration = Duration::from_secs(30);

/// Everything the agent runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URLs of the gateways.
    pub gateways: Vec<String>,
    /// Registration token.
    pub token: Secret,
    /// Name of this agent.
    pub id: AgentId,
    /// What it lends.
    pub tunnels: Vec<Tunnel>,
    /// Certificates to trust the gateway by, PEM.
    pub ca: Option<Vec<u8>>,
    /// Certificates to trust `https` targets by, PEM.
    pub target_ca: Option<Vec<u8>>,
    /// Where metrics are shown.
    pub metrics: Option<SocketAddr>,
    /// The only transport to use.
    pub transport: Option<Transport>,
    /// How long streams may go on after SIGTERM.
    pub grace: Duration,
}

/// `[agent]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    gateway: Option<Gateways>,
    token: Option<Secret>,
    id: Option<String>,
    tunnels: Vec<String>,
    ca: Option<PathBuf>,
    target_ca: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    transport: Option<String>,
    grace_period: Option<Seconds>,
}

/// One gateway, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a URL, or a list of URLs")]
enum Gateways {
    One(String),
    Several(Vec<String>),
}

impl From<Gateways> for Vec<String> {
    fn from(gateways: Gateways) -> Self {
        match gateways {
            Gateways::One(url) => vec![url],
            Gateways::Several(urls) => urls,
        }
    }
}

impl Config {
    /// Reads the configuration and installs the logger it asks for.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        let file = DISCOVERY.find(arguments.common.config.as_deref());
        let mut loader = Loader::open(file.as_deref(), environment())?;
        let l = &mut loader;
        let logging: Logging = l.section("logging", Strictness::Ours);
        logging.install(&arguments.common, l);
        let section: Section = l.section("agent", Strictness::Ours);
        let token = arguments
            .token
            .clone()
            .or_else(|| {
                TOKEN_VARIABLES
                    .iter()
                    .find_map(|name| std::env::var(name).ok())
            })
            .map(Secret::new)
            .or(section.token);
        let config = Self {
            gateways: gateways(l, &arguments.gateways, section.gateway),
            token: l.require("agent", "token", token),
            id: id(l, arguments.id.clone().or(section.id))?,
            tunnels: tunnels(l, section.tunnels.iter().chain(&arguments.tunnels)),
            ca: certificates(l, "agent.ca", arguments.ca.clone().or(section.ca)),
            target_ca: certificates(l, "agent.target_ca", section.target_ca),
            metrics: arguments.metrics.or(section.metrics),
            transport: transport(l, arguments.transport.clone().or(section.transport)),
            grace: section.grace_period.map_or(GRACE, |grace| grace.0),
        };
        loader.finish()?;
        Ok(config)
    }
}

/// A name; where there is none or a wrong one, the mistake is noted and any name will do.
fn id(loader: &mut Loader, given: Option<String>) -> Result<AgentId, ConfigError> {
    let text: String = loader.require("agent", "id", given);
    let parsed = text.parse::<AgentId>();
    if let (Err(error), false) = (&parsed, text.is_empty()) {
        loader.mistake(Mistake::new("agent.id", error));
    }
    parsed
        .or_else(|_| "unnamed".parse())
        .map_err(|error| ConfigError::Mistakes {
            file: "agent.id".into(),
            mistakes: vec![Mistake::new("agent.id", error)],
        })
}

fn certificates(loader: &mut Loader, key: &str, file: Option<PathBuf>) -> Option<Vec<u8>> {
    let file = file?;
    match std::fs::read(&file) {
        Ok(pem) => match reqwest::Certificate::from_pem_bundle(&pem) {
            Ok(all) if !all.is_empty() => return Some(pem),
            _ => loader.mistake(Mistake::new(
                key,
                format!("{} holds no certificate (PEM)", file.display()),
            )),
        },
        Err(cause) => loader.mistake(Mistake::new(
            key,
            format!("{} cannot be read: {cause}", file.display()),
        )),
    }
    None
}

fn transport(loader: &mut Loader, given: Option<String>) -> Option<Transport> {
    match given.as_deref() {
        None => None,
        Some("mux") => Some(Transport::Mux),
        Some("poll") => Some(Transport::Poll),
        Some(other) => {
            let problem = format!("`{other}` is not a transport: write mux or poll");
            loader.mistake(Mistake::new("agent.transport", problem));
            None
        }
    }
}

fn gateways(loader: &mut Loader, flags: &[String], file: Option<Gateways>) -> Vec<String> {
    let given = match flags {
        [] => file.map(Vec::from),
        flags => Some(flags.to_vec()),
    };
    if given.as_ref().is_some_and(Vec::is_empty) {
        loader.mistake(Mistake::new("agent.gateway", "is empty: name a gateway"));
    }
    let urls: Vec<String> = loader.require("agent", "gateway", given);
    let mut gateways = Vec::new();
    for url in urls {
        let url = url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let problem = format!("`{url}` is not a URL: write https://host:8080");
            loader.mistake(Mistake::new("agent.gateway", problem));
        } else if gateways.contains(&url) {
            let problem = format!("`{url}` is given twice");
            loader.mistake(Mistake::new("agent.gateway", problem));
        } else {
            gateways.push(url);
        }
    }
    gateways
}

fn tunnels<'a>(loader: &mut Loader, texts: impl Iterator<Item = &'a String>) -> Vec<Tunnel> {
    let mut tunnels: Vec<Tunnel> = Vec::new();
    for text in texts {
        match text.parse::<Tunnel>() {
            Ok(tunnel) if tunnels.iter().any(|known| known.id == tunnel.id) => {
                let problem = format!("`{}` is given twice: names are unique", tunnel.id);
                loader.mistake(Mistake::new("agent.tunnels", problem));
            }
            Ok(tunnel) => tunnels.push(tunnel),
            Err(error) => loader.mistake(Mistake::new("agent.tunnels", error)),
        }
    }
    if tunnels.is_empty() {
        loader.mistake(Mistake::new(
            "agent.tunnels",
            "is empty: name a service to lend, such as \"web=http://localhost:3000\"",
        ));
    }
    tunnels
}
