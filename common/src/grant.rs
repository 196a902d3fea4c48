//! Grants: the right to use a circuit, by the name it can be revoked by.
//!
//! A setup token, the ticket and the permit that come of it, and an endpoint's token each carry a
//! name (`jti`). What comes of a grant keeps its name, so that a revoked setup token makes no new
//! permit. Names we give are UUIDs that tell when (version 7), so that everything given before a
//! moment can be revoked without a list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

/// Longest name.
pub const MAX_NAME: usize = 128;
/// Most names one circuit's list holds; beyond, everything given so far has to be revoked.
pub const MAX_NAMES: usize = 256;

/// A right to use a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant<'a> {
    /// What it is called.
    pub name: Cow<'a, str>,
    /// When it was given, in Unix milliseconds, where it says so.
    pub given: Option<u64>,
}

impl<'a> Grant<'a> {
    /// The grant of this name.
    pub fn named(name: impl Into<Cow<'a, str>>) -> Self {
        let name = name.into();
        let given = given_at(&name);
        Self { name, given }
    }

    /// The grant of a token: called as its `jti` says, else by the token's SHA-256; `issued` is
    /// its `iat` in Unix seconds.
    pub fn of_token(token: &str, jti: Option<String>, issued: Option<u64>) -> Self {
        let named = match jti.filter(|jti| is_name(jti)) {
            Some(jti) => Self::named(jti),
            None => Self::named(fingerprint(token)),
        };
        let issued = issued.map(|seconds| seconds.saturating_mul(1_000));
        Self {
            given: named.given.or(issued),
            name: Cow::Owned(named.name.into_owned()),
        }
    }
}

/// A name for a grant that is given now (RFC 9562 §5.7).
pub fn new_name() -> Uuid {
    let mut random = [0; 10];
    random.copy_from_slice(&Uuid::new_v4().as_bytes()[..10]);
    Builder::from_unix_timestamp_millis(now_millis(), &random).into_uuid()
}

/// Now, in Unix milliseconds.
pub fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Whether a text can name a grant: 1 to 128 visible characters of ASCII, of which none is the
/// dot that ends the name in a permit.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'.')
}

fn given_at(name: &str) -> Option<u64> {
    let id = Uuid::try_parse(name).ok()?;
    let time = u64::from_be_bytes(*id.as_bytes().first_chunk()?);
    (id.get_version_num() == 7).then_some(time >> 16)
}

fn fingerprint(token: &str) -> String {
    let mut name = String::from("sha256:");
    for byte in Sha256::digest(token) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// The grants of a circuit that count no more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// All that were given up to this moment, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<u64>,
    /// Names, and the Unix second from which each would not count anyway.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, Option<u64>>,
}

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The grant of this name, which ends by itself at this Unix second, if it ever does.
    Name(String, Option<u64>),
    /// All that were given up to this moment, in Unix milliseconds.
    UpTo(u64),
}

/// The list of a circuit is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_NAMES} grants of this circuit are revoked by name already: revoke all of them")]
pub struct Full;

