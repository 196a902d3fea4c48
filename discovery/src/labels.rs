//! What the labels of a container say. Pure: nobody is asked.

use std::collections::BTreeMap;

use patchbay_common::config::Seconds;
use patchbay_common::gateway::{Balance, Protocol, is_name};
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};

/// All labels of ours begin with this.
pub const PREFIX: &str = "gateway.";
/// The label by which a container opts in.
pub const ENABLE: &str = "gateway.enable";

/// A container as the engine describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports it listens on, inside.
    pub ports: Vec<u16>,
    /// Ports published on its host: inside, outside.
    pub published: Vec<(u16, u16)>,
    /// Its addresses by network.
    pub networks: BTreeMap<String, String>,
    /// It runs, and is not said to be unwell or still starting.
    pub healthy: bool,
}

/// What was found in one container's labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The service it is an instance of.
    pub service: String,
    /// The port it serves on, inside.
    pub port: u16,
    /// Its share of the requests.
    pub weight: f64,
    /// What the service is to be like.
    pub wish: Wish,
    /// The network its address is taken from.
    pub network: Option<String>,
}

/// What containers want of their service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Hosts of its route.
    pub hosts: Vec<String>,
    /// Path pattern of its route.
    pub path: Option<String>,
    /// Path prefix of its route.
    pub path_prefix: Option<String>,
    /// Taken off the path.
    pub strip_prefix: Option<String>,
    /// Put before the path.
    pub add_prefix: Option<String>,
    /// Middleware of its route, by name.
    pub middleware: Vec<String>,
    /// What instances speak.
    pub protocol: Protocol,
    /// How instances are chosen.
    pub balance: Balance,
    /// Path of health checks.
    pub health_path: Option<String>,
    /// Between health checks.
    pub health_interval: Option<Seconds>,
    /// Whatever else was said.
    pub metadata: BTreeMap<String, String>,
}

/// Why a container's labels are not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A label that does not exist.
    #[error("`{0}` is not a label of the gateway: remove it or mend its name")]
    Unknown(String),
    /// A value that cannot be.
    #[error("`{label}={value}`: {expected}")]
    Value {
        /// The label.
        label: String,
        /// What it says.
        value: String,
        /// What it should.
        expected: &'static str,
    },
    /// The port is not clear.
    #[error("it listens on {0} ports: add gateway.port")]
    Port(usize),
    /// Neither path nor prefix can be told.
    #[error("gateway.path and gateway.path-prefix are both given: keep one")]
    TwoPaths,
}

/// The labels of a container that opts in; `None` if it does not.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse(container: &Container) -> Result<Option<Found>, Vec<LabelError>> {
    let labels = &container.labels;
    match labels.get(ENABLE).map(|value| value.trim()) {
        None | Some("false") => return Ok(None),
        Some("true") => {}
        Some(other) => return Err(vec![value(ENABLE, other, "write true or false")]),
    }
    let mut found = Found {
        service: usual_name(container),
        weight: 1.0,
        ..Found::default()
    };
    let mut mistakes = Vec::new();
    let mut port = None;
    for (label, text) in labels {
        let Some(key) = label.strip_prefix(PREFIX) else {
            continue;
        };
        let outcome = if key == "port" {
            parse_port(label, text.trim()).map(|number| port = Some(number))
        } else {
            take(&mut found, key, label, text.trim())
        };
        mistakes.extend(outcome.err());
    }
    if found.wish.path.is_some() && found.wish.path_prefix.is_some() {
        mistakes.push(LabelError::TwoPaths);
    }
    match (port, container.ports.as_slice()) {
        (Some(port), _) | (None, &[port]) => found.port = port,
        (None, ports) if !labels.contains_key("gateway.port") => {
            mistakes.push(LabelError::Port(ports.len()));
        }
        (None, _) => {}
    }
    if mistakes.is_empty() {
        Ok(Some(found))
    } else {
        Err(mistakes)
    }
}

/// A Compose service is one service however many containers it has.
fn usual_name(container: &Container) -> String {
    let compose = container.labels.get("com.docker.compose.service");
    compose.unwrap_or(&container.name).clone()
}

fn take(found: &mut Found, key: &str, label: &str, text: &str) -> Result<(), LabelError> {
    let wish = &mut found.wish;
    let some = || Some(text.to_owned());
    if text.is_empty() {
        return Err(value(label, text, "must not be empty"));
    }
    match key {
        "enable" => {}
        "service" if is_name(text) => text.clone_into(&mut found.service),
        "service" => return Err(value(label, text, "letters, digits, -, _ and . only")),
        "weight" => found.weight = weight(label, text)?,
        "protocol" => {
            let expected = "write http, h2c or grpc";
            wish.protocol = read(text).ok_or_else(|| value(label, text, expected))?;
        }
        "network" => found.network = some(),
        "host" => wish.hosts = list(text),
        "path" if text.starts_with('/') => wish.path = some(),
        "path-prefix" if text.starts_with('/') => wish.path_prefix = some(),
        "strip-prefix" if text.starts_with('/') => wish.strip_prefix = some(),
        "add-prefix" if text.starts_with('/') => wish.add_prefix = some(),
        "health.path" if text.starts_with('/') => wish.health_path = some(),
        "path" | "path-prefix" | "strip-prefix" | "add-prefix" | "health.path" => {
            return Err(value(label, text, "must begin with a slash"));
        }
        "health.interval" => wish.health_interval = Some(interval(label, text)?),
        "middleware" => wish.middleware = list(text),
        "balance" => {
            wish.balance = read(text).ok_or_else(|| {
                let expected = "write round-robin, weighted, least-outstanding or hash";
                value(label, text, expected)
            })?;
        }
        _ => match key.strip_prefix("meta.") {
            Some(name) if !name.is_empty() => {
                wish.metadata.insert(name.to_owned(), text.to_owned());
            }
            _ => return Err(LabelError::Unknown(label.to_owned())),
        },
    }
    Ok(())
}

