//! Committed changes as announcements: the same facts that the log of events holds.

use std::sync::Arc;

use patchbay_common::event::{Change, CircuitEvent};
use patchbay_common::id::WorkerId;
use patchbay_common::{request_id, timestamp};

use crate::publish::Announcement;
use crate::store::{Closed, LoggedEvent, Opened, Rerouted};

/// A circuit is to be served.
pub(super) fn opened(opened: &Opened) -> Announcement {
    let change = Change::Created(vec![opened.circuit.clone()]);
    let announcement = announce(
        opened.worker.id,
        &opened.worker.authority,
        opened.generation,
        change,
    );
    Announcement {
        again: opened.reused,
        ..announcement
    }
}

/// A circuit is gone.
pub(super) fn removed(closed: &Closed) -> Announcement {
    let change = Change::Removed(vec![closed.circuit.clone()]);
    let worker = closed.circuit.worker;
    announce(worker, &closed.authority, closed.generation, change)
}

/// A circuit has other routes.
pub(super) fn rerouted(rerouted: &Rerouted) -> Announcement {
    let circuit = &rerouted.circuit;
    let change = Change::RouteUpdated(Box::new(circuit.clone()), circuit.route_info.clone());
    announce(
        circuit.worker,
        &rerouted.authority,
        rerouted.generation,
        change,
    )
}

fn announce(worker: WorkerId, authority: &str, generation: u64, change: Change) -> Announcement {
    let event = LoggedEvent {
        worker,
        generation,
        event: CircuitEvent {
            authority: authority.to_owned(),
            change,
        },
        request_id: request_id::current().map(|id| id.as_str().to_owned()),
        created_at: timestamp::now(),
    };
    Announcement {
        event: Arc::new(event),
        again: false,
    }
}
