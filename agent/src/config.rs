//! What the operator decides: a TOML file, the environment, flags, in rising order of weight.

use patchbay_common::config::{
    ConfigError, Discovery, Loader, Logging, Mistake, Secret, Strictness, environment,
};
use serde::Deserialize;

use crate::arguments::Arguments;
use crate::tunnel::Tunnel;

/// Where the file may be.
pub const DISCOVERY: Discovery = Discovery {
    names: &["patchbay-agent", "agent"],
};

/// Variables the token is read from, the first that is set.
const TOKEN_VARIABLES: [&str; 2] = ["PATCHBAY_AGENT_TOKEN", "PROXER_AGENT_TOKEN"];

/// Everything the agent runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URL of the gateway.
    pub gateway: String,
    /// Registration token.
    pub token: Secret,
    /// Name of this agent.
    pub id: String,
    /// What it lends.
    pub tunnels: Vec<Tunnel>,
}

/// `[agent]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    gateway: Option<String>,
    token: Option<Secret>,
    id: Option<String>,
    tunnels: Vec<String>,
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
            gateway: gateway(l, arguments.gateway.clone().or(section.gateway)),
            token: l.require("agent", "token", token),
            id: l.require("agent", "id", arguments.id.clone().or(section.id)),
            tunnels: tunnels(l, section.tunnels.iter().chain(&arguments.tunnels)),
        };
        loader.finish()?;
        Ok(config)
    }
}

fn gateway(loader: &mut Loader, given: Option<String>) -> String {
    let url: String = loader.require("agent", "gateway", given);
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        let problem = format!("`{url}` is not a URL: write https://host:8080");
        loader.mistake(Mistake::new("agent.gateway", problem));
    }
    url.trim_end_matches('/').to_owned()
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
