//! A route: what it asks of a request, what happens to the request, where it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use patchbay_common::circuit::Protocol;

use super::{Flaw, LiveService};
use crate::context::MAX_ATTEMPTS;
use crate::gateway::chain::{Chain, LimitKey, Stage};
use crate::gateway::config::sections;
use crate::gateway::counts::Counts;
use crate::gateway::router::{PathPattern, Rule};
use crate::stage::Head;

/// Answers that another instance may give better, where a route does not say.
const RETRY_STATUS: [u16; 3] = [502, 503, 504];

/// One route in use.
#[derive(Debug)]
pub struct LiveRoute {
    /// Its name.
    pub name: String,
    /// What is done with its requests.
    pub action: Action,
    /// What they pass before.
    pub chain: Chain,
    /// Segments taken off the beginning of the path.
    pub strip: usize,
    /// Text put before what is left of it.
    pub add_prefix: String,
    /// Headers set (or, without a value, taken out) on the way to the service.
    pub request_headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The same on the way to the client.
    pub response_headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Headers only stages may set.
    pub identity: Arc<[HeaderName]>,
    /// The service sees the client's `Host`.
    pub pass_host: bool,
    /// How long the service may take to begin its answer; `None` means for ever.
    pub response_timeout: Option<Duration>,
    /// How long an instance may take to take a connection; `None` means as long as everywhere.
    pub connect_timeout: Option<Duration>,
    /// Longest silence on a WebSocket or an event stream; `None` means for ever.
    pub idle_timeout: Option<Duration>,
    /// After so much silence an event stream gets a comment.
    pub sse_keepalive: Option<Duration>,
    /// Pages that may open WebSockets and event streams; `None` means all.
    pub origins: Option<Vec<String>>,
    /// Most instances tried for one request.
    pub attempts: usize,
    /// Answers of an instance that count as its failure.
    pub retry_status: Vec<u16>,
    /// What was counted.
    pub counts: Arc<Counts>,
}

impl LiveRoute {
    /// Whether a lean engine cannot carry it: its answers are changed on their way, or its service
    /// is not reached at an address, or not by HTTP/1.1.
    pub fn takes_the_other_engine(&self, head: &Head<'_>) -> bool {
        if let Action::Service(service) = &self.action
            && (service.protocol != Protocol::Http
                || service.upstreams.all().any(|one| one.tunnel().is_some()))
        {
            return true;
        }
        let mut stages = self.chain.stages().iter();
        stages.any(|stage| matches!(stage, Stage::Compress(_))) || self.minds_events(head)
    }

    /// Whether a request is for an event stream that is to be watched.
    pub fn minds_events(&self, head: &Head<'_>) -> bool {
        (self.sse_keepalive.is_some() || self.idle_timeout.is_some())
            && head.method == "GET"
            && wants_events(head)
    }

    /// Whether the page that opens a stream may do so. Who is no page says nothing.
    pub fn admits_origin(&self, head: &Head<'_>) -> bool {
        let Some(origins) = &self.origins else {
            return true;
        };
        if !head.is_upgrade() && !wants_events(head) {
            return true;
        }
        let origin = head.headers.get("origin");
        origin.is_none_or(|origin| origins.iter().any(|one| one.as_bytes() == origin))
    }
}

fn wants_events(head: &Head<'_>) -> bool {
    let mut wants = false;
    head.headers.each("accept", &mut |line| {
        let kinds = line.split(|byte| *byte == b',');
        for kind in kinds.map(<[u8]>::trim_ascii) {
            let bare = kind.split(|byte| *byte == b';').next().unwrap_or_default();
            wants |= bare.trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
        }
    });
    wants
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is carried to a service.
    Service(Arc<LiveService>),
    /// It is sent elsewhere. The path and query follow where the target ends in a slash's place,
    /// `{path}`.
    Redirect {
        /// Where.
        to: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// It is answered.
    Respond {
        /// The status.
        status: u16,
        /// The body.
        body: String,
        /// The body's type.
        content_type: HeaderValue,
    },
}

impl Action {
    /// Name of the service, empty if there is none.
    pub fn service(&self) -> &str {
        match self {
            Self::Service(service) => &service.name,
            Self::Redirect { .. } | Self::Respond { .. } => "",
        }
    }
}

/// What routes are put together from.
pub(super) struct Parts<'a> {
    pub(super) services: &'a BTreeMap<String, Arc<LiveService>>,
    pub(super) middleware: &'a BTreeMap<String, (sections::Middleware, Stage)>,
    pub(super) identity: Arc<[HeaderName]>,
    pub(super) wanted: &'a sections::Gateway,
    pub(super) before: &'a [Arc<LiveRoute>],
}

