//! Opening: choose, commit, announce, wait, or undo.

use std::sync::Arc;
use std::time::Duration;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::id::{CircuitId, SessionId, TokenId, UserId, WorkerId};
use patchbay_common::request_id;
use patchbay_common::route::Route;
use patchbay_common::subdomain;
use patchbay_common::worker::{AppFilter, Worker};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::announce;
use super::close::Closer;
use super::place::{self, Wish};
use crate::publish::{Acknowledgements, Bus};
use crate::store::{
    Actor, Cause, NewCircuit, Opened, Reason, Reuse, SessionToken, SlotWish, Store, StoreError,
};

/// Fresh looks at the workers before an opener is told that there is no room.
const ROUNDS: usize = 3;
/// Other names tried for a subdomain that is taken.
const OTHER_NAMES: usize = 8;

/// Why a circuit was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such token.
    #[error("there is no such token")]
    NoSuchToken,
    /// The token is another session's.
    #[error("the token belongs to another session")]
    SessionMismatch,
    /// No worker takes such a circuit, or none has room.
    #[error("no worker takes the circuit")]
    NoWorker,
    /// The port asked for is not free anywhere.
    #[error("port {port} is not free on any worker")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The subdomain asked for is not free, and no other would do.
    #[error("subdomain {subdomain} is not free")]
    SubdomainTaken {
        /// The subdomain.
        subdomain: String,
    },
    /// The worker did not say in time that it serves the circuit; the opening was undone.
    #[error("worker {worker} does not respond")]
    NotAcknowledged {
        /// Its name.
        worker: String,
    },
    /// The opening broke off.
    #[error("the opening broke off")]
    Interrupted,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an opener asks for.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the app is.
    pub source: Source,
    /// The session, which has to be the token's.
    pub session: SessionId,
    /// On whose behalf it is opened.
    pub by: Actor,
    /// Name of the app.
    pub app: String,
    /// What the app speaks, as asked for.
    pub protocol: Protocol,
    /// Kept with the circuit.
    pub envs: Map<String, Value>,
    /// Kept with the circuit.
    pub arguments: Option<String>,
    /// No credential for its users.
    pub open_to_public: bool,
    /// Networks allowed to use it, validated.
    pub allowed_client_ips: Option<String>,
    /// Open a circuit of its own even if one could be shared.
    pub no_reuse: bool,
    /// The port it would like.
    pub port: Option<u16>,
    /// The subdomain it would like.
    pub subdomain: Option<String>,
}

/// Where an opener's word comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A token that was minted for it.
    Token(TokenId),
    /// Somebody who needs none.
    Given(Backing),
}

/// What stands behind a circuit.
#[derive(Clone, Debug)]
pub struct Backing {
    /// Host of the session's kernel.
    pub kernel_host: String,
    /// Port of the app on that host.
    pub kernel_port: u16,
    /// The session's owner.
    pub user: Option<UserId>,
    /// What filters are compared with.
    pub properties: Vec<AppFilter>,
    /// The only worker that will do.
    pub worker: Option<WorkerId>,
}

/// Opens circuits.
pub struct Opener {
    store: Arc<dyn Store>,
    bus: Bus,
    acknowledgements: Arc<Acknowledgements>,
    closer: Closer,
    patience: Duration,
}

impl Opener {
    /// An opener that gives workers `patience` to serve what it opens.
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

    /// Opens the circuit, or shares one that is there, and returns when its worker serves it.
    ///
    /// Runs to its end even if the caller stops waiting, so that nothing is left half open.
    ///
    /// # Errors
    /// Why there is no circuit to use.
    pub async fn open(self: &Arc<Self>, opening: Opening) -> Result<Opened, OpenError> {
        let this = Arc::clone(self);
        let id = request_id::current().unwrap_or_else(request_id::RequestId::generate);
        let work = request_id::scope(id, async move { this.open_and_wait(&opening).await });
        tokio::spawn(work)
            .await
            .unwrap_or_else(|_| Err(OpenError::Interrupted))
    }

    async fn open_and_wait(&self, opening: &Opening) -> Result<Opened, OpenError> {
        let backing = match &opening.source {
            Source::Token(id) => &self.of_token(*id, opening.session).await?,
            Source::Given(backing) => backing,
        };
        let opened = match self.share(opening).await? {
            Some(shared) => shared,
            None => self.place(opening, backing).await?,
        };
        let mut expected = self.acknowledgements.expect(&opened);
        // Announced beside the wait: a bus that hangs must not hold up what another way brings about.
        let (bus, announcement) = (self.bus.clone(), announce::opened(&opened));
        tokio::spawn(async move { bus.announce(announcement).await });
        let served = expected.served(self.store.as_ref());
        if tokio::time::timeout(self.patience, served).await.is_ok() {
            log::info!(
                circuit = opened.circuit.id.to_string().as_str(),
                worker = opened.worker.authority.as_str(), reused = opened.reused;
                "circuit open"
            );
            return Ok(opened);
        }
        self.undo(&opened).await;
        Err(OpenError::NotAcknowledged {
            worker: opened.worker.authority,
        })
    }

    async fn of_token(&self, id: TokenId, session: SessionId) -> Result<Backing, OpenError> {
        let token = self.store.token(id).await?;
        let token = token.ok_or(OpenError::NoSuchToken)?;
        if token.session_id != session {
            return Err(OpenError::SessionMismatch);
        }
        Ok(Backing {
            properties: properties(&token),
            kernel_host: token.kernel_host,
            kernel_port: token.kernel_port,
            user: Some(token.user),
            worker: None,
        })
    }

