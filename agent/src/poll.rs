//! Requests answered by long polling: the floor that every network lets through.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use patchbay_common::lifecycle::Drain;
use patchbay_common::tunnel::{Dispatch, Registered, Respond, decode_header, encode_header};
use reqwest::{Client, Method};

use crate::control::{CallError, Control};
use crate::gauge::Gauge;
use crate::tunnel::{Kind, Tunnel};

/// Patience with a local service.
const CONNECT: Duration = Duration::from_secs(5);

/// Answers requests by long polling.
pub struct Poller {
    control: Control,
    client: Client,
    tunnels: Vec<Tunnel>,
    gauge: Arc<Gauge>,
    drain: Drain,
}

impl Poller {
    /// For these tunnels.
    ///
    /// # Errors
    /// If a certificate is not one.
    pub fn new(
        control: Control,
        tunnels: Vec<Tunnel>,
        target_ca: Option<&[u8]>,
        gauge: Arc<Gauge>,
        drain: Drain,
    ) -> Result<Arc<Self>, reqwest::Error> {
        // Answers are the visitor's to follow and to unpack, and local services need no proxy.
        let mut builder = Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT);
        for certificate in target_ca
            .map(reqwest::Certificate::from_pem_bundle)
            .transpose()?
            .unwrap_or_default()
        {
            builder = builder.add_root_certificate(certificate);
        }
        Ok(Arc::new(Self {
            control,
            client: builder.build()?,
            tunnels,
            gauge,
            drain,
        }))
    }

    /// Pulls and answers until a call fails.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn run(self: &Arc<Self>, session: &Registered) -> Result<(), CallError> {
        loop {
            let wait = session.limits.max_wait_seconds;
            for request in self.control.pull(&session.session_id, wait).await? {
                let (poller, session) = (Arc::clone(self), session.clone());
                let in_flight = self.drain.enter();
                tokio::spawn(async move {
                    let _in_flight = in_flight;
                    poller.answer(request, &session).await;
                });
            }
        }
    }

    async fn answer(&self, request: Dispatch, session: &Registered) {
        self.gauge.polled.fetch_add(1, Ordering::Relaxed);
        let mut answer = Respond {
            session_id: session.session_id.clone(),
            request_id: request.request_id.clone(),
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
            error: None,
        };
        let patience = Duration::from_secs(session.limits.response_timeout_seconds);
        let largest = usize::try_from(session.limits.max_body_bytes).unwrap_or(usize::MAX);
        if let Err(reason) = self.ask(request, patience, largest, &mut answer).await {
            log::warn!("a request could not be answered: {reason}");
            answer.error = Some(reason);
        }
        if let Err(error) = self.control.respond(&answer).await {
            log::warn!("an answer could not be delivered: {error}");
        }
    }

    /// Puts the request to its service.
    async fn ask(
        &self,
        request: Dispatch,
        patience: Duration,
        largest: usize,
        answer: &mut Respond,
    ) -> Result<(), String> {
        let found = self.tunnels.iter().find(|one| one.id == request.tunnel_id);
        let tunnel = found.ok_or("this tunnel is not lent here")?;
        if tunnel.kind() == Kind::Tcp || !request.path.starts_with('/') {
            return Err("this tunnel carries no requests".into());
        }
        let url = format!("{}{}", tunnel.target.base(), request.path);
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| "the method is not one".to_owned())?;
        let mut call = self.client.request(method, url).timeout(patience);
        for (name, value) in &request.headers {
            let framing = name.eq_ignore_ascii_case("content-length");
            if let (false, Some(value)) = (framing, decode_header(value)) {
                call = call.header(name, value);
            }
        }
        let text = |error: reqwest::Error| error.without_url().to_string();
        let response = call.body(request.body).send().await.map_err(text)?;
        answer.status = response.status().as_u16();
        let headers = response.headers().iter();
        answer.headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), encode_header(value.as_bytes())))
            .collect();
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(text)?;
            if answer.body.len() + piece.len() > largest {
                answer.body.clear();
                return Err("the answer is larger than long polling carries".into());
            }
            answer.body.extend_from_slice(&piece);
        }
        Ok(())
    }
}
