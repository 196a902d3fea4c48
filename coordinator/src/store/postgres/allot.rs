//! Slots for many circuits of one worker at once. Pure: the databases say what is taken.

use std::collections::HashSet;

use patchbay_common::circuit::{FrontendMode, Slot};
use patchbay_common::subdomain;
use patchbay_common::worker::Worker;

use crate::store::{Result, SlotWish, StoreError};

/// Gives out a worker's free slots. The worker's row is locked meanwhile.
pub(super) struct Allotment<'a> {
    worker: &'a Worker,
    ports: HashSet<u16>,
    names: HashSet<String>,
    /// No port below it is free.
    next: u16,
}

impl<'a> Allotment<'a> {
    /// An allotment where all but these ports and names are free.
    pub(super) fn new(worker: &'a Worker, ports: HashSet<u16>, names: HashSet<String>) -> Self {
        let next = worker.port_range.map_or(0, |(first, _)| first);
        Self {
            worker,
            ports,
            names,
            next,
        }
    }

    /// As [`Allotment::slot`], but a subdomain that is taken is refused.
    ///
    /// # Errors
    /// [`StoreError::SubdomainTaken`], and as `slot`.
    pub(super) fn exactly(&mut self, wish: &SlotWish) -> Result<Slot> {
        match wish {
            SlotWish::Subdomain(name) if self.names.contains(name) => {
                Err(StoreError::SubdomainTaken {
                    subdomain: name.clone(),
                })
            }
            wish => self.slot(wish),
        }
    }

    /// A slot: the port wished for and no other, or the subdomain wished for, or one made from it.
    ///
    /// # Errors
    /// [`StoreError::PortTaken`], [`StoreError::WorkerFull`], and [`StoreError::NoSuchWorker`] for
    /// a worker of the other mode.
    pub(super) fn slot(&mut self, wish: &SlotWish) -> Result<Slot> {
        let worker = self.worker.id;
        let range = match self.worker.frontend_mode {
            FrontendMode::Port => self.worker.port_range,
            FrontendMode::Wildcard => None,
        };
        match (wish, range) {
            (SlotWish::AnyPort, Some((_, last))) => {
                let free = (self.next..=last).find(|port| !self.ports.contains(port));
                let port = free.ok_or(StoreError::WorkerFull(worker))?;
                self.next = port;
                self.ports.insert(port);
                Ok(Slot::Port(port))
            }
            (SlotWish::Port(port), Some((first, last))) => {
                if (first..=last).contains(port) && self.ports.insert(*port) {
                    return Ok(Slot::Port(*port));
                }
                let port = *port;
                Err(StoreError::PortTaken { worker, port })
            }
            (SlotWish::Subdomain(name), None)
                if self.worker.frontend_mode == FrontendMode::Wildcard =>
            {
                let mut given = name.clone();
                while !self.names.insert(given.clone()) {
                    given = subdomain::alternative(name);
                }
                Ok(Slot::Subdomain(given))
            }
            _ => Err(StoreError::NoSuchWorker(worker)),
        }
    }
}
