//! What a route asks of a request, and when two routes ask the same.

use super::host::HostPattern;
use super::path::{PathPattern, Rest};

/// What a route asks of a request.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The route's name, for messages.
    pub name: String,
    /// The hosts it takes; none means any.
    pub hosts: Vec<HostPattern>,
    /// The paths it takes.
    pub path: PathPattern,
    /// Methods and headers.
    pub conditions: Conditions,
}

/// Two routes of which neither is more specific.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{first}` and `{second}` take the same requests ({at}): make one more specific")]
pub struct Tie {
    /// Name of one.
    pub first: String,
    /// Name of the other.
    pub second: String,
    /// Host and path they share.
    pub at: String,
}

impl Rule {
    /// The tie with another rule, if neither is more specific.
    pub fn tie(&self, other: &Self) -> Option<Tie> {
        let host = match (self.hosts.is_empty(), other.hosts.is_empty()) {
            (true, true) => "any host".to_owned(),
            (false, false) => {
                let mut both = self.hosts.iter().filter(|host| other.hosts.contains(host));
                both.next()?.to_string()
            }
            _ => return None,
        };
        let ends = |rule: &Self| rule.path.rest == Rest::None;
        let same = self.path.compared() == other.path.compared() && ends(self) == ends(other);
        (same && self.conditions.ties(&other.conditions)).then(|| Tie {
            first: (&self.name).min(&other.name).clone(),
            second: (&self.name).max(&other.name).clone(),
            at: format!("{host}, {}", other.path.shown()),
        })
    }
}

/// What a request has to be beside its host and path.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Methods it takes, upper case; none means all.
    pub methods: Vec<String>,
    /// Headers it must have.
    pub headers: Vec<HeaderCondition>,
}

/// A header a request must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Its name, lower case.
    pub name: String,
    /// Its whole value; `None` means that any will do.
    pub value: Option<String>,
}

impl Conditions {
    /// More is more specific: headers first, then methods, then exact values.
    pub fn weight(&self) -> (usize, bool, usize) {
        let values = self.headers.iter().filter(|one| one.value.is_some());
        (self.headers.len(), !self.methods.is_empty(), values.count())
    }

    /// Whether neither is more specific and a request can meet both.
    pub fn ties(&self, other: &Self) -> bool {
        self.weight() == other.weight() && self.overlap(other)
    }

    /// Whether a request can meet both.
    pub fn overlap(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|one| other.methods.contains(one));
        let headers = self
            .headers
            .iter()
            .all(|one| !other.headers.iter().any(|two| one.excludes(two)));
        methods && headers
    }
}

impl HeaderCondition {
    fn excludes(&self, other: &Self) -> bool {
        self.name == other.name
            && matches!((&self.value, &other.value), (Some(one), Some(two)) if one != two)
    }
}
