//! Work that one coordinator at a time does: watching over the workers, moving circuits, collecting
//! idle ones, forgetting what is old.
//!
//! Coordinators over one database agree by a row with an expiry; who stops renewing it, however he
//! ended, is replaced after [`LENGTH`]. All this work may be done twice without harm, so a holder
//! that is overtaken in the middle of it is no danger, only waste. The incumbent's coordinators
//! have a leader of their own (contract/events.md §5); this room stays out of its ticks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use crate::store::{Store, StoreError};

/// What the lease is called in the store.
const NAME: &str = "keeper";
/// How long a lease lasts that is not renewed.
const LENGTH: Duration = Duration::from_secs(3);
/// How often it is renewed, or asked for.
const RENEW: Duration = Duration::from_secs(1);

/// One coordinator's side of the lease.
pub struct Lease {
    store: Arc<dyn Store>,
    holder: Uuid,
    until: Mutex<Option<Instant>>,
}

impl Lease {
    /// A lease that is not held yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            holder: Uuid::new_v4(),
            until: Mutex::default(),
        }
    }

    /// Whether this coordinator is the one.
    pub fn is_held(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes the lease whenever it is free, and keeps it, until the process ends.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let had = self.is_held();
            match self.renew().await {
                Ok(has) => {
                    failing = false;
                    if has && !had {
                        log::info!("this coordinator looks after the workers now");
                    } else if had && !has {
                        log::info!("another coordinator looks after the workers now");
                    }
                }
                Err(error) if !failing => {
                    failing = true;
                    log::warn!("who looks after the workers cannot be settled for now: {error}");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes or renews it once; answers whether it is held.
    ///
    /// # Errors
    /// If the store fails. What was held is held to its end.
    pub async fn renew(&self) -> Result<bool, StoreError> {
        // By this clock it ends before it ends by the store's.
        let begin = Instant::now();
        let taken = self.store.take_lease(NAME, self.holder, LENGTH).await?;
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = taken.then(|| begin + LENGTH);
        Ok(taken)
    }

    /// Gives it back, so that another coordinator need not wait for its end.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn give_back(&self) -> Result<(), StoreError> {
        let until = self
            .until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match until {
            Some(_) => self.store.release_lease(NAME, self.holder).await,
            None => Ok(()),
        }
    }
}
