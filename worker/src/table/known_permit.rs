//! The permit a circuit's requests came with last. A circuit has one user, and thus mostly one permit
//! in use; what has been found good stays good until it expires, for the key is the process's.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use patchbay_common::permit::{Permit, PermitError, PermitKey};
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
    /// What `value` says, if it holds at `now` (Unix seconds) as `verify` finds, asked once for each.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check<'v>(
        &self,
        value: &'v str,
        now: u64,
        verify: impl FnOnce() -> Result<Permit<'v>, PermitError>,
    ) -> Result<Permit<'v>, PermitError> {
        let known = self.0.load();
        let is_known = known.as_deref().is_some_and(|good| {
            now < good.expires && bool::from(good.value.as_bytes().ct_eq(value.as_bytes()))
        });
        if is_known && let Some(permit) = PermitKey::said(value) {
            return Ok(permit);
        }
        let permit = verify()?;
        self.0.store(Some(Arc::new(Good {
            value: value.into(),
            expires: permit.expires,
        })));
        Ok(permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_verified_once_and_again_when_its_time_is_over() {
        let known = KnownPermit::default();
        let asked = std::cell::Cell::new(0);
        let check = |value, now, verdict: Result<(), PermitError>| {
            let verify = || {
                asked.set(asked.get() + 1);
                verdict.map(|()| PermitKey::said(value).unwrap())
            };
            known.check(value, now, verify).map(|permit| permit.grant)
        };
        let (refused, expired) = (Err(PermitError::Foreign), Err(PermitError::Expired));
        let (no, over) = (Err(PermitError::Foreign), Err(PermitError::Expired));
        assert_eq!(check("v1.a.100.x", 1, refused), no);
        assert_eq!(check("v1.a.100.x", 1, Ok(())), Ok("a"));
        assert_eq!(check("v1.a.100.x", 99, refused), Ok("a"));
        assert_eq!(asked.get(), 2);
        assert_eq!(check("v1.a.100.y", 99, refused), no);
        assert_eq!(check("v1.a.100.x", 100, expired), over);
        assert_eq!(asked.get(), 4);
    }
}
