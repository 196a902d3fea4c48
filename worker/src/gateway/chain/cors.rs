//! Other origins (Fetch standard): preflights are answered here, before any credential is asked
//! for if the stage stands first; other answers are told which origin may read them. Browsers
//! check nothing of the kind for WebSockets, so an upgrade from a foreign page is refused.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderName, HeaderValue};

use super::{Answer, Passage, Step, header_value, is_upgrade};
use crate::gateway::refusal::GatewayRefusal;
use crate::stage::Head;

/// Which origins may do what.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Origins, `https://app.example.com`; `*` means all.
    pub origins: Vec<String>,
    /// `Access-Control-Allow-Methods`; empty repeats what is asked for.
    pub methods: String,
    /// `Access-Control-Allow-Headers`; empty repeats what is asked for.
    pub headers: String,
    /// `Access-Control-Expose-Headers`.
    pub expose: String,
    /// Credentials may be sent.
    pub credentials: bool,
    /// Seconds a preflight's answer is good for.
    pub max_age: u64,
}

impl Cors {
    pub(super) fn run(
        &self,
        head: &Head<'_>,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        let text = |name| {
            let value = head.headers.get(name)?;
            std::str::from_utf8(value).ok()
        };
        let Some(origin) = text("origin") else {
            return Ok(None);
        };
        let allowed = self.origins.iter().any(|one| one == "*" || one == origin);
        if is_upgrade(head) {
            return if allowed {
                Ok(None)
            } else {
                Err(GatewayRefusal::Origin)
            };
        }
        let mut headers = vec![(VARY, HeaderValue::from_static("Origin"))];
        if allowed {
            self.allow(origin, &mut headers);
        }
        let asked = text("access-control-request-method").filter(|_| head.method == "OPTIONS");
        let Some(method) = asked else {
            passage.to_client.extend(headers);
            return Ok(None);
        };
        if allowed {
            let or =
                |own: &str, asked: &str| header_value(if own.is_empty() { asked } else { own });
            let wanted = text("access-control-request-headers").unwrap_or_default();
            headers.push((ACCESS_CONTROL_ALLOW_METHODS, or(&self.methods, method)));
            headers.push((ACCESS_CONTROL_ALLOW_HEADERS, or(&self.headers, wanted)));
            headers.push((ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age)));
        }
        Ok(Some(Step::Answer(Answer {
            status: 204,
            headers,
            body: Vec::new(),
        })))
    }

    fn allow(&self, origin: &str, headers: &mut Vec<(HeaderName, HeaderValue)>) {
        let everybody = !self.credentials && self.origins.iter().any(|one| one == "*");
        let shown = if everybody { "*" } else { origin };
        headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, header_value(shown)));
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        if !self.expose.is_empty() {
            headers.push((ACCESS_CONTROL_EXPOSE_HEADERS, header_value(&self.expose)));
        }
    }
}
