//! Services of the gateway: what the store keeps of them, and the promise of both stores.
//!
//! All services share one generation. A change commits three things together: the service, the next
//! generation, and the row of the log that tells what was done, by whom and why.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use patchbay_common::gateway::{Definition, Origin, Published};

use super::stored::{corrupt, generation};
use super::{Actor, Cause, Reason, Result, StoreError};

/// Most services kept, of all origins together.
pub const MAX_SERVICES: usize = 10_000;

/// How a service is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceChange {
    /// Its name.
    pub name: String,
    /// Who says so.
    pub origin: Origin,
    /// What it is to be; `None` if it is to be gone.
    pub definition: Option<Definition>,
}

/// A service that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredService {
    /// The service.
    pub published: Published,
    /// Since when it is so.
    pub updated_at: DateTime<Utc>,
}

/// All services as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceList {
    /// The services, by name and origin.
    pub services: Vec<StoredService>,
    /// The generation they stand at.
    pub generation: u64,
}

/// A committed change of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedService {
    /// What is so since.
    pub published: Published,
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// Why.
    pub cause: Cause,
}

/// Which changes are wanted. What is absent matches all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFilter {
    /// Of the services of this name.
    pub name: Option<String>,
    /// Not earlier.
    pub since: Option<DateTime<Utc>>,
    /// Earlier.
    pub until: Option<DateTime<Utc>>,
    /// Of lower generations: that of the last row of the page before.
    pub before: Option<u64>,
}

/// The part of a store that keeps services. Two implementations, one test-suite (`contract`).
#[async_trait]
pub trait ServiceStore: Send + Sync + 'static {
    /// All services; all of one name, if it is given.
    async fn services(&self, name: Option<&str>) -> Result<ServiceList>;
    /// Makes services as they are to be, in one transaction. What is so already is passed over;
    /// answers with what was changed, each under a generation of its own.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] if there would be more than [`MAX_SERVICES`]; nothing is changed then.
    async fn change_services(
        &self,
        changes: &[ServiceChange],
        cause: &Cause,
    ) -> Result<Vec<LoggedService>>;
    /// How many changes services have seen.
    async fn services_generation(&self) -> Result<u64>;
    /// The changes after a generation, oldest first, at most `limit`. `None` if the log no longer
    /// reaches back that far: everything has to be fetched.
    async fn service_changes_after(
        &self,
        generation: u64,
        limit: usize,
    ) -> Result<Option<Vec<LoggedService>>>;
    /// The changes that match, the newest first, at most `limit`.
    async fn service_changes(
        &self,
        filter: &ServiceFilter,
        limit: usize,
    ) -> Result<Vec<LoggedService>>;
    /// Forgets changes committed before `before`, the oldest first, at most `limit`; answers how
    /// many.
    async fn prune_service_changes(&self, before: DateTime<Utc>, limit: usize) -> Result<u64>;
}

/// A definition as it is stored.
pub(super) fn written(definition: &Definition) -> Result<String> {
    serde_json::to_string(definition).map_err(|problem| StoreError::Unfit {
        field: "service",
        problem: problem.to_string(),
    })
}

/// Refuses more services than are kept.
pub(super) fn bound(count: i64) -> Result<()> {
    if usize::try_from(count).is_ok_and(|count| count <= MAX_SERVICES) {
        return Ok(());
    }
    Err(StoreError::Unfit {
        field: "name",
        problem: format!("there are {MAX_SERVICES} services already: delete some"),
    })
}

/// A row of `patchbay_services`: name, origin, generation, definition, `updated_at`.
pub(super) type Row = (String, String, i64, String, DateTime<Utc>);

/// The services of rows. One that cannot be read (a later release's) is left out, with a line in
/// the log.
pub(super) fn readable(rows: impl IntoIterator<Item = Row>) -> Vec<StoredService> {
    let read = |row: Row| {
        let name = row.0.clone();
        service(row)
            .map_err(|error| log::error!("service {name} is left out: {error}"))
            .ok()
    };
    rows.into_iter().filter_map(read).collect()
}

fn service((name, origin, since, definition, updated_at): Row) -> Result<StoredService> {
    let published = published(name, &origin, since, Some(&definition))?;
    Ok(StoredService {
        published,
        updated_at,
    })
}

/// A row of `patchbay_service_changes`.
pub(super) struct ChangeRow {
    pub(super) generation: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) name: String,
    pub(super) origin: String,
    pub(super) definition: Option<String>,
    pub(super) actor: String,
    pub(super) reason: String,
    pub(super) detail: Option<String>,
    pub(super) request_id: Option<String>,
}

/// Its columns, in the order of [`ChangeRow`].
pub(super) const COLUMNS: &str = "c.generation, c.at, c.name, c.origin, c.definition, c.actor, \
     c.reason, c.detail, c.request_id";

impl ChangeRow {
    fn read(self) -> Result<LoggedService> {
        let since = self.generation;
        let unknown = |column: &str, word: &str| {
            let place = format!("patchbay_service_changes.{column} of {since}");
            corrupt(place, format!("unknown word {word}"))
        };
        let definition = self.definition.as_deref();
        let mut published = published(self.name, &self.origin, since, definition)?;
        published.request_id.clone_from(&self.request_id);
        Ok(LoggedService {
            published,
            at: self.at,
            cause: Cause {
                actor: Actor::from_text(&self.actor)
                    .ok_or_else(|| unknown("actor", &self.actor))?,
                reason: Reason::from_text(&self.reason)
                    .ok_or_else(|| unknown("reason", &self.reason))?,
                detail: self.detail,
                request_id: self.request_id,
            },
        })
    }
}

/// The changes of rows; those that cannot be read are left out, with a line in the log for each.
pub(super) fn readable_changes(rows: impl IntoIterator<Item = ChangeRow>) -> Vec<LoggedService> {
    let read = |row: ChangeRow| {
        row.read()
            .map_err(|error| log::error!("a change of a service is left out: {error}"))
            .ok()
    };
    rows.into_iter().filter_map(read).collect()
}

/// The changes after `after`, if `rows`, ordered, hold all of them up to the limit and all can be
/// read; `current` is the generation now.
pub(super) fn unbroken(
    rows: Vec<ChangeRow>,
    after: u64,
    current: u64,
    limit: usize,
) -> Option<Vec<LoggedService>> {
    let expected = usize::try_from(current.checked_sub(after)?)
        .ok()?
        .min(limit);
    let changes = readable_changes(rows);
    let numbers = changes.iter().map(|change| change.published.generation);
    let gapless = numbers.zip(after + 1..).all(|(one, next)| one == next);
    (changes.len() == expected && gapless).then_some(changes)
}

fn published(
    name: String,
    origin: &str,
    since: i64,
    definition: Option<&str>,
) -> Result<Published> {
    let place = || format!("the service {name} of {origin}");
    let origin = origin.parse().map_err(|error| corrupt(place(), error))?;
    let definition = definition.map(serde_json::from_str).transpose();
    let definition = definition.map_err(|error: serde_json::Error| corrupt(place(), error))?;
    Ok(Published {
        generation: generation(since)?,
        origin,
        definition,
        request_id: None,
        name,
    })
}
