//! From a service's name to the subdomain it is served under
//! (contract/rest-coordinator.md §8, the incumbent's rule).

use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

/// Longest DNS label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// What is kept of a taken name in front of the hyphen and eight random digits.
const COLLISION_STEM: usize = 54;

/// The label for a preferred name; `None` if nothing usable is left of it.
pub fn normalize(preferred: &str) -> Option<String> {
    let text: String = preferred.nfc().collect();
    let text: String = text
        .trim()
        .to_lowercase()
        .chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '-' => c,
            c if c.is_ascii() => '-',
            c => c,
        })
        .collect();
    let label = if text.is_ascii() {
        collapse_hyphens(&text)
    } else {
        format!("xn--{}", punycode::encode(&text).ok()?)
    };
    let label: String = label.chars().take(MAX_LABEL).collect();
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// A label for who has no preference.
pub fn random() -> String {
    format!("app-{}", random_suffix())
}

/// Another label to try when `taken` is.
pub fn alternative(taken: &str) -> String {
    let stem: String = taken.chars().take(COLLISION_STEM).collect();
    let stem = match stem.trim_matches('-') {
        "" => "app",
        stem => stem,
    };
    format!("{stem}-{}", random_suffix())
}

fn random_suffix() -> String {
    format!("{:08x}", Uuid::new_v4().as_fields().0)
}

fn collapse_hyphens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '-' || !out.ends_with('-') {
            out.push(c);
        }
    }
    out
}
