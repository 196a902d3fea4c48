//! Which route a request takes: by host, then path, then method and headers.
//!
//! A router is built once from the whole configuration and then only read. The more exact host
//! wins, then the path pattern that names more, then the one with more conditions; a route whose
//! method or headers do not fit is passed over for the next best. Two routes of which neither is
//! more specific are refused when it is built. It refuses to know what routes lead to.

#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;

use ahash::RandomState;

pub use patchbay_common::gateway::host::bare as bare_host;
pub use patchbay_common::gateway::path::{MAX_SEGMENTS, PathError, Segments, after as path_after};
pub use patchbay_common::gateway::{
    Conditions, HeaderCondition, HostPattern, PathPattern, Rule, Tie, host,
};

use crate::stage::Head;
use tree::Tree;

/// All routes; answers with a route's index in the list it was built from.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<String, Tree, RandomState>,
    /// By the suffix with its leading dot.
    suffix: HashMap<String, Tree, RandomState>,
    any: Tree,
}

impl Router {
    /// Builds it.
    ///
    /// # Errors
    /// Every tie.
    pub fn build(rules: &[Rule]) -> Result<Self, Vec<Tie>> {
        let mut router = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            if rule.hosts.is_empty() {
                router.any.insert(index, rule);
            }
            for host in &rule.hosts {
                router.tree(host).insert(index, rule);
            }
        }
        let mut ties = Vec::new();
        router.any.settle(rules, "any host", &mut ties);
        for (host, tree) in &mut router.exact {
            tree.settle(rules, host, &mut ties);
        }
        for (suffix, tree) in &mut router.suffix {
            tree.settle(rules, &format!("*{suffix}"), &mut ties);
        }
        ties.sort_by(|a, b| (&a.first, &a.second).cmp(&(&b.first, &b.second)));
        ties.dedup_by(|a, b| a.first == b.first && a.second == b.second);
        if ties.is_empty() {
            Ok(router)
        } else {
            Err(ties)
        }
    }

    fn tree(&mut self, host: &HostPattern) -> &mut Tree {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Suffix(suffix) => self.suffix.entry(suffix.clone()).or_default(),
        }
    }

    /// The route for a request to `host` (without its port) at `path`.
    pub fn route(&self, host: &str, path: &Segments<'_>, head: &Head<'_>) -> Option<usize> {
        if !self.exact.is_empty() || !self.suffix.is_empty() {
            let mut name = [0; host::MAX_NAME];
            if let Some(name) = host::lower_case(host, &mut name)
                && let Some(found) = self.by_name(name, path, head)
            {
                return Some(found);
            }
        }
        self.any.find(path, head)
    }

    fn by_name(&self, name: &str, path: &Segments<'_>, head: &Head<'_>) -> Option<usize> {
        let exact = self.exact.get(name).and_then(|tree| tree.find(path, head));
        if exact.is_some() || self.suffix.is_empty() {
            return exact;
        }
        // From the longest suffix to the shortest.
        name.match_indices('.').find_map(|(at, _)| {
            let tree = self.suffix.get(name.get(at..)?).filter(|_| at > 0)?;
            tree.find(path, head)
        })
    }
}
