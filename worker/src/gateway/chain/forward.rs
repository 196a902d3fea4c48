//! Forward authentication: a service is asked about each request and its answer decides.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use patchbay_common::request_id;
use tokio::sync::Semaphore;

use super::{Answer, Passage, Step, Wait};
use crate::gateway::refusal::GatewayRefusal;
use crate::stage::{Client, Head};

/// Questions under way at once.
const AT_ONCE: usize = 1_024;
/// Longest answer passed on to a client, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Headers of its refusals that clients get.
const PASSED_ON: [HeaderName; 4] = [
    http::header::WWW_AUTHENTICATE,
    http::header::LOCATION,
    http::header::SET_COOKIE,
    http::header::CONTENT_TYPE,
];

/// Whom to ask and about what.
#[derive(Clone, Debug)]
pub struct ForwardSettings {
    /// The service.
    pub url: String,
    /// Its patience.
    pub timeout: Duration,
    /// Headers of the request it is shown.
    pub request_headers: Vec<HeaderName>,
    /// Headers of its answer that the request's service is told.
    pub response_headers: Vec<HeaderName>,
    /// The one of them that names the subject.
    pub subject_header: Option<HeaderName>,
}

/// The stage.
#[derive(Debug)]
pub struct ForwardAuth {
    settings: ForwardSettings,
    client: reqwest::Client,
    room: Arc<Semaphore>,
}

/// A question, ready to be asked.
#[derive(Debug)]
pub struct Inquiry {
    client: reqwest::Client,
    url: String,
    timeout: Duration,
    headers: HeaderMap,
    room: Arc<Semaphore>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Reply(Result<Said, Failure>);

#[derive(Debug)]
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Call(#[from] reqwest::Error),
    #[error("{AT_ONCE} questions are under way")]
    Busy,
    #[error("it took more than {0:?}")]
    TimeOut(Duration),
}

impl ForwardAuth {
    /// The stage for these settings.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(settings: ForwardSettings) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            settings,
            client,
            room: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    pub(super) fn identity_headers(&self) -> Vec<HeaderName> {
        let settings = &self.settings;
        let all = settings.response_headers.iter();
        all.chain(&settings.subject_header).cloned().collect()
    }

    pub(super) fn run(
        &self,
        head: &Head<'_>,
        client: &Client,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        let Some(Reply(reply)) = passage.reply.take() else {
            let inquiry = Box::new(self.inquiry(head, client));
            return Ok(Some(Step::Wait(Wait::Inquiry(inquiry))));
        };
        let said = reply.map_err(|cause| {
            log::warn!("{} cannot be asked: {cause}", self.settings.url);
            GatewayRefusal::Unchecked
        })?;
        if said.status.is_success() {
            self.admit(&said.headers, passage);
            return Ok(None);
        }
        if said.status.is_redirection() || said.status.is_client_error() {
            return Ok(Some(Step::Answer(said.passed_on())));
        }
        log::warn!("{} answers {}", self.settings.url, said.status);
        Err(GatewayRefusal::Unchecked)
    }

    fn admit(&self, headers: &HeaderMap, passage: &mut Passage) {
        let settings = &self.settings;
        for name in &settings.response_headers {
            for value in headers.get_all(name) {
                passage.to_service.push((name.clone(), value.clone()));
            }
        }
        let subject = settings.subject_header.as_ref();
        let subject = subject.and_then(|name| headers.get(name)?.to_str().ok());
        passage.subject = subject.map(str::to_owned);
        passage.credential = Some("forward-auth");
    }

    fn inquiry(&self, head: &Head<'_>, client: &Client) -> Inquiry {
        let mut headers = HeaderMap::new();
        for name in &self.settings.request_headers {
            head.headers.each(name.as_str(), &mut |value| {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(name.clone(), value);
                }
            });
        }
        let mut tell = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        tell("x-forwarded-method", head.method);
        tell("x-forwarded-proto", if head.tls { "https" } else { "http" });
        tell("x-forwarded-host", head.host().unwrap_or_default());
        tell("x-forwarded-uri", head.target);
        tell("x-forwarded-for", &client.address.ip().to_string());
        let id = head.headers.get(request_id::HEADER);
        if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) {
            tell("x-backend-request-id", id);
        }
        Inquiry {
            client: self.client.clone(),
            url: self.settings.url.clone(),
            timeout: self.settings.timeout,
            headers,
            room: Arc::clone(&self.room),
        }
    }
}

impl Said {
    fn passed_on(self) -> Answer {
        let headers = PASSED_ON.iter().flat_map(|name| {
            let values = self.headers.get_all(name).iter();
            values.map(move |value| (name.clone(), value.clone()))
        });
        Answer {
            status: self.status.as_u16(),
            headers: headers.collect(),
            body: self.body,
        }
    }
}

impl Inquiry {
    pub(super) async fn ask(self) -> Reply {
        let Ok(_room) = self.room.try_acquire() else {
            return Reply(Err(Failure::Busy));
        };
        let patience = self.timeout;
        let call = self.client.request(Method::GET, self.url);
        let asking = async {
            let mut answer = call.headers(self.headers).send().await?;
            let mut body = Vec::new();
            while let Some(piece) = answer.chunk().await? {
                let room = MAX_BODY.saturating_sub(body.len());
                body.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
                if room == 0 {
                    break;
                }
            }
            Ok(Said {
                status: answer.status(),
                headers: std::mem::take(answer.headers_mut()),
                body,
            })
        };
        let said = tokio::time::timeout(patience, asking).await;
        Reply(said.unwrap_or(Err(Failure::TimeOut(patience))))
    }
}
