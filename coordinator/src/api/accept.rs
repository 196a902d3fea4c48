//! What the client's `Accept` can take, by the incumbent's literal matching
//! (contract/rest-coordinator.md §4): split at commas, cut at semicolons, no blanks trimmed.

use http::HeaderMap;
use http::header::ACCEPT;

const JSON: &str = "application/json";

/// JSON will do: there is no `Accept`, or it names JSON or a wildcard that covers it.
pub(crate) fn takes_json(headers: &HeaderMap) -> bool {
    !headers.contains_key(ACCEPT)
        || any(headers, |range| {
            matches!(range, JSON | "application/*" | "*/*")
        })
}

/// JSON is asked for by name.
pub(crate) fn names_json(headers: &HeaderMap) -> bool {
    any(headers, |range| range == JSON)
}

fn any(headers: &HeaderMap, matches: impl Fn(&str) -> bool) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| matches(range.split(';').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_vectors::vectors;

    #[test]
    fn matches_like_the_incumbent() {
        for case in vectors()["accept_match_json"].as_array().unwrap() {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, case["accept"].as_str().unwrap().parse().unwrap());
            assert_eq!(takes_json(&headers), case["loose"], "{case}");
            assert_eq!(names_json(&headers), case["strict"], "{case}");
        }
        assert!(takes_json(&HeaderMap::new()));
        assert!(!names_json(&HeaderMap::new()));
    }
}
