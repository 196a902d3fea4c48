//! The document against the route table, in both directions, and against the file in `docs/`.

use std::collections::BTreeSet;
use std::path::Path;

use super::{document, operations, schemas};

/// The paths of the route table, as its source writes them: the router cannot be asked.
fn routed() -> BTreeSet<&'static str> {
    let sources = [include_str!("../routes.rs")];
    let calls = sources.into_iter().flat_map(|text| text.split(".route("));
    calls
        .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
        .collect()
}

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    let routed = routed();
    let described: BTreeSet<&str> = operations::all().map(|one| one.path).collect();
    assert!(
        routed.len() > 25,
        "the route table was not understood: {routed:?}"
    );
    let missing: Vec<_> = routed.difference(&described).collect();
    let stale: Vec<_> = described.difference(&routed).collect();
    assert!(
        missing.is_empty(),
        "not in openapi/operations.rs: {missing:?}"
    );
    assert!(stale.is_empty(), "no such route: {stale:?}");
}

#[test]
fn operations_are_described_once() {
    let mut seen = BTreeSet::new();
    for operation in operations::all() {
        assert!(seen.insert(operation.id()), "{} twice", operation.id());
    }
}

#[test]
fn every_schema_that_is_named_exists() {
    let text = document().to_string();
    let all = schemas::all();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap_or_default();
        assert!(all.get(name).is_some(), "no schema is called {name}");
    }
}

/// `PATCHBAY_BLESS=1 cargo test -p patchbay-coordinator openapi` writes the file anew.
#[test]
fn the_file_in_docs_is_what_is_served() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = format!("{:#}\n", document());
    if std::env::var_os("PATCHBAY_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == text,
        "docs/openapi.json is not what is served: run this test once with PATCHBAY_BLESS=1"
    );
}

#[test]
fn the_page_needs_no_other_server() {
    let page = super::PAGE;
    assert!(page.contains("fetch(\"openapi.json\")"));
    assert!(page.contains("color-scheme: light dark"));
    for outside in ["http://", "https://", "//cdn", "src="] {
        assert!(!page.contains(outside), "the page loads from {outside}");
    }
}
