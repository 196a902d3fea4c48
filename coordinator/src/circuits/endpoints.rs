//! Inference endpoints: one circuit each, opened and rerouted many at a time at the Manager's word.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, future, stream};
use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, EndpointId, UserId, WorkerId};
use patchbay_common::worker::{AppFilter, Worker};
use patchbay_common::{request_id, subdomain};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use super::announce;
use super::close::Closer;
use super::place::{self, Wish};
use crate::publish::{Acknowledgements, Bus, Expected};
use crate::store::{
    Actor, Cause, HealthCheck, NewCircuit, NewEndpoint, Opened, Reason, RouteChange, RoutesChanged,
    RoutesRefused, SlotWish, Store, StoreError,
};

/// Fresh looks at the workers before a caller is told that there is no room.
const ROUNDS: usize = 3;
/// Circuits of one worker that are asked after at the same time.
const ASKED_AT_ONCE: usize = 16;

/// Why endpoints were not opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// An existing URL that names no host, or no port and none is implied.
    #[error("existing_url of endpoint {endpoint} needs a host and a port")]
    InvalidUrl {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// No worker takes such a circuit, or none has room.
    #[error("no worker takes endpoint {endpoint}")]
    NoWorker {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// A worker did not say in time that it serves its circuits; those were closed again.
    #[error("worker {worker} does not respond")]
    NotAcknowledged {
        /// Its name.
        worker: String,
    },
    /// The opening broke off.
    #[error("the opening broke off")]
    Interrupted,
    /// There is no such endpoint, or it has no circuit.
    #[error("there is no such endpoint")]
    NoSuchEndpoint,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the Manager asks for.
#[derive(Clone, Debug)]
pub struct EndpointOpening {
    /// The endpoint.
    pub id: EndpointId,
    /// Its name, which its subdomain is made from.
    pub service_name: String,
    /// The session's owner.
    pub user: Option<UserId>,
    /// The server's kind.
    pub runtime_variant: Option<String>,
    /// The URL under which clients know it already.
    pub existing_url: Option<String>,
    /// No credential for its users.
    pub open_to_public: bool,
    /// How its routes are to be probed.
    pub health_check: Option<HealthCheck>,
    /// What filters are compared with.
    pub properties: Vec<AppFilter>,
}

/// Opens, reroutes and closes endpoints.
pub struct Endpoints {
    store: Arc<dyn Store>,
    bus: Bus,
    acknowledgements: Arc<Acknowledgements>,
    closer: Closer,
    patience: Duration,
}

impl Endpoints {
    /// Gives workers `patience` to serve what is opened.
    pub fn new(
        store: Arc<dyn Store>,
        bus: Bus,
        acknowledgements: Arc<Acknowledgements>,
        patience: Duration,
    ) -> Self {
        let closer = Closer::new(Arc::clone(&store), bus.clone());
        Self {
            store,
            bus,
            acknowledgements,
            closer,
            patience,
        }
    }

    /// Opens a circuit for each endpoint that has none, all in one transaction, and returns when
    /// their workers serve them. Answers in the order of the openings; of several for one endpoint
    /// the last one rules.
    ///
    /// Runs to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// Why not all of them have a circuit. After [`EndpointError::NotAcknowledged`] those that are
    /// served stay open, so that a caller who tries again continues; after all others nothing was
    /// changed.
    pub async fn open(
        self: &Arc<Self>,
        openings: Vec<EndpointOpening>,
    ) -> Result<Vec<Opened>, EndpointError> {
        let this = Arc::clone(self);
        let id = request_id::current().unwrap_or_else(request_id::RequestId::generate);
        let work = request_id::scope(id, async move { this.open_and_wait(&openings).await });
        tokio::spawn(work)
            .await
            .unwrap_or_else(|_| Err(EndpointError::Interrupted))
    }

    async fn open_and_wait(
        &self,
        openings: &[EndpointOpening],
    ) -> Result<Vec<Opened>, EndpointError> {
        let last: HashMap<EndpointId, &EndpointOpening> = openings
            .iter()
            .map(|opening| (opening.id, opening))
            .collect();
        let mut seen = HashSet::new();
        let distinct: Vec<&EndpointOpening> = openings
            .iter()
            .filter(|opening| seen.insert(opening.id))
            .filter_map(|opening| last.get(&opening.id).copied())
            .collect();
        let opened = self.commit(&distinct).await?;
        self.bring_to_service(&opened).await?;
        let by_endpoint: HashMap<EndpointId, &Opened> = distinct
            .iter()
            .map(|opening| opening.id)
            .zip(&opened)
            .collect();
        Ok(openings
            .iter()
            .filter_map(|opening| by_endpoint.get(&opening.id).copied().cloned())
            .collect())
    }

    /// Places and commits; again where others took a slot, or closed a circuit, in the meantime.
    async fn commit(&self, openings: &[&EndpointOpening]) -> Result<Vec<Opened>, EndpointError> {
        let ids: Vec<EndpointId> = openings.iter().map(|opening| opening.id).collect();
        let mut round = 1;
        loop {
            let found = self.store.endpoint_circuits(&ids).await?;
            let there = found.iter().filter_map(|c| c.endpoint_id).collect();
            let endpoints = self.place(openings, &there).await?;
            match self.store.open_endpoints(&endpoints).await {
                Ok(opened) => {
                    if let Some(all) = opened.into_iter().collect() {
                        return Ok(all);
                    }
                }
                Err(
                    StoreError::SubdomainTaken { .. }
                    | StoreError::WorkerFull(_)
                    | StoreError::NoSuchWorker(_),
                ) if round < ROUNDS => {}
                Err(error) => return Err(error.into()),
            }
            if round == ROUNDS {
                return Err(EndpointError::Interrupted);
            }
            round += 1;
        }
    }

    /// Chooses a worker for every endpoint without a circuit.
    async fn place(
        &self,
        openings: &[&EndpointOpening],
        there: &HashSet<EndpointId>,
    ) -> Result<Vec<NewEndpoint>, EndpointError> {
        let mut workers = self.store.workers().await?;
        let filters = self.store.app_filters().await?;
        let seed = Uuid::new_v4().as_u64_pair().0;
        openings
            .iter()
            .map(|opening| {
                let circuit = if there.contains(&opening.id) {
                    None
                } else {
                    let (worker, slot) = choose(opening, &workers, &filters, seed)?;
                    if let Some(chosen) = workers.iter_mut().find(|other| other.id == worker) {
                        chosen.occupied_slots = chosen.occupied_slots.saturating_add(1);
                    }
                    Some(new_circuit(opening, worker, slot))
                };
                Ok(NewEndpoint {
                    id: opening.id,
                    health_check: opening.health_check.clone(),
                    circuit,
                })
            })
            .collect()
    }

    /// Announces what is new and waits for all its workers side by side. What is not served in
    /// time is closed again.
    async fn bring_to_service(&self, opened: &[Opened]) -> Result<(), EndpointError> {
        let new: Vec<&Opened> = opened.iter().filter(|opened| !opened.reused).collect();
        let mut by_worker: BTreeMap<WorkerId, Vec<(CircuitId, Expected)>> = BTreeMap::new();
        for one in &new {
            let expected = (one.circuit.id, self.acknowledgements.expect(one));
            by_worker.entry(one.worker.id).or_default().push(expected);
        }
        let news: Vec<_> = new.iter().map(|one| announce::opened(one)).collect();
        let bus = self.bus.clone();
        tokio::spawn(async move {
            for announcement in news {
                bus.announce(announcement).await;
            }
        });
        let deadline = Instant::now() + self.patience;
        let waits = by_worker.into_values();
        let waits = waits.map(|expected| self.unserved(expected, deadline));
        let unserved = future::join_all(waits).await.concat();
        let late = new.iter().find(|one| unserved.contains(&one.circuit.id));
        let Some(late) = late else { return Ok(()) };
        self.undo(&unserved).await;
        Err(EndpointError::NotAcknowledged {
            worker: late.worker.authority.clone(),
        })
    }

    /// Waits for one worker; answers with what it does not serve in time.
    async fn unserved(
        &self,
        expected: Vec<(CircuitId, Expected)>,
        deadline: Instant,
    ) -> Vec<CircuitId> {
        let wait = |(id, mut expected): (CircuitId, Expected)| async move {
            let served = expected.served(self.store.as_ref());
            let outcome = tokio::time::timeout_at(deadline, served).await;
            outcome.is_err().then_some(id)
        };
        let waits = stream::iter(expected).map(wait);
        let outcomes: Vec<_> = waits.buffer_unordered(ASKED_AT_ONCE).collect().await;
        outcomes.into_iter().flatten().collect()
    }

    async fn undo(&self, unserved: &[CircuitId]) {
        log::warn!(
            "{} circuits of endpoints were not acknowledged within {} s",
            unserved.len(),
            self.patience.as_secs_f64()
        );
        let cause = Cause::now(Actor::Coordinator, Reason::NotAcknowledged);
        if let Err(error) = self.closer.close_all(unserved, &cause).await {
            log::error!("the openings could not be undone: {error}");
        }
    }

    /// Changes routes, each endpoint's on its own, and tells the workers.
    ///
    /// # Errors
    /// A failing store; nothing is changed then.
    pub async fn reroute(
        &self,
        changes: &[(EndpointId, RouteChange)],
    ) -> Result<Vec<Result<RoutesChanged, RoutesRefused>>, StoreError> {
        let rerouting = self.store.change_routes(changes, &Cause::manager()).await?;
        for rerouted in &rerouting.circuits {
            self.bus.announce(announce::rerouted(rerouted)).await;
            log::info!(
                circuit = rerouted.circuit.id.to_string().as_str(),
                worker = rerouted.authority.as_str();
                "circuit has {} routes", rerouted.circuit.route_info.len()
            );
        }
        Ok(rerouting.outcomes)
    }

    /// Forgets endpoints and closes their circuits; those that do not exist are passed over.
    ///
    /// # Errors
    /// A failing store; nothing is changed then.
    pub async fn remove(&self, ids: &[EndpointId]) -> Result<(), StoreError> {
        let cause = Cause::now(Actor::Manager, Reason::EndpointDeleted);
        let closed = self.store.delete_endpoints(ids, &cause).await?;
        self.closer.tell(&closed).await;
        Ok(())
    }

    /// The circuit of an endpoint and its worker.
    ///
    /// # Errors
    /// [`EndpointError::NoSuchEndpoint`], or a failing store.
    pub async fn circuit(&self, id: EndpointId) -> Result<(Circuit, Worker), EndpointError> {
        let circuits = self.store.endpoint_circuits(&[id]).await?;
        let circuit = circuits.into_iter().next();
        let circuit = circuit.ok_or(EndpointError::NoSuchEndpoint)?;
        let worker = self.store.worker(circuit.worker).await?;
        let worker = worker.ok_or(StoreError::NoSuchWorker(circuit.worker))?;
        Ok((circuit, worker))
    }
}

/// The worker and the slot for an endpoint: where its URL leads already, else the best there is.
fn choose(
    opening: &EndpointOpening,
    workers: &[Worker],
    filters: &[(WorkerId, AppFilter)],
    seed: u64,
) -> Result<(WorkerId, SlotWish), EndpointError> {
    let endpoint = opening.id;
    let url = opening
        .existing_url
        .as_deref()
        .filter(|url| !url.is_empty());
    if let Some(url) = url {
        let known = place_of(url).ok_or(EndpointError::InvalidUrl { endpoint })?;
        if let Some((worker, slot)) = known.on(workers) {
            if !worker.has_room() {
                return Err(EndpointError::NoWorker { endpoint });
            }
            return Ok((worker.id, slot));
        }
    }
    let wish = Wish {
        protocol: Protocol::Http,
        mode: AppMode::Inference,
        port: None,
        properties: &opening.properties,
    };
    let ranked = place::rank(workers, filters, &wish, seed);
    let worker = ranked.first().ok_or(EndpointError::NoWorker { endpoint })?;
    let slot = match worker.frontend_mode {
        FrontendMode::Port => SlotWish::AnyPort,
        FrontendMode::Wildcard => {
            let name = subdomain::normalize(&opening.service_name);
            SlotWish::Subdomain(name.unwrap_or_else(subdomain::random))
        }
    };
    Ok((worker.id, slot))
}

/// Host and port of an existing URL.
struct KnownPlace {
    host: String,
    port: u16,
}

fn place_of(url: &str) -> Option<KnownPlace> {
    let url = Url::parse(url).ok()?;
    Some(KnownPlace {
        host: url.host_str()?.to_owned(),
        port: url.port_or_known_default()?,
    })
}

impl KnownPlace {
    /// The inference worker that holds this place, whatever its status.
    fn on<'a>(&self, workers: &'a [Worker]) -> Option<(&'a Worker, SlotWish)> {
        let inference = |mode: FrontendMode| {
            workers.iter().filter(move |worker| {
                worker.frontend_mode == mode
                    && worker.accepted_traffics.contains(&AppMode::Inference)
            })
        };
        let named = self.host.split_once('.').and_then(|(label, rest)| {
            let domain = format!(".{rest}");
            let worker = inference(FrontendMode::Wildcard).find(|worker| {
                let own = worker.wildcard_domain.as_deref();
                own.is_some_and(|own| own.eq_ignore_ascii_case(&domain))
            })?;
            Some((worker, SlotWish::Subdomain(subdomain::normalize(label)?)))
        });
        named.or_else(|| {
            let worker = inference(FrontendMode::Port).find(|worker| {
                let holds = |(first, last): (u16, u16)| (first..=last).contains(&self.port);
                worker.hostname.eq_ignore_ascii_case(&self.host)
                    && worker.port_range.is_some_and(holds)
            })?;
            Some((worker, SlotWish::Port(self.port)))
        })
    }
}

fn new_circuit(opening: &EndpointOpening, worker: WorkerId, slot: SlotWish) -> NewCircuit {
    NewCircuit {
        id: CircuitId::random(),
        worker,
        slot,
        app: Some(opening.service_name.clone()),
        protocol: Protocol::Http,
        app_mode: AppMode::Inference,
        envs: serde_json::Map::new(),
        arguments: None,
        open_to_public: opening.open_to_public,
        allowed_client_ips: None,
        user_id: opening.user,
        endpoint_id: Some(opening.id),
        runtime_variant: opening.runtime_variant.clone(),
        routes: Vec::new(),
        session_ids: Vec::new(),
        origin_request_id: request_id::current().map(|id| id.as_str().to_owned()),
        by: Actor::Manager,
        reuse: None,
    }
}
