//! The sockets this process listens on, taken over or bound, so that a successor can have them.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use patchbay_listen::{ListenError, bind};

/// Gives listeners out and remembers them.
#[derive(Debug, Default)]
pub struct Listeners {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inherited: HashMap<SocketAddr, TcpListener>,
    /// Second descriptors of those in use; `None` where nobody will ask for them.
    in_use: Option<Vec<(SocketAddr, TcpListener)>>,
}

impl Listeners {
    /// Starts with what a predecessor gave. With `remember`, those in use can be given on.
    pub fn new(inherited: Vec<(SocketAddr, TcpListener)>, remember: bool) -> Self {
        let state = State {
            inherited: inherited.into_iter().collect(),
            in_use: remember.then(Vec::new),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Listens on an address: with the predecessor's socket if it had one there, else with a new
    /// one.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener, ListenError> {
        let refused = |cause| ListenError { address, cause };
        let mut state = self.lock();
        let listener = match state.inherited.remove(&address) {
            Some(listener) => listener,
            None => bind(address)?,
        };
        if let Some(in_use) = &mut state.in_use {
            let bound = listener.local_addr().map_err(refused)?;
            in_use.push((bound, listener.try_clone().map_err(refused)?));
        }
        Ok(listener)
    }

    /// Second descriptors of all that are in use.
    ///
    /// # Errors
    /// If the system grants no more descriptors.
    pub fn copies(&self) -> std::io::Result<Vec<(SocketAddr, TcpListener)>> {
        let state = self.lock();
        let in_use = state.in_use.iter().flatten();
        in_use
            .map(|(address, listener)| Ok((*address, listener.try_clone()?)))
            .collect()
    }

    /// Closes what was inherited and has no use here.
    pub fn drop_unused(&self) {
        for (address, _) in self.lock().inherited.drain() {
            log::info!("{address} is not listened on any more");
        }
    }

    /// Lets go of all: what accepts from them has to let go too before they are closed.
    pub fn release(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