impl Parts<'_> {
    fn counts(&self, name: &str) -> Arc<Counts> {
        // Routes are built in the order of their names.
        let before = self.before;
        let known = before.binary_search_by(|route| route.name.as_str().cmp(name));
        let known = known.ok().and_then(|index| before.get(index));
        known.map_or_else(Arc::default, |route| Arc::clone(&route.counts))
    }
}

/// Notes flaws of one route.
struct Notes<'a> {
    name: &'a str,
    flaws: &'a mut Vec<Flaw>,
    before: usize,
}

impl Notes<'_> {
    fn note(&mut self, key: &str, problem: impl Into<String>) {
        let key = format!("routes.{}.{key}", self.name);
        self.flaws.push((key, problem.into()));
    }

    fn any(&self) -> bool {
        self.flaws.len() > self.before
    }
}

/// `None` if it has a flaw.
pub(super) fn build(
    name: &str,
    section: &sections::Route,
    parts: &Parts<'_>,
    flaws: &mut Vec<Flaw>,
) -> Option<(Rule, LiveRoute)> {
    let before = flaws.len();
    let mut notes = Notes {
        name,
        flaws,
        before,
    };
    let rule = section.check(name, &mut |key, problem| notes.note(key, problem));
    let chain = chain(section, parts, &mut notes);
    let action = action(section, parts, &mut notes);
    if notes.any() {
        return None;
    }
    let prefix = section.strip_prefix.as_deref().map(PathPattern::prefix);
    let strip = prefix.and_then(Result::ok);
    let route = LiveRoute {
        name: name.to_owned(),
        action: action?,
        chain,
        strip: strip.map_or(0, |prefix| prefix.parts.len()),
        add_prefix: section.add_prefix.clone().unwrap_or_default(),
        request_headers: headers(&section.request_headers),
        response_headers: headers(&section.response_headers),
        identity: Arc::clone(&parts.identity),
        pass_host: section.pass_host.unwrap_or(true),
        response_timeout: section.response_timeout.map(|time| time.0),
        connect_timeout: section.connect_timeout.map(|time| time.0),
        idle_timeout: section.idle_timeout.map(|time| time.0),
        sse_keepalive: section.sse_keepalive.map(|time| time.0),
        origins: section.origins.clone(),
        attempts: (section.retries.unwrap_or(MAX_ATTEMPTS - 1) + 1).min(MAX_ATTEMPTS),
        retry_status: section
            .retry_status
            .clone()
            .unwrap_or_else(|| RETRY_STATUS.into()),
        counts: parts.counts(name),
    };
    Some((rule?, route))
}

fn chain(section: &sections::Route, parts: &Parts<'_>, notes: &mut Notes<'_>) -> Chain {
    let mut stages: Vec<Stage> = Vec::new();
    let usual = parts.wanted.default_middleware.iter();
    for name in usual.chain(&section.middleware) {
        let Some((_, stage)) = parts.middleware.get(name) else {
            if !parts.wanted.middleware.contains_key(name) {
                let problem = format!("`{name}` is not defined: add [gateway.middleware.{name}]");
                notes.note("middleware", problem);
            }
            continue;
        };
        let by_subject =
            matches!(stage, Stage::RateLimit(limit) if *limit.key() == LimitKey::Subject);
        if by_subject && !stages.iter().any(Stage::authenticates) {
            let problem = format!("`{name}` is keyed by subject: put what authenticates before it");
            notes.note("middleware", problem);
        }
        stages.push(stage.clone());
    }
    Chain::new(stages)
}

fn action(section: &sections::Route, parts: &Parts<'_>, notes: &mut Notes<'_>) -> Option<Action> {
    if let Some(redirect) = &section.redirect {
        return Some(Action::Redirect {
            to: redirect.to.clone(),
            status: redirect.status(),
        });
    }
    if let Some(respond) = &section.respond {
        let content_type = HeaderValue::from_str(respond.content_type());
        return content_type.ok().map(|content_type| Action::Respond {
            status: respond.status(),
            body: respond.body.clone(),
            content_type,
        });
    }
    let name = section.service.as_ref()?;
    let service = parts.services.get(name);
    if service.is_none() && !parts.wanted.services.contains_key(name) {
        let problem = format!("`{name}` is not defined: add [gateway.services.{name}]");
        notes.note("service", problem);
    }
    service.map(|service| Action::Service(Arc::clone(service)))
}

/// The headers to be set; without a value, to be taken out.
fn headers(wanted: &BTreeMap<String, String>) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let parsed = wanted.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = match value.as_str() {
            "" => None,
            value => Some(HeaderValue::from_str(value).ok()?),
        };
        Some((name, value))
    });
    parsed.collect()
}
