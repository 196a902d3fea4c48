//! What the coordinator and its workers tell each other about circuits, in both wire generations
//! of the incumbent (contract/events.md §2–3).
//!
//! We write the universal form, which carries the body twice (`args` for releases up to 26.8,
//! `payload` for later ones) and is read by all; we read `payload`, else `args`. The `generation`
//! key is ours and ignored by everyone else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::circuit::Circuit;
use crate::route::Route;

/// Redis channel the events travel on.
pub const CHANNEL: &str = "events_all-appproxy";

/// `source` of a coordinator's messages.
pub const FROM_COORDINATOR: &str = "appproxy-coordinator";
/// `source` of a worker's messages.
pub const FROM_WORKER: &str = "appproxy-worker";

const CREATED: &str = "appproxy_circuit_created_event";
const ADDED: &str = "appproxy_worker_circuit_added_event";
const REMOVED: &str = "appproxy_circuit_removed_event";
const ROUTE_UPDATED: &str = "appproxy_circuit_route_updated_event";

/// One fact about circuits of the worker named `authority`.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitEvent {
    /// Name of the worker concerned.
    pub authority: String,
    /// What happened.
    pub change: Change,
}

/// What happened to circuits.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Coordinator → worker: serve these.
    Created(Vec<Circuit>),
    /// Worker → coordinator: these are being served.
    Added(Vec<Circuit>),
    /// Coordinator → worker: stop serving these.
    Removed(Vec<Circuit>),
    /// Coordinator → worker: the circuit has these routes now (they rule, not the circuit's own).
    RouteUpdated(Box<Circuit>, Vec<Route>),
}

/// An event with what travels beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The fact.
    pub event: CircuitEvent,
    /// Who says so, free text.
    pub source: String,
    /// The worker's generation after the change; `None` from a Python coordinator.
    pub generation: Option<u64>,
    /// Id of the request that caused it.
    pub request_id: Option<String>,
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The envelope or a body inside it is not the JSON expected.
    #[error("malformed JSON in {place}: {cause}")]
    Json {
        /// Which part.
        place: &'static str,
        /// What the parser said.
        cause: serde_json::Error,
    },
    /// `args` is not base64 of a msgpack array of the right texts.
    #[error("malformed args: {0}")]
    Args(&'static str),
    /// Neither `payload` nor `args`.
    #[error("the message carries neither payload nor args")]
    NoBody,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    name: String,
    #[serde(default)]
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct CircuitsBody {
    target_worker_authority: String,
    circuits: Vec<Circuit>,
}

#[derive(Deserialize)]
struct RoutesBody {
    target_worker_authority: String,
    circuit: Circuit,
    routes: Vec<Route>,
}

impl CircuitEvent {
    /// The wire name.
    pub fn name(&self) -> &'static str {
        match self.change {
            Change::Created(_) => CREATED,
            Change::Added(_) => ADDED,
            Change::Removed(_) => REMOVED,
            Change::RouteUpdated(..) => ROUTE_UPDATED,
        }
    }

    /// The body as JSON (the `payload` of later releases).
    ///
    /// # Errors
    /// [`EventError::Json`] if a circuit cannot be written (a non-finite traffic ratio).
    pub fn body(&self) -> Result<Value, EventError> {
        Ok(match &self.change {
            Change::Created(circuits) | Change::Added(circuits) | Change::Removed(circuits) => {
                json!({
                    "target_worker_authority": self.authority,
                    "circuits": to_value(circuits)?,
                })
            }
            Change::RouteUpdated(circuit, routes) => json!({
                "target_worker_authority": self.authority,
                "circuit": to_value(circuit)?,
                "routes": to_value(routes)?,
            }),
        })
    }

    /// The event called `name` with this JSON body; `None` if the name is not one of ours.
    ///
    /// # Errors
    /// [`EventError::Json`] if the body is not what the name promises.
    pub fn from_body(name: &str, body: &str) -> Result<Option<Self>, EventError> {
        let circuits = || -> Result<CircuitsBody, EventError> { parse("payload", body) };
        let event = match name {
            CREATED => circuits().map(|b| (b.target_worker_authority, Change::Created(b.circuits))),
            ADDED => circuits().map(|b| (b.target_worker_authority, Change::Added(b.circuits))),
            REMOVED => circuits().map(|b| (b.target_worker_authority, Change::Removed(b.circuits))),
            ROUTE_UPDATED => parse::<RoutesBody>("payload", body).map(|b| {
                let change = Change::RouteUpdated(Box::new(b.circuit), b.routes);
                (b.target_worker_authority, change)
            }),
            _ => return Ok(None),
        };
        event.map(|(authority, change)| Some(Self { authority, change }))
    }

    /// Base64 of the msgpack array of texts that earlier releases read.
    fn args(&self) -> Result<String, EventError> {
        let mut texts = vec![self.authority.clone()];
        match &self.change {
            Change::Created(circuits) | Change::Added(circuits) | Change::Removed(circuits) => {
                texts.push(to_text(circuits)?);
            }
            Change::RouteUpdated(circuit, routes) => {
                texts.push(to_text(circuit)?);
                texts.push(to_text(routes)?);
            }
        }
        let array = rmpv::Value::Array(texts.into_iter().map(rmpv::Value::from).collect());
        let mut packed = Vec::new();
        rmpv::encode::write_value(&mut packed, &array)
            .map_err(|_| EventError::Args("cannot be packed"))?;
        Ok(STANDARD.encode(packed))
    }

    fn from_args(name: &str, args: &str) -> Result<Option<Self>, EventError> {
        let packed = STANDARD
            .decode(args)
            .map_err(|_| EventError::Args("not base64"))?;
        let value = rmpv::decode::read_value(&mut packed.as_slice())
            .map_err(|_| EventError::Args("not msgpack"))?;
        let texts: Vec<&str> = value
            .as_array()
            .map(|items| items.iter().filter_map(rmpv::Value::as_str).collect())
            .ok_or(EventError::Args("not an array"))?;
        let (authority, change) = match (name, texts.as_slice()) {
            (CREATED, [authority, circuits]) => {
                (authority, Change::Created(parse("args", circuits)?))
            }
            (ADDED, [authority, circuits]) => (authority, Change::Added(parse("args", circuits)?)),
            (REMOVED, [authority, circuits]) => {
                (authority, Change::Removed(parse("args", circuits)?))
            }
            (ROUTE_UPDATED, [authority, circuit, routes]) => {
                let circuit = Box::new(parse("args", circuit)?);
                let routes = parse("args", routes)?;
                (authority, Change::RouteUpdated(circuit, routes))
            }
            (CREATED | ADDED | REMOVED | ROUTE_UPDATED, _) => {
                return Err(EventError::Args("wrong number of texts"));
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            authority: (*authority).to_owned(),
            change,
        }))
    }
}

