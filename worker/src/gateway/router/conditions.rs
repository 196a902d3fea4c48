//! Methods and headers a route asks for.

use crate::stage::Head;

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
    pub(super) fn hold(&self, head: &Head<'_>) -> bool {
        let method = self.methods.is_empty() || self.methods.iter().any(|one| one == head.method);
        method && self.headers.iter().all(|one| one.holds(head))
    }

    /// More is more specific: headers first, then methods, then exact values.
    pub(super) fn weight(&self) -> (usize, bool, usize) {
        let values = self.headers.iter().filter(|one| one.value.is_some());
        (self.headers.len(), !self.methods.is_empty(), values.count())
    }

    /// Whether a request can meet both.
    pub(super) fn overlap(&self, other: &Self) -> bool {
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
    fn holds(&self, head: &Head<'_>) -> bool {
        let Some(wanted) = &self.value else {
            return head.headers.get(&self.name).is_some();
        };
        let mut found = false;
        head.headers.each(&self.name, &mut |value| {
            found |= value == wanted.as_bytes();
        });
        found
    }

    fn excludes(&self, other: &Self) -> bool {
        self.name == other.name
            && matches!((&self.value, &other.value), (Some(one), Some(two)) if one != two)
    }
}
