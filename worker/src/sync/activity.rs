//! Marks of use, from which the coordinator tells idle circuits and the Manager idle sessions
//! (contract/data-plane.md §12). Traffic leaves marks in memory; once an interval they are written
//! to Redis in one round trip or, where there is none, told to the coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use dashmap::DashMap;
use patchbay_common::id::{CircuitId, SessionId};
use patchbay_common::use_report::{CircuitUse, MOST_CIRCUITS, UseReport};
use redis::Pipeline;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::backoff::Outage;
use super::client::{CallError, Coordinator};
use super::redis_link::{LiveConnection, RedisLink};
use super::status::Board;
use crate::table::LiveCircuit;

/// The database the marks live in.
const LIVE_DB: i64 = 2;
/// Seconds a mark of last use is kept, and a count of requests.
const KEEP_ACCESS: u64 = 172_800;
const KEEP_COUNT: u64 = 3_600;
/// Most circuits, and most sessions, remembered between writes.
const REMEMBERED: usize = 262_144;
/// Most circuits or sessions in one round trip.
const BATCH: usize = MOST_CIRCUITS;
/// How often a coordinator is told even that nothing was used.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The marks since the last write.
#[derive(Debug)]
pub struct Activity {
    enabled: bool,
    circuits: DashMap<CircuitId, Mark, ahash::RandomState>,
    sessions: DashMap<SessionId, Mark, ahash::RandomState>,
    overflowed: AtomicBool,
}

/// Use of one circuit or session: when last (microseconds since the epoch), how many requests.
#[derive(Debug, Default)]
struct Mark {
    last: AtomicU64,
    requests: AtomicU64,
}

impl Mark {
    fn leave(&self, at: u64, requests: u64) {
        self.last.fetch_max(at, Relaxed);
        if requests > 0 {
            self.requests.fetch_add(requests, Relaxed);
        }
    }
}

/// What one write carries.
#[derive(Debug, Default)]
struct Taken {
    circuits: Vec<(CircuitId, u64, u64)>,
    sessions: Vec<(SessionId, u64)>,
    /// Some did not find room.
    overflowed: bool,
}

impl Activity {
    /// No marks yet. They are only kept where there is somebody to tell.
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            circuits: DashMap::default(),
            sessions: DashMap::default(),
            overflowed: AtomicBool::new(false),
        }
    }

    /// A request, a WebSocket or a TCP connection begins.
    pub fn request(&self, circuit: &LiveCircuit, session: SessionId) {
        self.mark(circuit.circuit.id, session, 1);
    }

    /// Data flows on a stream, a download or an upload: call it now and then, about once a second.
    pub fn stream_alive(&self, circuit: &LiveCircuit, session: SessionId) {
        self.mark(circuit.circuit.id, session, 0);
    }

    /// How many circuits and sessions wait to be written.
    pub fn queued(&self) -> usize {
        self.circuits.len() + self.sessions.len()
    }

    fn mark(&self, circuit: CircuitId, session: SessionId, requests: u64) {
        if !self.enabled {
            return;
        }
        let now = now();
        self.leave(&self.circuits, circuit, now, requests);
        self.leave(&self.sessions, session, now, 0);
    }

    fn leave<K: Eq + std::hash::Hash>(
        &self,
        marks: &DashMap<K, Mark, ahash::RandomState>,
        key: K,
        at: u64,
        requests: u64,
    ) {
        // Most requests find the mark and share its shard's lock with readers only.
        if let Some(mark) = marks.get(&key) {
            return mark.leave(at, requests);
        }
        if marks.len() >= REMEMBERED {
            if !self.overflowed.swap(true, Relaxed) {
                log::warn!("more than {REMEMBERED} activity marks wait: new ones are dropped");
            }
            return;
        }
        marks.entry(key).or_default().leave(at, requests);
    }

    fn take(&self) -> Taken {
        let mut taken = Taken::default();
        self.circuits.retain(|id, mark| {
            let (last, requests) = (mark.last.load(Relaxed), mark.requests.load(Relaxed));
            taken.circuits.push((*id, last, requests));
            false
        });
        self.sessions.retain(|id, mark| {
            taken.sessions.push((*id, mark.last.load(Relaxed)));
            false
        });
        taken.overflowed = self.overflowed.swap(false, Relaxed);
        taken
    }

    /// Puts back what could not be written; marks left meanwhile are merged with it.
    fn put_back(&self, taken: Taken) {
        self.overflowed.fetch_or(taken.overflowed, Relaxed);
        for (id, last, requests) in taken.circuits {
            self.leave(&self.circuits, id, last, requests);
        }
        for (id, last) in taken.sessions {
            self.leave(&self.sessions, id, last, 0);
        }
    }
}