impl Revocations {
    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.up_to.is_none() && self.names.is_empty()
    }

    /// Whether a grant counts no more at `now` (Unix seconds). One that does not say when it was
    /// given was given before any moment.
    pub fn denies(&self, grant: &Grant<'_>, now: u64) -> bool {
        let before = |up_to: u64| grant.given.is_none_or(|given| given <= up_to);
        let named = self.names.get(&*grant.name);
        self.up_to.is_some_and(before)
            || named.is_some_and(|ends| ends.is_none_or(|ends| ends > now))
    }

    /// Adds to the list, and drops from it what would not count any more at `now`.
    ///
    /// # Errors
    /// [`Full`].
    pub fn add(&mut self, revocation: &Revocation, now: u64) -> Result<(), Full> {
        match revocation {
            Revocation::UpTo(moment) => {
                self.up_to = self.up_to.max(Some(*moment));
                let up_to = self.up_to;
                self.names
                    .retain(|name, _| given_at(name).is_none_or(|given| Some(given) > up_to));
            }
            Revocation::Name(name, ends) => {
                self.names.retain(|_, ends| ends.is_none_or(|at| at > now));
                if self.names.len() >= MAX_NAMES && !self.names.contains_key(name) {
                    return Err(Full);
                }
                self.names.insert(name.clone(), *ends);
            }
        }
        Ok(())
    }

    /// Takes over what another list has more. Nothing is ever taken off a list but by time, so
    /// that a peer who knows no lists takes nothing back. Beyond the bound everything is revoked.
    pub fn merge(&mut self, other: &Self, now: u64) {
        self.up_to = self.up_to.max(other.up_to);
        for (name, ends) in &other.names {
            let one = Revocation::Name(name.clone(), *ends);
            if self.add(&one, now).is_err() {
                self.up_to = Some(now_millis());
                self.names.clear();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_ours_tells_when_it_was_given() {
        let before = now_millis();
        let name = new_name().to_string();
        let given = Grant::named(name.as_str()).given.unwrap();
        assert!((before..=now_millis()).contains(&given));
        assert_eq!(Grant::named(Uuid::new_v4().to_string()).given, None);
        assert_ne!(new_name(), new_name());
    }

    #[test]
    fn a_token_without_a_name_goes_by_its_hash() {
        let token = Grant::of_token("a.b.c", None, Some(5));
        assert!(token.name.starts_with("sha256:") && token.name.len() == 71);
        assert_eq!(token.given, Some(5_000));
        assert_eq!(Grant::of_token("x", Some("j-1".into()), None).name, "j-1");
    }

    #[test]
    fn names_and_moments_deny() {
        let mut list = Revocations::default();
        assert!(!list.denies(&Grant::named("a"), 0) && list.is_empty());
        list.add(&Revocation::Name("a".into(), Some(10)), 0)
            .unwrap();
        assert!(list.denies(&Grant::named("a"), 9) && !list.denies(&Grant::named("a"), 10));
        assert!(!list.denies(&Grant::named("b"), 0));
        let early = new_name().to_string();
        let moment = now_millis();
        list.add(&Revocation::UpTo(moment), 0).unwrap();
        assert!(list.denies(&Grant::named(early), 0));
        assert!(list.denies(&Grant::named("undated"), 0));
        let late = Grant {
            name: "late".into(),
            given: Some(moment + 1),
        };
        assert!(!list.denies(&late, 0));
    }

    #[test]
    fn a_list_is_bounded_and_sheds_what_time_has_ended() {
        let mut list = Revocations::default();
        for number in 0..MAX_NAMES {
            let ends = (number == 0).then_some(100);
            list.add(&Revocation::Name(number.to_string(), ends), 50)
                .unwrap();
        }
        let one_more = Revocation::Name("more".into(), None);
        assert_eq!(list.add(&one_more, 50), Err(Full));
        list.add(&one_more, 100).unwrap();
        assert_eq!(list.names.len(), MAX_NAMES);
    }

    #[test]
    fn nothing_is_taken_back_by_a_list_that_has_less() {
        let mut list = Revocations::default();
        list.add(&Revocation::Name("a".into(), None), 0).unwrap();
        list.merge(&Revocations::default(), 0);
        assert!(list.denies(&Grant::named("a"), 0));
        let many = (0..MAX_NAMES).map(|number| (format!("n{number}"), None));
        let many = Revocations {
            up_to: None,
            names: many.collect(),
        };
        list.merge(&many, 0);
        assert!(list.denies(&Grant::named("a"), 0), "fails closed");
        assert!(list.names.is_empty());
    }

    #[test]
    fn it_is_written_short() {
        let mut list = Revocations::default();
        assert_eq!(serde_json::to_string(&list).unwrap(), "{}");
        list.add(&Revocation::Name("a".into(), None), 0).unwrap();
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, r#"{"names":{"a":null}}"#);
        assert_eq!(serde_json::from_str::<Revocations>(&text).unwrap(), list);
    }
}
