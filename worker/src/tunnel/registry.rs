//! Who is connected, and who holds which tunnel.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use patchbay_common::tunnel::{AgentId, Kind, Offer, TunnelId};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::TunnelError;
use super::elsewhere::{Elsewhere, Remote, holder};
use super::facts::{Account, RecentRequests};
use super::session::Session;
use super::settings::Settings;
use super::tokens::Tokens;
use super::visitor::VisitorKey;
use crate::upstream::UpstreamSet;

/// Between looks for sessions whose agents have gone.
const SWEEP: Duration = Duration::from_millis(500);
/// Most tunnels of one agent.
const MAX_TUNNELS: usize = 64;
/// Most names whose counts are kept although nobody holds them.
const MAX_REMEMBERED: usize = 10_000;

/// A tunnel that is lent, or was.
#[derive(Debug)]
pub struct Lent {
    /// Its name.
    pub id: TunnelId,
    /// The one upstream it is to requests.
    pub upstreams: UpstreamSet,
    /// Cancelled never: a tunnel outlives its holders. Requests need something to watch.
    pub closed: CancellationToken,
    /// Counts.
    pub account: Account,
    holders: ArcSwap<Vec<Arc<Session>>>,
    /// Gateways that can reach its holders elsewhere, the latest grant first.
    pub(super) elsewhere: ArcSwap<Vec<Arc<Remote>>>,
    turn: AtomicUsize,
}

impl Lent {
    fn new(id: TunnelId) -> Self {
        Self {
            upstreams: UpstreamSet::of_tunnel(&id),
            closed: CancellationToken::new(),
            account: Account::default(),
            holders: ArcSwap::default(),
            elsewhere: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            id,
        }
    }

    /// Who holds it.
    pub fn holders(&self) -> Arc<Vec<Arc<Session>>> {
        self.holders.load_full()
    }

    /// Its holders, beginning with whose turn it is.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = Arc<Session>> {
        let holders = self.holders();
        let count = holders.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..count).map(move |step| Arc::clone(&holders[(first.wrapping_add(step)) % count]))
    }

    fn offer(&self) -> Option<Offer> {
        let holders = self.holders.load();
        let offers = &holders.first()?.offers;
        offers.iter().find(|offer| offer.id == self.id).cloned()
    }

    /// What visitors are known by, if they have to show anything.
    pub fn visitors(&self) -> Option<VisitorKey> {
        if let Some(offer) = self.offer() {
            return offer.visitor_token.as_ref().map(VisitorKey::of);
        }
        let elsewhere = self.elsewhere.load();
        let told = elsewhere.first()?.holding.visitors.as_ref();
        told.map(VisitorKey::read)
    }

    /// What it carries.
    pub fn kind(&self) -> Kind {
        let told = || self.elsewhere.load().first().map(|one| one.holding.kind);
        let offer = self.offer().map(|offer| offer.kind);
        offer.or_else(told).unwrap_or_default()
    }

    /// Whether nobody holds it, here or elsewhere.
    pub(super) fn is_left(&self) -> bool {
        self.holders.load().is_empty() && self.elsewhere.load().is_empty()
    }
}

/// All sessions and tunnels.
#[derive(Debug)]
pub struct Registry {
    /// What the operator decided.
    pub settings: Settings,
    /// The last requests.
    pub recent: RecentRequests,
    tokens: ArcSwap<Tokens>,
    sessions: DashMap<String, Arc<Session>>,
    tunnels: DashMap<TunnelId, Arc<Lent>>,
    /// What is held at other gateways.
    pub(super) elsewhere: Elsewhere,
    /// Turns over when somebody has come or gone.
    pub(super) changed: watch::Sender<u64>,
    /// Registrations come one at a time: two may want one name.
    registering: Mutex<()>,
}