impl Taken {
    /// Moves up to a batch of each kind out.
    fn batch(&mut self) -> Self {
        fn cut<T>(from: &mut Vec<T>) -> Vec<T> {
            from.split_off(from.len().saturating_sub(BATCH))
        }
        Self {
            circuits: cut(&mut self.circuits),
            sessions: cut(&mut self.sessions),
            overflowed: self.overflowed,
        }
    }

    fn is_empty(&self) -> bool {
        self.circuits.is_empty() && self.sessions.is_empty()
    }

    /// As the coordinator is told; `last` says that nothing is left to tell.
    fn report(&self, last: bool) -> UseReport {
        let used = |(circuit, last, requests): &(CircuitId, u64, u64)| {
            let micros = i64::try_from(*last).ok()?;
            Some(CircuitUse {
                circuit: *circuit,
                last: DateTime::from_timestamp_micros(micros)?,
                requests: *requests,
            })
        };
        UseReport {
            circuits: self.circuits.iter().filter_map(used).collect(),
            complete: last && !self.overflowed,
        }
    }

    fn pipeline(&self) -> Pipeline {
        let mut pipe = redis::pipe();
        for (id, last) in &self.sessions {
            pipe.set_ex(
                format!("session.{id}.last_access"),
                epoch(*last),
                KEEP_ACCESS,
            )
            .ignore();
        }
        for (id, last, requests) in &self.circuits {
            pipe.set_ex(
                format!("circuit.{id}.last_access"),
                epoch(*last),
                KEEP_ACCESS,
            )
            .ignore();
            if *requests > 0 {
                let key = format!("circuit.{id}.requests");
                let keep = i64::try_from(KEEP_COUNT).unwrap_or(i64::MAX);
                pipe.incr(&key, *requests).ignore();
                pipe.expire(&key, keep).ignore();
            }
        }
        pipe
    }
}

/// Writes the marks once an interval.
pub(super) struct Writer {
    way: Way,
    outage: Outage,
}

/// Where the marks go.
enum Way {
    Redis(LiveConnection),
    Coordinator {
        coordinator: Coordinator,
        board: Board,
        told: Option<Instant>,
    },
}

impl Writer {
    /// Leaves them in Redis.
    pub(super) fn for_redis(link: RedisLink) -> Self {
        Self {
            way: Way::Redis(LiveConnection::new(link, LIVE_DB)),
            outage: Outage::new("writing activity marks"),
        }
    }

    /// Tells the coordinator.
    pub(super) fn for_coordinator(coordinator: Coordinator, board: Board) -> Self {
        Self {
            way: Way::Coordinator {
                coordinator,
                board,
                told: None,
            },
            outage: Outage::new("telling the uses of circuits"),
        }
    }

