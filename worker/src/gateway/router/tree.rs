//! The paths of one host, as a tree of segments.

use std::collections::HashMap;

use ahash::RandomState;

use patchbay_common::gateway::path::{Part, Rest};

use super::{Conditions, HeaderCondition, Rule, Segments, Tie};
use crate::stage::Head;

/// A node: the routes that end here, and those below.
#[derive(Debug, Default)]
pub(super) struct Tree {
    texts: HashMap<String, Tree, RandomState>,
    parameter: Option<Box<Tree>>,
    /// Routes whose path ends here, the more specific first.
    here: Vec<Entry>,
    /// Routes that take what is below, and, as prefixes, this path too.
    below: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    route: usize,
    rest: Rest,
    conditions: Conditions,
}

impl Tree {
    pub(super) fn insert(&mut self, route: usize, rule: &Rule) {
        let mut node = self;
        for part in &rule.path.parts {
            node = match part {
                Part::Text(text) => node.texts.entry(text.clone()).or_default(),
                Part::Parameter => node.parameter.get_or_insert_default(),
            };
        }
        let entry = Entry {
            route,
            rest: rule.path.rest,
            conditions: rule.conditions.clone(),
        };
        match entry.rest {
            Rest::None => node.here.push(entry),
            Rest::Below | Rest::Prefix => node.below.push(entry),
        }
    }

    /// Sorts every list and notes the ties in it.
    pub(super) fn settle(&mut self, rules: &[Rule], host: &str, ties: &mut Vec<Tie>) {
        for list in [&mut self.here, &mut self.below] {
            list.sort_by_key(|entry| std::cmp::Reverse(entry.conditions.weight()));
            for (at, one) in list.iter().enumerate() {
                let weight = one.conditions.weight();
                let equals = list[at + 1..]
                    .iter()
                    .take_while(|two| two.conditions.weight() == weight);
                for two in equals.filter(|two| one.conditions.overlap(&two.conditions)) {
                    let (Some(first), Some(second)) = (rules.get(one.route), rules.get(two.route))
                    else {
                        continue;
                    };
                    if one.route == two.route {
                        continue;
                    }
                    ties.push(Tie {
                        first: (&first.name).min(&second.name).clone(),
                        second: (&first.name).max(&second.name).clone(),
                        at: format!("{host}, {}", second.path.shown()),
                    });
                }
            }
        }
        for tree in self.texts.values_mut() {
            tree.settle(rules, host, ties);
        }
        if let Some(tree) = &mut self.parameter {
            tree.settle(rules, host, ties);
        }
    }

    pub(super) fn find(&self, path: &Segments<'_>, head: &Head<'_>) -> Option<usize> {
        self.descend(path, 0, head)
    }

    /// Every node is visited once at most, so a request costs no more than the tree is deep where
    /// patterns are plain, and no more than it is large at worst.
    fn descend(&self, path: &Segments<'_>, depth: usize, head: &Head<'_>) -> Option<usize> {
        let first = |list: &[Entry], wanted: &dyn Fn(Rest) -> bool| {
            list.iter()
                .find(|entry| wanted(entry.rest) && hold(&entry.conditions, head))
                .map(|entry| entry.route)
        };
        let deeper = match path.get(depth) {
            Some(segment) => self
                .texts
                .get(segment)
                .and_then(|tree| tree.descend(path, depth + 1, head))
                .or_else(|| self.parameter.as_ref()?.descend(path, depth + 1, head)),
            None if path.ends_in_slash() => self
                .texts
                .get("")
                .and_then(|tree| first(&tree.here, &|_| true)),
            None => first(&self.here, &|_| true),
        };
        deeper.or_else(|| {
            let below = path.goes_below(depth);
            first(&self.below, &|rest| below || rest == Rest::Prefix)
        })
    }
}

/// Whether a request is as a route asks.
fn hold(conditions: &Conditions, head: &Head<'_>) -> bool {
    let methods = &conditions.methods;
    let method = methods.is_empty() || methods.iter().any(|one| one == head.method);
    method && conditions.headers.iter().all(|one| holds(one, head))
}

fn holds(condition: &HeaderCondition, head: &Head<'_>) -> bool {
    let Some(wanted) = &condition.value else {
        return head.headers.get(&condition.name).is_some();
    };
    let mut found = false;
    head.headers.each(&condition.name, &mut |value| {
        found |= value == wanted.as_bytes();
    });
    found
}
