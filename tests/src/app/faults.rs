//! Ways in which an app is unwell, switched on and off by a scenario.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use axum::extract::State;
use http::StatusCode;

use super::Book;

/// What ails the app.
#[derive(Debug)]
pub(super) struct Faults {
    every_other: AtomicBool,
    turn: AtomicUsize,
    check: AtomicU16,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            every_other: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            check: AtomicU16::new(200),
        }
    }
}

impl Faults {
    pub(super) fn fail_every_other(&self, fails: bool) {
        self.every_other.store(fails, Ordering::SeqCst);
    }

    pub(super) fn answer_checks(&self, status: u16) {
        self.check.store(status, Ordering::SeqCst);
    }

    /// Whether this request fails.
    pub(super) fn strikes(&self) -> bool {
        self.every_other.load(Ordering::SeqCst)
            && self.turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)
    }
}

/// Answers a health check.
pub(super) async fn check(State(book): State<Book>) -> StatusCode {
    let status = book.faults.check.load(Ordering::SeqCst);
    StatusCode::from_u16(status).unwrap_or_default()
}

/// Never answers.
pub(super) async fn never() -> StatusCode {
    std::future::pending().await
}