impl Message {
    /// The message as published, in the universal form.
    ///
    /// # Errors
    /// See [`CircuitEvent::body`].
    pub fn to_wire(&self) -> Result<String, EventError> {
        let metadata = json!({"request_id": self.request_id, "user": null});
        to_text(&Envelope {
            name: self.event.name().to_owned(),
            source: self.source.clone(),
            args: Some(self.event.args()?),
            payload: Some(self.event.body()?.to_string()),
            metadata: Some(metadata.to_string()),
            generation: self.generation,
        })
    }

    /// The message in `wire`; `None` if its name is not one of ours (the channel is shared).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_wire(wire: &[u8]) -> Result<Option<Self>, EventError> {
        let envelope: Envelope =
            serde_json::from_slice(wire).map_err(|cause| EventError::Json {
                place: "the envelope",
                cause,
            })?;
        let event = match (&envelope.payload, &envelope.args) {
            (Some(payload), _) => CircuitEvent::from_body(&envelope.name, payload)?,
            (None, Some(args)) => CircuitEvent::from_args(&envelope.name, args)?,
            (None, None) => return Err(EventError::NoBody),
        };
        // Metadata only helps tracing: what cannot be read of it must not cost the event.
        let request_id = envelope
            .metadata
            .and_then(|text| serde_json::from_str::<Metadata>(&text).ok())
            .and_then(|metadata| metadata.request_id);
        Ok(event.map(|event| Self {
            event,
            source: envelope.source,
            generation: envelope.generation,
            request_id,
        }))
    }
}

fn to_value<T: Serialize>(part: &T) -> Result<Value, EventError> {
    serde_json::to_value(part).map_err(|cause| EventError::Json {
        place: "an outgoing body",
        cause,
    })
}

fn to_text<T: Serialize>(part: &T) -> Result<String, EventError> {
    serde_json::to_string(part).map_err(|cause| EventError::Json {
        place: "an outgoing message",
        cause,
    })
}

fn parse<T: for<'de> Deserialize<'de>>(place: &'static str, text: &str) -> Result<T, EventError> {
    serde_json::from_str(text).map_err(|cause| EventError::Json { place, cause })
}
