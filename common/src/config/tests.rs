use serde::Deserialize;
use std::path::PathBuf;

use super::*;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sample {
    bind_addr: Option<HostPort>,
    period: Option<Seconds>,
    size: Option<ByteSize>,
    secret: Option<Secret>,
    inner: Inner,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Inner {
    port: Option<u16>,
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn open(text: &str, environment: &[(&str, &str)]) -> Loader {
    let (_folder, path) = file(text);
    let environment = environment
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Loader::open(Some(&path), environment).unwrap()
}

fn mistakes(loader: Loader) -> Vec<String> {
    match loader.finish() {
        Err(ConfigError::Mistakes { mistakes, .. }) => {
            mistakes.into_iter().map(|mistake| mistake.key).collect()
        }
        other => panic!("expected mistakes, got {other:?}"),
    }
}

#[test]
fn both_spellings_tables_and_texts_are_read() {
    let mut loader = open(
        "[one]\nbind-addr = {host = \"::1\", port = 5}\nperiod = 2.5\nsize = \"16MiB\"\n[two]\nbind_addr = \"h:6\"\nperiod = \"5m\"\n",
        &[],
    );
    let one: Sample = loader.section("one", Strictness::Ours);
    let two: Sample = loader.section("two", Strictness::Ours);
    assert_eq!(one.bind_addr.unwrap().to_string(), "[::1]:5");
    assert_eq!(
        one.period,
        Some(Seconds(std::time::Duration::from_millis(2500)))
    );
    assert_eq!(one.size, Some(ByteSize(16 << 20)));
    assert_eq!(two.bind_addr, Some(HostPort::new("h", 6)));
    assert_eq!(two.period, Some(Seconds::from_secs(300)));
    loader.finish().unwrap();
}

#[test]
fn all_mistakes_are_reported_together() {
    let mut loader = open(
        "[one]\nbind_addr = 7\nperiod = \"soon\"\nunheard = 1\n[one.inner]\nport = 70000\n",
        &[],
    );
    let one: Sample = loader.section("one", Strictness::Ours);
    let _: Secret = loader.require("one", "secret", one.secret);
    let mut keys = mistakes(loader);
    keys.sort();
    assert_eq!(
        keys,
        [
            "one.bind_addr",
            "one.inner.port",
            "one.period",
            "one.secret",
            "one.unheard"
        ]
    );
}

#[test]
fn their_unknown_keys_pass_and_ours_do_not() {
    let mut loader = open("[theirs]\nnew = 1\n[etcd]\naddr = 1\n[unheard]\n", &[]);
    let _: Sample = loader.section("theirs", Strictness::Theirs);
    assert_eq!(loader.unknown, ["theirs.new"]);
    loader.finish().unwrap();
}

#[test]
fn the_environment_overrides_and_is_named_in_mistakes() {
    let mut loader = open(
        "[one]\nsecret = \"file\"\nperiod = 1\n",
        &[
            ("PATCHBAY_ONE__SECRET", "12345"),
            ("PATCHBAY_ONE__PERIOD", "never"),
            ("PATCHBAY_ONE__INNER__PORT", "81"),
            ("PATCHBAY_AGENT_TOKEN", "not a key"),
        ],
    );
    let one: Sample = loader.section("one", Strictness::Ours);
    assert_eq!(one.secret.unwrap().expose(), "12345");
    assert_eq!(one.inner.port, Some(81));
    let text = loader.finish().unwrap_err().to_string();
    assert!(text.contains("one.period"), "{text}");
    assert!(text.contains("PATCHBAY_ONE__PERIOD"), "{text}");
}

#[test]
fn secrets_are_masked() {
    let secret = Secret::new("hunter2");
    assert_eq!(format!("{secret:?}"), "\"***\"");
}

#[test]
fn a_missing_file_is_named() {
    let error = Loader::open(Some(std::path::Path::new("/nowhere/x.toml")), []).unwrap_err();
    assert!(error.to_string().contains("/nowhere/x.toml"));
}
