//! Streams of an agent's connection that have carried a request and may carry another one. Each
//! holds a connection of the agent's to its service, so they are few and not kept for long; an
//! agent that drains gets them back at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use patchbay_common::tunnel::TunnelId;
use patchbay_common::tunnel::mux::MuxStream;
use tokio::time::Instant;

/// Most of one session.
const MOST: usize = 256;
/// How long one is kept.
const KEPT: Duration = Duration::from_secs(20);

/// The idle streams of one session.
#[derive(Debug, Default)]
pub(super) struct Rested(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_tunnel: HashMap<TunnelId, Vec<(MuxStream, Instant)>>,
    count: usize,
    /// None is kept any more.
    closed: bool,
}

impl Rested {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that is open as far as can be told, the one used last.
    pub(super) fn take(&self, id: &TunnelId) -> Option<MuxStream> {
        let mut state = self.lock();
        let state = &mut *state;
        let streams = state.by_tunnel.get_mut(id)?;
        while let Some((mut stream, _)) = streams.pop() {
            state.count -= 1;
            if stream.is_idle() {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a stream for another request.
    pub(super) fn put(&self, id: &TunnelId, stream: MuxStream) {
        let mut state = self.lock();
        if state.closed || state.count >= MOST {
            return;
        }
        state.count += 1;
        let kept = (stream, Instant::now());
        match state.by_tunnel.get_mut(id) {
            Some(streams) => streams.push(kept),
            None => drop(state.by_tunnel.insert(id.clone(), vec![kept])),
        }
    }

    /// Lets go of those that have been idle for long, or have ended.
    pub(super) fn sweep(&self) {
        let mut state = self.lock();
        let mut count = 0;
        for streams in state.by_tunnel.values_mut() {
            streams.retain_mut(|(stream, since)| since.elapsed() < KEPT && stream.is_idle());
            count += streams.len();
        }
        state.count = count;
    }

    /// Lets go of all of them, and keeps none from now on.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.by_tunnel.clear();
        state.count = 0;
    }
}
