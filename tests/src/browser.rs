//! A browser, as far as an app needs one: cookies by host (ports do not count, RFC 6265 §8.5),
//! redirects followed one by one, every host name on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Method, RequestBuilder, Url, redirect};

/// Redirects a browser follows before it gives up.
const MAX_HOPS: usize = 10;

/// One person's browser.
#[derive(Clone, Debug)]
pub struct Browser {
    client: Client,
    jar: Arc<Mutex<Vec<Cookie>>>,
}

/// A cookie the browser keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value, quotes included.
    pub value: String,
    /// The host it is sent to.
    pub host: String,
    /// Also to the host's subdomains (a `Domain` was given).
    pub for_subdomains: bool,
    /// Its attributes as they came, `Path=/` and the like.
    pub attributes: Vec<String>,
}

/// What came back for one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where it came from.
    pub url: Url,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{} answers {}: {}", self.url, self.status, self.text()))
    }

    /// A header's text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// The answer, if its status is `expected`.
    ///
    /// # Errors
    /// If it is another.
    pub fn expect(self, expected: u16) -> anyhow::Result<Self> {
        let (url, status) = (&self.url, self.status);
        ensure!(
            status == expected,
            "{url} answers {status}, not {expected}: {}",
            self.text()
        );
        Ok(self)
    }
}

impl Browser {
    /// A browser without cookies.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            client: client()?,
            jar: Arc::default(),
        })
    }

    /// One request with the host's cookies; no redirect is followed.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        self.send(self.request(Method::GET, url)?).await
    }

    /// A request with the host's cookies, to be completed and given to [`Browser::send`].
    ///
    /// # Errors
    /// If `url` is not one.
    pub fn request(&self, method: Method, url: &str) -> anyhow::Result<RequestBuilder> {
        let url = Url::parse(url).with_context(|| url.to_owned())?;
        let cookies = self.cookie_header(&url);
        let mut request = self.client.request(method, url);
        if let Some(cookies) = cookies {
            request = request.header(header::COOKIE, cookies);
        }
        Ok(request)
    }

    /// Sends a request and keeps the cookies that come back.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let answer = Answer {
            url: response.url().clone(),
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        };
        self.keep_cookies(&answer);
        Ok(answer)
    }

    /// Asks for `url` as a person would and follows redirects; answers with every answer on the
    /// way, the page last.
    ///
    /// # Errors
    /// If the way has no end or leads nowhere.
    pub async fn visit(&self, url: &str) -> anyhow::Result<Vec<Answer>> {
        let mut way: Vec<Answer> = Vec::new();
        let mut url = url.to_owned();
        while way.len() < MAX_HOPS {
            let request = self.request(Method::GET, &url)?;
            let request = request.header(header::ACCEPT, "text/html,*/*;q=0.8");
            let answer = self.send(request).await?;
            let redirects = answer.status.is_redirection();
            let next = answer.url.join(answer.header("location"));
            way.push(answer);
            if !redirects {
                return Ok(way);
            }
            url = next.context("a redirect to nowhere")?.into();
        }
        anyhow::bail!("more than {MAX_HOPS} redirects: {way:?}")
    }

    /// The `Cookie` header the browser would send to `url`.
    pub fn cookie_header(&self, url: &Url) -> Option<String> {
        let host = url.host_str().unwrap_or_default();
        let jar = self.jar();
        let fitting = jar.iter().filter(|cookie| cookie.fits(host));
        let pairs: Vec<String> = fitting.map(|c| format!("{}={}", c.name, c.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Every cookie it keeps.
    pub fn cookies(&self) -> Vec<Cookie> {
        self.jar().clone()
    }

    /// Puts a cookie into the jar, as an attacker or an extension might.
    pub fn set_cookie(&self, host: &str, name: &str, value: &str) {
        self.put(Cookie {
            name: name.to_owned(),
            value: value.to_owned(),
            host: host.to_owned(),
            for_subdomains: false,
            attributes: Vec::new(),
        });
    }

    fn keep_cookies(&self, answer: &Answer) {
        let host = answer.url.host_str().unwrap_or_default();
        for value in answer.headers.get_all(header::SET_COOKIE) {
            if let Some(cookie) = value.to_str().ok().and_then(|text| parse(text, host)) {
                self.put(cookie);
            }
        }
    }

    fn put(&self, cookie: Cookie) {
        let mut jar = self.jar();
        jar.retain(|kept| kept.name != cookie.name || kept.host != cookie.host);
        jar.push(cookie);
    }

    fn jar(&self) -> MutexGuard<'_, Vec<Cookie>> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cookie {
    fn fits(&self, host: &str) -> bool {
        let below = || {
            let rest = host.strip_suffix(self.host.as_str());
            rest.is_some_and(|rest| rest.ends_with('.'))
        };
        host == self.host || (self.for_subdomains && below())
    }
}

fn parse(text: &str, host: &str) -> Option<Cookie> {
    let mut parts = text.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let attributes: Vec<String> = parts.map(str::to_owned).collect();
    let domain = attributes.iter().find_map(|attribute| {
        let (key, value) = attribute.split_once('=')?;
        key.eq_ignore_ascii_case("domain")
            .then(|| value.trim_start_matches('.').to_owned())
    });
    Some(Cookie {
        name: name.to_owned(),
        value: value.to_owned(),
        for_subdomains: domain.is_some(),
        host: domain.unwrap_or_else(|| host.to_owned()),
        attributes,
    })
}

/// An HTTP/1.1 client that follows no redirect and finds every host name on this machine.
///
/// # Errors
/// If it cannot be made.
pub fn client() -> anyhow::Result<Client> {
    Ok(Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(30))
        .dns_resolver(Arc::new(ThisMachine))
        .build()?)
}

struct ThisMachine;

impl Resolve for ThisMachine {
    fn resolve(&self, _: Name) -> Resolving {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Box::pin(async move { Ok(Box::new(std::iter::once(here)) as Addrs) })
    }
}