fn value(label: &str, text: &str, expected: &'static str) -> LabelError {
    LabelError::Value {
        label: label.to_owned(),
        value: text.to_owned(),
        expected,
    }
}

fn parse_port(label: &str, text: &str) -> Result<u16, LabelError> {
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| value(label, text, "a port is a number from 1 to 65535"))
}

fn weight(label: &str, text: &str) -> Result<f64, LabelError> {
    let weight: Option<f64> = text.parse().ok();
    let weight = weight.filter(|weight| weight.is_finite() && *weight >= 0.0);
    weight.ok_or_else(|| value(label, text, "a weight is a number, 0 or more"))
}

fn interval(label: &str, text: &str) -> Result<Seconds, LabelError> {
    let interval = read(text).filter(|time: &Seconds| !time.0.is_zero());
    interval.ok_or_else(|| value(label, text, "write 5s, 250ms or 1m"))
}

/// A value in the configuration's words.
fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(text).ok()
}

fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(labels: &[(&str, &str)], ports: &[u16]) -> Container {
        let labels = labels.iter();
        Container {
            name: "shop-1".into(),
            labels: labels.map(|&(k, v)| (k.into(), v.into())).collect(),
            ports: ports.into(),
            ..Container::default()
        }
    }

    #[test]
    fn only_who_opts_in_is_found() {
        assert_eq!(parse(&container(&[], &[80])), Ok(None));
        assert_eq!(parse(&container(&[(ENABLE, "false")], &[80])), Ok(None));
        assert_eq!(
            parse(&container(&[("gateway.port", "80")], &[80])),
            Ok(None)
        );
        let found = parse(&container(&[(ENABLE, "true")], &[80]))
            .unwrap()
            .unwrap();
        assert_eq!((found.service.as_str(), found.port), ("shop-1", 80));
        assert!(parse(&container(&[(ENABLE, "yes")], &[80])).is_err());
    }

    #[test]
    fn every_label_is_understood() {
        let found = parse(&container(
            &[
                (ENABLE, "true"),
                ("com.docker.compose.service", "shop"),
                ("com.docker.compose.project", "whatever"),
                ("gateway.port", "8080"),
                ("gateway.host", "a.example, *.b.example"),
                ("gateway.path", "/api/*"),
                ("gateway.strip-prefix", "/api"),
                ("gateway.middleware", "login,limit"),
                ("gateway.balance", "hash"),
                ("gateway.weight", "2.5"),
                ("gateway.health.path", "/healthz"),
                ("gateway.health.interval", "2s"),
                ("gateway.network", "web"),
                ("gateway.protocol", "h2c"),
                ("gateway.meta.team", "checkout"),
            ],
            &[80, 8080],
        ));
        let found = found.unwrap().unwrap();
        assert_eq!((found.service.as_str(), found.port), ("shop", 8080));
        assert_eq!(found.wish.hosts, ["a.example", "*.b.example"]);
        assert_eq!(found.wish.middleware, ["login", "limit"]);
        assert_eq!(found.wish.metadata["team"], "checkout");
        assert_eq!(found.wish.protocol, Protocol::H2c);
        assert_eq!(found.wish.balance, Balance::Hash);
        assert_eq!(found.network.as_deref(), Some("web"));
        assert!((found.weight - 2.5).abs() < 1e-9);
    }

    #[test]
    fn every_mistake_is_told() {
        let mistakes = parse(&container(
            &[
                (ENABLE, "true"),
                ("gateway.prot", "80"),
                ("gateway.port", "eighty"),
                ("gateway.path", "api"),
                ("gateway.path-prefix", "/x"),
                ("gateway.weight", "-1"),
                ("gateway.balance", "best"),
                ("gateway.protocol", "gopher"),
                ("gateway.service", "a b"),
                ("gateway.host", ""),
                ("gateway.health.interval", "soon"),
                ("gateway.meta.", "x"),
            ],
            &[80],
        ));
        let text: Vec<String> = mistakes
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(text.len(), 10, "{text:#?}");
        let two = parse(&container(&[(ENABLE, "true")], &[80, 81]));
        assert_eq!(two, Err(vec![LabelError::Port(2)]));
    }
}
