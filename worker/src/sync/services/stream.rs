//! The coordinator's stream of changes of services.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;

use super::{Inbox, Input, Services, UNOFFERED};
use crate::sync::backoff::{Backoff, Outage};
use crate::sync::client::Coordinator;
use crate::sync::stream::{Reading, StreamError};

/// Listens for ever; `known` tells from where on.
pub(in crate::sync) async fn run(
    coordinator: Coordinator,
    inbox: Inbox,
    known: watch::Receiver<Services>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut outage = Outage::new("the stream of services");
    loop {
        let began = Instant::now();
        let from = known.borrow().generation;
        let Err(cause) = listen(&coordinator, &inbox, from, &mut outage).await;
        if matches!(&cause, StreamError::Call(call) if call.is_not_found()) {
            tokio::time::sleep(UNOFFERED).await;
            continue;
        }
        outage.failed(&cause);
        if began.elapsed() > Duration::from_secs(5) {
            backoff.reset();
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

async fn listen(
    coordinator: &Coordinator,
    inbox: &Inbox,
    from: Option<u64>,
    outage: &mut Outage,
) -> Result<Infallible, StreamError> {
    #[derive(Deserialize)]
    struct Named {
        generation: u64,
    }
    let mut reading = Reading::new(coordinator.service_events(from).await?);
    outage.over();
    loop {
        let event = reading.next().await?;
        match event.name.as_str() {
            "hello" => match serde_json::from_str::<Named>(&event.data) {
                Ok(named) => inbox.leave(Input::Told(named.generation)),
                Err(_) => inbox.leave(Input::Resync),
            },
            "resync" => inbox.leave(Input::Resync),
            "service" => inbox.wire(event.data.as_bytes()),
            other => log::debug!("unknown event `{other}` passed over"),
        }
    }
}
