//! What both stores check before they touch a schema: whether the history of migrations found in
//! the database is a beginning of the one this program carries.

use refinery::Migration;

use super::{Result, StoreError};

/// The table that holds the history of Patchbay's migrations.
pub(super) const HISTORY: &str = "patchbay_schema_history";

/// Reads the history; the same words in both databases.
pub(super) const READ_HISTORY: &str =
    "SELECT version, name, checksum FROM patchbay_schema_history ORDER BY version";

/// An applied migration, as the history tells it.
pub(super) struct Applied {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) checksum: String,
}

/// Whether nothing is left to do.
///
/// # Errors
/// [`StoreError::UnknownSchema`] if the history holds what this program does not know.
pub(super) fn is_current(applied: &[Applied], known: &[Migration]) -> Result<bool> {
    let latest = known.iter().map(Migration::version).max().unwrap_or(0);
    for one in applied {
        match known.iter().find(|m| m.version() == one.version) {
            Some(m) if m.checksum().to_string() == one.checksum => {}
            Some(_) => {
                return Err(unknown(
                    format!("version {} in another wording ({})", one.version, one.name),
                    latest,
                    "it was made by another build; use that build, or start with a new database",
                ));
            }
            None => {
                return Err(unknown(
                    format!("version {} ({})", one.version, one.name),
                    latest,
                    "it was made by a later release; use that release or a later one",
                ));
            }
        }
    }
    Ok(applied.len() == known.len())
}

/// A refusal, in terms of Patchbay's own versions.
pub(super) fn unknown(found: impl Into<String>, latest: i32, fix: &str) -> StoreError {
    StoreError::UnknownSchema {
        found: found.into(),
        known: format!("versions up to {latest}"),
        fix: fix.to_owned(),
    }
}
