//! A route: what it asks of a request, what happens to the request, where it goes.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};

use super::host::HostPattern;
use super::path::PathPattern;
use super::rule::{Conditions, HeaderCondition, Rule};
use super::{Note, is_default};
use crate::config::Seconds;
use crate::hop_by_hop::is_hop_by_hop;

/// Most instances tried for one request beside the first.
pub const MOST_RETRIES: usize = 2;

/// One text or a list of texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Texts(pub Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a text or a list of texts")]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match OneOrMany::deserialize(deserializer)? {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }))
    }
}

/// `[gateway.routes.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Hosts it takes.
    #[serde(skip_serializing_if = "is_default")]
    pub host: Texts,
    /// The path it takes.
    #[serde(skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// The prefix it takes instead.
    #[serde(skip_serializing_if = "is_default")]
    pub path_prefix: Option<String>,
    /// Methods it takes.
    #[serde(skip_serializing_if = "is_default")]
    pub methods: Vec<String>,
    /// Headers it asks for.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    /// What a request passes on its way, by name.
    #[serde(skip_serializing_if = "is_default")]
    pub middleware: Vec<String>,
    /// The service it leads to.
    #[serde(skip_serializing_if = "is_default")]
    pub service: Option<String>,
    /// Where requests are sent instead.
    #[serde(skip_serializing_if = "is_default")]
    pub redirect: Option<Redirect>,
    /// What they are answered instead.
    #[serde(skip_serializing_if = "is_default")]
    pub respond: Option<Respond>,
    /// Taken off the path.
    #[serde(skip_serializing_if = "is_default")]
    pub strip_prefix: Option<String>,
    /// Put before what is left of it.
    #[serde(skip_serializing_if = "is_default")]
    pub add_prefix: Option<String>,
    /// Headers set, or with an empty value taken out, on the way to the service.
    #[serde(skip_serializing_if = "is_default")]
    pub request_headers: BTreeMap<String, String>,
    /// The same on the way to the client.
    #[serde(skip_serializing_if = "is_default")]
    pub response_headers: BTreeMap<String, String>,
    /// Whether the service sees the client's `Host`.
    #[serde(skip_serializing_if = "is_default")]
    pub pass_host: Option<bool>,
    /// How long an instance may take to take a connection.
    #[serde(skip_serializing_if = "is_default")]
    pub connect_timeout: Option<Seconds>,
    /// Longest silence of the service.
    #[serde(skip_serializing_if = "is_default")]
    pub response_timeout: Option<Seconds>,
    /// Longest silence on a WebSocket or an event stream.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_timeout: Option<Seconds>,
    /// After so much silence an event stream gets a comment.
    #[serde(skip_serializing_if = "is_default")]
    pub sse_keepalive: Option<Seconds>,
    /// Pages that may open WebSockets and event streams.
    #[serde(skip_serializing_if = "is_default")]
    pub origins: Option<Vec<String>>,
    /// More instances tried.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: Option<usize>,
    /// Answers that another instance may give better.
    #[serde(skip_serializing_if = "is_default")]
    pub retry_status: Option<Vec<u16>>,
}

/// `redirect = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Redirect {
    /// Where to.
    pub to: String,
    /// The status.
    #[serde(skip_serializing_if = "is_default")]
    pub status: Option<u16>,
}

/// `respond = { … }`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Respond {
    /// The status.
    #[serde(skip_serializing_if = "is_default")]
    pub status: Option<u16>,
    /// The body.
    pub body: String,
    /// Its type.
    #[serde(skip_serializing_if = "is_default")]
    pub content_type: Option<String>,
}

impl Redirect {
    /// 302 if nothing is said.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(302)
    }
}

impl Respond {
    /// 200 if nothing is said.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(200)
    }

    /// Plain text if nothing is said.
    pub fn content_type(&self) -> &str {
        let given = self.content_type.as_deref();
        given.unwrap_or("text/plain; charset=utf-8")
    }
}

impl Route {
    /// Notes everything that cannot be, as far as it can be told from the route alone, and answers
    /// with what it asks of a request.
    pub fn check(&self, name: &str, note: &mut Note<'_>) -> Option<Rule> {
        let path = self.pattern(note);
        self.check_prefixes(path.as_ref(), note);
        let hosts: Vec<HostPattern> = self
            .host
            .0
            .iter()
            .filter_map(|host| good("host", HostPattern::parse(host), note))
            .collect();
        let conditions = self.conditions(note);
        self.check_target(note);
        check_headers("request_headers", &self.request_headers, note);
        check_headers("response_headers", &self.response_headers, note);
        self.check_timing(note);
        Some(Rule {
            name: name.to_owned(),
            hosts,
            path: path?,
            conditions,
        })
    }

