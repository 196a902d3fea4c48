//! Services as a coordinator hands them to its workers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Note, Route, Rule, Service};

/// Redis channel of changes. It is not the one of circuits, so that peers that are not ours never
/// see them.
pub const CHANNEL: &str = "patchbay_services";
/// Most instances of one service.
pub const MAX_INSTANCES: usize = 1_000;
/// Most routes to one service.
pub const MAX_ROUTES: usize = 1_000;

/// What is said of a service: itself and the routes to it, each as in a worker's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// As `[gateway.services.NAME]`.
    pub service: Service,
    /// As `[gateway.routes.NAME]`. A route that does not say where it leads leads here.
    pub routes: BTreeMap<String, Route>,
}

impl Definition {
    /// Reads a definition that somebody has written: every key has to be one.
    ///
    /// # Errors
    /// The keys that are wrong, and what is wrong with them.
    pub fn read(value: serde_json::Value) -> Result<Self, Vec<(String, String)>> {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
        let mut note = |path: serde_ignored::Path<'_>| {
            unknown.push((
                path.to_string().replace(".?", ""),
                "no such key: remove it or mend its name".into(),
            ));
        };
        let read: Result<Self, serde_json::Error> = serde_ignored::deserialize(tracked, &mut note);
        match read {
            Ok(definition) if unknown.is_empty() => Ok(definition),
            Ok(_) => Err(unknown),
            Err(error) => {
                unknown.push((track.path().to_string(), error.to_string()));
                Err(unknown)
            }
        }
    }

    /// Says of every route that leads nowhere that it leads to the service of this name.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        for route in self.routes.values_mut() {
            if route.redirect.is_none() && route.respond.is_none() {
                route.service.get_or_insert_with(|| name.to_owned());
            }
        }
        self
    }

    /// Notes everything that cannot be, and answers with what the routes ask of requests.
    pub fn check(&self, name: &str, note: &mut Note<'_>) -> Vec<Rule> {
        self.service
            .check(&mut |key, problem| note(&format!("service.{key}"), problem));
        if self.routes.len() > MAX_ROUTES {
            let count = self.routes.len();
            note(
                "routes",
                format!("{count} are too many: {MAX_ROUTES} is the most"),
            );
        }
        let mut rules = Vec::new();
        for (route, section) in &self.routes {
            let mut at = |key: &str, problem| note(&format!("routes.{route}.{key}"), problem);
            if section.service.as_ref().is_some_and(|other| other != name) {
                let problem = format!("routes here lead to {name}: leave it out");
                at("service", problem);
            }
            rules.extend(section.check(route, &mut at));
            if !is_name(route) {
                let problem = "letters, digits, -, _ and . only, 64 of them at most";
                note(&format!("routes.{route}"), problem.into());
            }
        }
        for (index, one) in rules.iter().enumerate() {
            let ties = rules[index + 1..].iter().filter_map(|two| one.tie(two));
            for tie in ties {
                note(&format!("routes.{}", tie.second), tie.to_string());
            }
        }
        rules
    }
}

/// Whether a service or a route may be called so.
pub fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(good)
}

/// Who says that there is such a service. What somebody has said comes before what was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Somebody put it by the API.
    Api,
    /// It was found in the labels of this engine's containers.
    Docker(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Docker(engine) => write!(f, "docker.{engine}"),
        }
    }
}

impl FromStr for Origin {
    type Err = UnknownOrigin;

    fn from_str(text: &str) -> Result<Self, UnknownOrigin> {
        match text.split_once('.') {
            None if text == "api" => Ok(Self::Api),
            Some(("docker", engine)) if !engine.is_empty() => Ok(Self::Docker(engine.to_owned())),
            _ => Err(UnknownOrigin(text.to_owned())),
        }
    }
}

/// An origin of a later release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin of services")]
pub struct UnknownOrigin(String);

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a coordinator says of one service of one origin, on the buses and in its list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Its name.
    pub name: String,
    /// Who says so.
    pub origin: Origin,
    /// The generation of the services since which it is so: one for all of them, and one more with
    /// every change of one.
    pub generation: u64,
    /// What it is; absent if there is none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// Id of the request that changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
