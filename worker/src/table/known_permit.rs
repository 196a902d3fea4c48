//! The permit a circuit's requests came with last. A circuit has one user, and thus mostly one permit
//! in use; what has been found good stays good until it expires, for the key is the process's.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use patchbay_common::permit::{PermitError, PermitKey};
use subtle::ConstantTimeEq as _;

/// Remembers it.
#[derive(Debug, Default)]
pub struct KnownPermit(ArcSwapOption<Good>);

#[derive(Debug)]
struct Good {
    value: Box<str>,
    /// Unix seconds.
    expires: u64,
}

impl KnownPermit {
    /// Whether `value` holds at `now` (Unix seconds): what `verify` says, asked once for each.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(
        &self,
        value: &str,
        now: u64,
        verify: impl FnOnce() -> Result<(), PermitError>,
    ) -> Result<(), PermitError> {
        let known = self.0.load();
        let is_known = known.as_deref().is_some_and(|good| {
            now < good.expires && bool::from(good.value.as_bytes().ct_eq(value.as_bytes()))
        });
        if is_known {
            return Ok(());
        }
        verify()?;
        if let Some(expires) = PermitKey::expiry(value) {
            self.0.store(Some(Arc::new(Good {
                value: value.into(),
                expires,
            })));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_verified_once_and_again_when_its_time_is_over() {
        let known = KnownPermit::default();
        let asked = std::cell::Cell::new(0);
        let check = |value: &str, now, verdict: Result<(), PermitError>| {
            known.check(value, now, || {
                asked.set(asked.get() + 1);
                verdict
            })
        };
        let (refused, expired) = (Err(PermitError::Foreign), Err(PermitError::Expired));
        assert_eq!(check("v1.a.100.x", 1, refused), refused);
        assert_eq!(check("v1.a.100.x", 1, Ok(())), Ok(()));
        assert_eq!(check("v1.a.100.x", 99, refused), Ok(()));
        assert_eq!(asked.get(), 2);
        assert_eq!(check("v1.a.100.y", 99, refused), refused);
        assert_eq!(check("v1.a.100.x", 100, expired), expired);
        assert_eq!(asked.get(), 4);
    }
}