    fn pattern(&self, note: &mut Note<'_>) -> Option<PathPattern> {
        match (&self.path, &self.path_prefix) {
            (Some(path), None) => good("path", PathPattern::parse(path), note),
            (None, Some(prefix)) => good("path_prefix", PathPattern::prefix(prefix), note),
            (None, None) => PathPattern::prefix("/").ok(),
            (Some(_), Some(_)) => {
                let problem = "stands beside path: keep one of them";
                note("path_prefix", problem.into());
                None
            }
        }
    }

    fn check_prefixes(&self, path: Option<&PathPattern>, note: &mut Note<'_>) {
        if let Some(prefix) = &self.strip_prefix
            && let Some(prefix) = good("strip_prefix", PathPattern::prefix(prefix), note)
            && path.is_some_and(|path| !prefix.begins(path))
        {
            let problem = "is not the beginning of the route's path";
            note("strip_prefix", problem.into());
        }
        if let Some(prefix) = &self.add_prefix
            && (!prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', ' ']))
        {
            let problem = "must begin with a slash and not end in one";
            note("add_prefix", problem.into());
        }
    }

    fn conditions(&self, note: &mut Note<'_>) -> Conditions {
        for method in &self.methods {
            let plain = method.bytes().all(|byte| byte.is_ascii_uppercase());
            if !plain || Method::from_bytes(method.as_bytes()).is_err() {
                note("methods", format!("`{method}`: write methods as GET, POST"));
            }
        }
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => headers.push(HeaderCondition {
                    name: name.as_str().to_owned(),
                    value: (value != "*").then(|| value.clone()),
                }),
                Err(_) => note("headers", format!("`{name}` is not a header's name")),
            }
        }
        Conditions {
            methods: self.methods.clone(),
            headers,
        }
    }

    fn check_target(&self, note: &mut Note<'_>) {
        let targets = [
            self.service.is_some(),
            self.redirect.is_some(),
            self.respond.is_some(),
        ];
        if targets.iter().filter(|there| **there).count() != 1 {
            let problem = "give exactly one of service, redirect and respond";
            note("service", problem.into());
            return;
        }
        if let Some(redirect) = &self.redirect {
            if ![301, 302, 303, 307, 308].contains(&redirect.status()) {
                let problem = "must be 301, 302, 303, 307 or 308";
                note("redirect.status", problem.into());
            }
            if redirect.to.is_empty() || HeaderValue::from_str(&redirect.to).is_err() {
                note("redirect.to", "must be a URL or a path".into());
            }
        }
        if let Some(respond) = &self.respond {
            let status = respond.status();
            let fits = StatusCode::from_u16(status).is_ok_and(|status| !status.is_informational());
            if !fits {
                let problem = format!("{status} is not one: write 200 to 599");
                note("respond.status", problem);
            }
            if HeaderValue::from_str(respond.content_type()).is_err() {
                note("respond.content_type", "is not a media type".into());
            }
        }
    }

    fn check_timing(&self, note: &mut Note<'_>) {
        for (key, time) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("idle_timeout", self.idle_timeout),
            ("sse_keepalive", self.sse_keepalive),
        ] {
            if time.is_some_and(|time| time.0.is_zero()) {
                note(key, "must be more than 0".into());
            }
        }
        for origin in self.origins.iter().flatten() {
            if !origin.contains("://") || origin.ends_with('/') {
                let problem = format!("`{origin}`: write scheme and host, https://app.example.com");
                note("origins", problem);
            }
        }
        if self.retries.is_some_and(|retries| retries > MOST_RETRIES) {
            note("retries", format!("may be {MOST_RETRIES} at most"));
        }
        let mut statuses = self.retry_status.iter().flatten();
        if let Some(status) = statuses.find(|status| !(500..=599).contains(*status)) {
            let problem = format!("{status} is not a failure of the service: write 500 to 599");
            note("retry_status", problem);
        }
    }
}

fn good<T>(key: &str, result: Result<T, String>, note: &mut Note<'_>) -> Option<T> {
    result.map_err(|problem| note(key, problem)).ok()
}

fn check_headers(key: &str, wanted: &BTreeMap<String, String>, note: &mut Note<'_>) {
    for (name, value) in wanted {
        let parsed = HeaderName::from_bytes(name.as_bytes());
        match (parsed, HeaderValue::from_str(value)) {
            (Ok(name), _) if is_framing(&name) => {
                let problem = format!("`{name}` belongs to the connection and cannot be changed");
                note(key, problem);
            }
            (Ok(_), Ok(_)) => {}
            _ => note(
                key,
                format!("`{name}` is not a header: check name and value"),
            ),
        }
    }
}

fn is_framing(name: &HeaderName) -> bool {
    is_hop_by_hop(name.as_str()) || *name == http::header::CONTENT_LENGTH
}