    /// A circuit that the opener may share.
    async fn share(&self, opening: &Opening) -> Result<Option<Opened>, OpenError> {
        match reuse(opening) {
            Some(reuse) => Ok(self.store.reusable_circuit(&reuse).await?),
            None => Ok(None),
        }
    }

    /// Opens a circuit on the best worker that takes it.
    async fn place(&self, opening: &Opening, backing: &Backing) -> Result<Opened, OpenError> {
        let wish = Wish {
            protocol: opening.protocol.carried(),
            mode: AppMode::Interactive,
            port: opening.port,
            properties: &backing.properties,
        };
        for _ in 0..ROUNDS {
            let (mut workers, filters) =
                tokio::try_join!(self.store.workers(), self.store.app_filters())?;
            workers.retain(|worker| backing.worker.is_none_or(|only| only == worker.id));
            let seed = Uuid::new_v4().as_u64_pair().0;
            let ranked = place::rank(&workers, &filters, &wish, seed);
            if ranked.is_empty() {
                break;
            }
            for worker in ranked {
                if let Some(opened) = self.try_worker(worker, opening, backing).await? {
                    return Ok(opened);
                }
            }
            if opening.port.is_some() {
                break;
            }
        }
        Err(match opening.port {
            Some(port) => OpenError::PortTaken { port },
            None => OpenError::NoWorker,
        })
    }

    /// Opens on this worker; `None` if it turns out to have no slot for it.
    async fn try_worker(
        &self,
        worker: &Worker,
        opening: &Opening,
        backing: &Backing,
    ) -> Result<Option<Opened>, OpenError> {
        let exact = matches!(opening.source, Source::Given(_)) && opening.subdomain.is_some();
        let mut slot = first_slot(worker, opening);
        for _ in 0..OTHER_NAMES {
            match self
                .store
                .open_circuit(&new_circuit(worker, slot, opening, backing))
                .await
            {
                Ok(opened) => return Ok(Some(opened)),
                Err(StoreError::SubdomainTaken { subdomain }) if exact => {
                    return Err(OpenError::SubdomainTaken { subdomain });
                }
                Err(StoreError::SubdomainTaken { subdomain }) => {
                    slot = SlotWish::Subdomain(subdomain::alternative(&subdomain));
                }
                Err(
                    StoreError::PortTaken { .. }
                    | StoreError::WorkerFull(_)
                    | StoreError::NoSuchWorker(_),
                ) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Takes back what nobody serves. A circuit that was shared stays: it is others' too.
    async fn undo(&self, opened: &Opened) {
        log::warn!(
            circuit = opened.circuit.id.to_string().as_str(), worker = opened.worker.authority.as_str();
            "the worker did not acknowledge the circuit within {} s", self.patience.as_secs_f64()
        );
        if opened.reused {
            return;
        }
        let cause = Cause::now(Actor::Coordinator, Reason::NotAcknowledged);
        if let Err(error) = self.closer.close(opened.circuit.id, &cause).await {
            log::error!(
                circuit = opened.circuit.id.to_string().as_str();
                "the opening could not be undone: {error}"
            );
        }
    }
}

fn reuse(opening: &Opening) -> Option<Reuse> {
    (!opening.no_reuse).then(|| Reuse {
        session: opening.session,
        app: Some(opening.app.clone()),
        protocol: opening.protocol.carried(),
        open_to_public: opening.open_to_public,
        allowed_client_ips: opening.allowed_client_ips.clone(),
    })
}

/// What filters are compared with (contract/rest-coordinator.md §8.1).
fn properties(token: &SessionToken) -> Vec<AppFilter> {
    let pairs = [
        ("session.id", token.session_id.to_string()),
        ("session.user_uuid", token.user.to_string()),
        ("session.project_id", token.project.to_string()),
        ("session.access_key", token.access_key.clone()),
        ("session.domain_name", token.domain_name.clone()),
    ];
    let filter = |(key, value): (&str, String)| AppFilter {
        key: key.to_owned(),
        value,
    };
    pairs.into_iter().map(filter).collect()
}

fn first_slot(worker: &Worker, opening: &Opening) -> SlotWish {
    match worker.frontend_mode {
        FrontendMode::Port => opening.port.map_or(SlotWish::AnyPort, SlotWish::Port),
        FrontendMode::Wildcard => {
            let wished = opening.subdomain.as_deref().and_then(subdomain::normalize);
            SlotWish::Subdomain(wished.unwrap_or_else(subdomain::random))
        }
    }
}

fn new_circuit(
    worker: &Worker,
    slot: SlotWish,
    opening: &Opening,
    backing: &Backing,
) -> NewCircuit {
    NewCircuit {
        id: CircuitId::random(),
        worker: worker.id,
        slot,
        app: Some(opening.app.clone()),
        protocol: opening.protocol.carried(),
        app_mode: AppMode::Interactive,
        envs: opening.envs.clone(),
        arguments: opening.arguments.clone(),
        open_to_public: opening.open_to_public,
        allowed_client_ips: opening.allowed_client_ips.clone(),
        user_id: backing.user,
        endpoint_id: None,
        runtime_variant: None,
        routes: vec![Route {
            route_id: None,
            session_id: opening.session,
            session_name: None,
            kernel_host: Some(backing.kernel_host.clone()),
            kernel_port: backing.kernel_port,
            protocol: opening.protocol,
            traffic_ratio: 1.0,
        }],
        session_ids: vec![opening.session],
        origin_request_id: request_id::current().map(|id| id.as_str().to_owned()),
        by: opening.by,
        reuse: reuse(opening),
    }
}