impl Registry {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            tokens: ArcSwap::from_pointee(settings.tokens.clone()),
            elsewhere: Elsewhere::new(&settings),
            changed: watch::channel(0).0,
            settings,
            recent: RecentRequests::default(),
            sessions: DashMap::new(),
            tunnels: DashMap::new(),
            registering: Mutex::new(()),
        }
    }

    /// Takes these tokens for good from now on; sessions of others, and those that hold what
    /// their token does not stretch to any more, end.
    pub fn replace_tokens(&self, tokens: Tokens) {
        let tokens = Arc::new(tokens);
        self.tokens.store(Arc::clone(&tokens));
        for session in self.sessions() {
            if !session.is_granted(&tokens) {
                log::warn!(
                    "agent {} is sent away: its token is not good any more",
                    session.agent
                );
                self.end(&session);
            }
        }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub async fn register(
        &self,
        agent: AgentId,
        token: &str,
        offers: Vec<Offer>,
    ) -> Result<Arc<Session>, TunnelError> {
        let tokens = self.tokens.load_full();
        let token = tokens.find(token).ok_or(TunnelError::Token)?;
        inspect(&offers)?;
        if let Some(offer) = offers.iter().find(|offer| !token.allows(&offer.id)) {
            return Err(TunnelError::NotAllowed(offer.id.clone()));
        }
        let _one_at_a_time = self.registering.lock().await;
        let earlier = self.sessions().into_iter().find(|session| {
            session.agent == agent && session.token == token.name && !session.over.is_cancelled()
        });
        if let Some(earlier) = &earlier
            && earlier.is_present().await
        {
            return Err(TunnelError::Present(agent));
        }
        let holder = holder(&agent, &token.name);
        for offer in &offers {
            self.may_hold(offer, earlier.as_ref())?;
            self.may_hold_beside(offer, &holder)?;
        }
        if let Some(earlier) = &earlier {
            self.end(earlier);
        }
        if self.sessions.len() >= self.settings.max_sessions {
            return Err(TunnelError::Full);
        }
        let session = Session::new(agent, token, offers, &self.settings);
        self.sessions
            .insert(session.id.clone(), Arc::clone(&session));
        for offer in &session.offers {
            self.hold(&offer.id, &session);
        }
        self.changed.send_modify(|count| *count += 1);
        log::info!(
            "agent {} lends {} by token {}",
            session.agent,
            list(&session.offers),
            session.token
        );
        Ok(session)
    }

    /// Whether this offer goes together with what others hold.
    fn may_hold(&self, offer: &Offer, earlier: Option<&Arc<Session>>) -> Result<(), TunnelError> {
        let Some(lent) = self.tunnel(&offer.id) else {
            return Ok(());
        };
        for holder in lent.holders().iter() {
            if earlier.is_some_and(|earlier| Arc::ptr_eq(earlier, holder)) {
                continue;
            }
            if !self.settings.is_shared(&offer.id) {
                return Err(TunnelError::Held(offer.id.clone()));
            }
            if !holder.offers.contains(offer) {
                return Err(TunnelError::Differs(offer.id.clone()));
            }
        }
        Ok(())
    }

    fn hold(&self, id: &TunnelId, session: &Arc<Session>) {
        let lent = self.known(id);
        lent.holders.rcu(|holders| {
            let mut holders = Vec::clone(holders);
            holders.push(Arc::clone(session));
            holders
        });
    }

    /// The tunnel of this name, known from now on.
    pub(super) fn known(&self, id: &TunnelId) -> Arc<Lent> {
        self.forget_some();
        let lent = self.tunnels.entry(id.clone());
        let lent = lent.or_insert_with(|| Arc::new(Lent::new(id.clone())));
        Arc::clone(lent.value())
    }

    /// Keeps the names nobody holds from growing without end.
    fn forget_some(&self) {
        if self.tunnels.len() >= MAX_REMEMBERED {
            self.tunnels.retain(|_, lent| !lent.is_left());
        }
    }

    /// Ends a session: its names are free, and whoever waits for it is told.
    pub fn end(&self, session: &Arc<Session>) {
        if self.sessions.remove(&session.id).is_none() {
            return;
        }
        for offer in &session.offers {
            if let Some(lent) = self.tunnel(&offer.id) {
                lent.holders.rcu(|holders| {
                    let mut holders = Vec::clone(holders);
                    holders.retain(|holder| !Arc::ptr_eq(holder, session));
                    holders
                });
            }
        }
        session.end();
        self.changed.send_modify(|count| *count += 1);
        log::info!("agent {} has left", session.agent);
    }

    /// The session of this secret name.
    ///
    /// # Errors
    /// [`TunnelError::Session`].
    pub fn session(&self, id: &str) -> Result<Arc<Session>, TunnelError> {
        let session = self.sessions.get(id).map(|found| Arc::clone(found.value()));
        session.ok_or(TunnelError::Session)
    }

    /// The tunnel of this name, if it is or was lent.
    pub fn tunnel(&self, id: &TunnelId) -> Option<Arc<Lent>> {
        self.tunnels.get(id).map(|found| Arc::clone(found.value()))
    }

    /// All sessions.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions
            .iter()
            .map(|one| Arc::clone(one.value()))
            .collect()
    }

    /// All tunnels that are or were lent, by name.
    pub fn tunnels(&self) -> Vec<Arc<Lent>> {
        let mut all: Vec<_> = self
            .tunnels
            .iter()
            .map(|one| Arc::clone(one.value()))
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Ends the sessions whose agents have been silent for too long, until the task is dropped.
    pub async fn sweep(&self) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for session in self.sessions() {
                let connected = session.opener().is_some() || session.queue.pulls() > 0;
                if !connected && session.silence() > self.settings.session_ttl {
                    log::warn!("agent {} has been silent for too long", session.agent);
                    self.end(&session);
                }
            }
        }
    }
}

fn inspect(offers: &[Offer]) -> Result<(), TunnelError> {
    if offers.is_empty() || offers.len() > MAX_TUNNELS {
        let text = format!("tunnels must name 1 to {MAX_TUNNELS} tunnels");
        return Err(TunnelError::Malformed(text));
    }
    for (index, offer) in offers.iter().enumerate() {
        if offer.kind == Kind::Tcp && offer.visitor_token.is_some() {
            let text = format!("tunnel `{}` carries TCP, which shows no token", offer.id);
            return Err(TunnelError::Malformed(text));
        }
        if offers[..index].iter().any(|other| other.id == offer.id) {
            let text = format!("tunnel `{}` is named twice", offer.id);
            return Err(TunnelError::Malformed(text));
        }
    }
    Ok(())
}

fn list(offers: &[Offer]) -> String {
    let names: Vec<_> = offers.iter().map(|offer| offer.id.as_str()).collect();
    names.join(", ")
}