    /// Writes until it is told to stop, and then once more. It is never cut off within a write,
    /// which would lose the marks it carries.
    pub(super) async fn run(
        mut self,
        activity: Arc<Activity>,
        every: Duration,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => {}
            }
            self.write(&activity).await;
        }
    }

    /// Writes what there is.
    async fn write(&mut self, activity: &Activity) {
        if !self.is_due() {
            return;
        }
        let mut all = activity.take();
        loop {
            let batch = all.batch();
            let last = all.is_empty();
            match self.send(&batch, last).await {
                Ok(()) => self.outage.over(),
                Err(cause) => {
                    self.outage.failed(&cause);
                    activity.put_back(batch);
                    activity.put_back(all);
                    return;
                }
            }
            if last {
                return;
            }
        }
    }

    /// Whether there is anybody to write to: a coordinator that numbers its changes takes in what
    /// it is told, a Python coordinator has no such call.
    fn is_due(&self) -> bool {
        match &self.way {
            Way::Redis(_) => true,
            Way::Coordinator { board, .. } => {
                let status = board.read();
                status.worker.is_some() && status.generation.is_some()
            }
        }
    }

    async fn send(&mut self, batch: &Taken, last: bool) -> Result<(), Unsent> {
        match &mut self.way {
            Way::Redis(_) if batch.is_empty() => Ok(()),
            Way::Redis(connection) => Ok(connection.run(&batch.pipeline()).await?),
            Way::Coordinator {
                coordinator,
                board,
                told,
            } => {
                let recent = told.is_some_and(|told| told.elapsed() < TELL_EVERY);
                let Some(worker) = board.worker().filter(|_| !(batch.is_empty() && recent)) else {
                    return Ok(());
                };
                let report = batch.report(last);
                coordinator.report_uses(worker, &report).await?;
                if report.complete {
                    *told = Some(Instant::now());
                }
                Ok(())
            }
        }
    }
}

/// Why marks were not written.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Call(#[from] CallError),
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// Seconds since the epoch as Python prints a float: no padding, at least one decimal.
fn epoch(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') {
        format!("{short}0")
    } else {
        short.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_time_as_python_does() {
        assert_eq!(epoch(1_795_189_191_725_447), "1795189191.725447");
        assert_eq!(epoch(1_795_189_191_700_000), "1795189191.7");
        assert_eq!(epoch(1_795_189_191_000_000), "1795189191.0");
        assert_eq!(epoch(1_795_189_191_000_010), "1795189191.00001");
    }

    #[test]
    fn marks_merge_and_survive_a_failed_write() {
        let activity = Activity::new(true);
        let (circuit, session) = (CircuitId::random(), SessionId::random());
        for _ in 0..3 {
            activity.mark(circuit, session, 1);
        }
        activity.mark(circuit, session, 0);
        assert_eq!(activity.queued(), 2);
        let taken = activity.take();
        assert_eq!(activity.queued(), 0);
        activity.mark(circuit, session, 1);
        activity.put_back(taken);
        let again = activity.take();
        assert_eq!(again.circuits[0].2, 4);
        assert_eq!(again.sessions.len(), 1);
    }

    #[test]
    fn with_nobody_to_tell_nothing_is_kept() {
        let activity = Activity::new(false);
        activity.mark(CircuitId::random(), SessionId::random(), 1);
        assert_eq!(activity.queued(), 0);
    }

    #[test]
    fn a_large_write_goes_in_batches() {
        let mut taken = Taken {
            circuits: vec![(CircuitId::random(), 1, 1); BATCH * 2 + 1],
            sessions: vec![(SessionId::random(), 1)],
            overflowed: false,
        };
        let sizes: Vec<usize> =
            std::iter::from_fn(|| (!taken.is_empty()).then(|| taken.batch().circuits.len()))
                .collect();
        assert_eq!(sizes, [BATCH, BATCH, 1]);
    }

    #[test]
    fn the_last_report_is_complete_unless_marks_were_dropped() {
        let circuit = CircuitId::random();
        let mut taken = Taken {
            circuits: vec![(circuit, 1_795_189_191_725_447, 3)],
            ..Taken::default()
        };
        assert!(!taken.report(false).complete);
        let report = taken.report(true);
        assert!(report.complete);
        let told = &report.circuits[0];
        assert_eq!((told.circuit, told.requests), (circuit, 3));
        assert_eq!(told.last.timestamp_micros(), 1_795_189_191_725_447);
        taken.overflowed = true;
        assert!(!taken.report(true).complete);
    }
}
