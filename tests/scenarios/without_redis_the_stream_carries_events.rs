//! Without Redis a worker listens to the coordinator itself, and misses nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use patchbay_common::id::CircuitId;
use patchbay_tests::rig::{Parts, Rig};
use reqwest::Response;
use serde_json::Value;

/// Longest until an event arrives.
const PATIENCE: Duration = Duration::from_secs(5);

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
struct Event {
    id: Option<u64>,
    name: String,
    data: Value,
}

/// A reader of a worker's changes.
struct Listener {
    response: Response,
    text: String,
}

impl Listener {
    async fn open(rig: &Rig, after: Option<u64>) -> Result<Self> {
        let workers = rig.opener.read("/api/worker").await?;
        let id = workers["workers"][0]["id"]
            .as_str()
            .context("no worker")?
            .to_owned();
        let url = rig.opener.at(&format!("/api/worker/{id}/events"));
        let mut request = rig.opener.authorized(rig.opener.client().get(url));
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = request.send().await?;
        ensure!(response.status() == 200, "{}", response.status());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self {
            response,
            text: String::new(),
        })
    }

    /// The next change; greetings and signs of life are passed over.
    async fn change(&mut self) -> Result<Event> {
        let next = async {
            loop {
                let event = self.event().await?;
                if event.name.starts_with("appproxy_") {
                    return Ok(event);
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .context("no event")?
    }

    async fn event(&mut self) -> Result<Event> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let event = parse(frame)?;
                self.text = rest.to_owned();
                return Ok(event);
            }
            let more = self.response.chunk().await?.context("the stream ended")?;
            self.text.push_str(std::str::from_utf8(&more)?);
        }
    }
}

fn parse(frame: &str) -> Result<Event> {
    let mut event = Event::default();
    for line in frame.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => event.id = Some(id.parse()?),
            Some(("event", name)) => event.name = name.to_owned(),
            Some(("data", data)) => event.data = serde_json::from_str(data)?,
            _ => {}
        }
    }
    Ok(event)
}

fn names(event: &Event, circuit: CircuitId) -> bool {
    event.data["circuits"][0]["id"] == circuit.to_string()
}

#[tokio::test]
async fn every_change_has_the_next_number_and_can_be_asked_for_again() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let mut listener = Listener::open(&rig, None).await?;
    let one = rig.opener.open(&rig.order("one")).await?;
    let created = listener.change().await?;
    assert_eq!(created.name, "appproxy_circuit_created_event");
    ensure!(names(&created, one.circuit), "{created:?}");
    let first = created.id.context("no id")?;

    let two = rig.opener.open(&rig.order("two")).await?;
    rig.opener.close(one.circuit).await?;
    for (number, name, circuit) in [
        (first + 1, "appproxy_circuit_created_event", two.circuit),
        (first + 2, "appproxy_circuit_removed_event", one.circuit),
    ] {
        let event = listener.change().await?;
        assert_eq!((event.id, event.name.as_str()), (Some(number), name));
        ensure!(names(&event, circuit), "{event:?}");
    }

    let mut late = Listener::open(&rig, Some(first)).await?;
    assert_eq!(late.change().await?.id, Some(first + 1));
    assert_eq!(late.change().await?.id, Some(first + 2));
    Ok(())
}

#[tokio::test]
async fn a_restarted_coordinator_goes_on_counting() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let mut listener = Listener::open(&rig, None).await?;
    let one = rig.opener.open(&rig.order("one")).await?;
    let first = listener.change().await?.id.context("no id")?;
    drop(listener);

    rig.coordinator.program.stop(Duration::from_secs(5)).await?;
    rig.coordinator.start_again().await?;
    let mut late = Listener::open(&rig, Some(first)).await?;
    rig.opener.close(one.circuit).await?;
    let removed = late.change().await?;
    assert_eq!(removed.id, Some(first + 1));
    ensure!(names(&removed, one.circuit), "{removed:?}");
    rig.changes_take_effect("after the coordinator's restart")
        .await
}

#[tokio::test]
async fn strangers_hear_nothing() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let nobody = uuid::Uuid::new_v4();
    let url = rig.opener.at(&format!("/api/worker/{nobody}/events"));
    let stranger = rig.opener.client().get(&url).send().await?;
    assert_eq!(stranger.status(), 401);
    let unknown = rig
        .opener
        .authorized(rig.opener.client().get(&url))
        .send()
        .await?;
    assert_eq!(unknown.status(), 404);
    Ok(())
}

#[tokio::test]
async fn a_frozen_worker_is_waited_for() -> Result<()> {
    use patchbay_tests::program::Signal;
    let rig = Rig::start(Parts::embedded()).await?;
    rig.worker.program.signal(Signal::Stop).await?;
    let mut listener = Listener::open(&rig, None).await?;
    let (opener, order) = (rig.opener.clone(), rig.order("jupyter"));
    let opening = tokio::spawn(async move { opener.open(&order).await });
    listener.change().await?;
    ensure!(
        !opening.is_finished(),
        "answered before the worker was ready"
    );
    rig.worker.program.signal(Signal::Continue).await?;
    let opened = opening.await??;
    let browser = patchbay_tests::browser::Browser::new()?;
    let url = patchbay_tests::rig::enter(&browser, &opened).await?;
    browser.get(&format!("{url}/hello")).await?.expect(200)?;
    Ok(())
}
