//! The house's rules about form, checked over every source file: short files, short functions,
//! names that say something, rooms that say what they are for.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Lines a file may have.
const FILE: usize = 500;
/// Lines a function may have, its first and last included.
const FUNCTION: usize = 70;
/// Names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "helpers", "misc", "manager"];
/// Where sources are.
const CRATES: [&str; 7] = [
    "agent",
    "benches",
    "common",
    "coordinator",
    "discovery",
    "tests",
    "worker",
];

fn sources() -> Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = CRATES.iter().map(|name| root.join(name)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder);
        for entry in entries.with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path)?;
                let shown = path.strip_prefix(&root).unwrap_or(&path).to_owned();
                found.push((shown, text));
            }
        }
    }
    anyhow::ensure!(found.len() > 50, "only {} files were found", found.len());
    Ok(found)
}

/// Functions that are too long, by their first line. Formatted code closes a function with a
/// brace right below the beginning of its first line.
fn long_functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let bare = line.trim_start();
        let begins = bare.starts_with("fn ")
            || (bare.starts_with("pub") || bare.starts_with("async") || bare.starts_with("const"))
                && bare.split('(').any(|part| part.contains("fn "));
        if !begins {
            continue;
        }
        let rest = &lines[number..];
        let head = rest.iter().find(|line| line.ends_with(['{', '}', ';']));
        if head.is_none_or(|line| line.ends_with([';', '}'])) {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - bare.len()]);
        let last = rest.iter().position(|line| *line == end);
        let body = last.unwrap_or_default() + 1;
        if body > FUNCTION {
            long.push((*line, body));
        }
    }
    long
}

fn is_clean(mut breaches: Vec<String>) {
    breaches.sort();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn files_are_short() -> Result<()> {
    let files = sources()?.into_iter();
    let long = files.filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > FILE).then(|| format!("{}: {lines} lines, at most {FILE}", path.display()))
    });
    is_clean(long.collect());
    Ok(())
}

#[test]
fn functions_are_short() -> Result<()> {
    let mut breaches = Vec::new();
    for (path, text) in sources()? {
        for (line, length) in long_functions(&text) {
            let (path, line) = (path.display(), line.trim());
            breaches.push(format!(
                "{path}: {length} lines, at most {FUNCTION}: {line}"
            ));
        }
    }
    is_clean(breaches);
    Ok(())
}

#[test]
fn names_say_something() -> Result<()> {
    let files = sources()?.into_iter();
    let empty = files.filter_map(|(path, _)| {
        let mut parts = path.iter().filter_map(|part| part.to_str());
        let bad = parts.find(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))?;
        Some(format!("{}: `{bad}` could hold anything", path.display()))
    });
    is_clean(empty.collect());
    Ok(())
}

#[test]
fn rooms_say_what_they_are_for() -> Result<()> {
    let files = sources()?.into_iter();
    let silent = files.filter_map(|(path, text)| {
        let is_room = path.ends_with("mod.rs") || path.ends_with("lib.rs");
        (is_room && !text.starts_with("//! "))
            .then(|| format!("{}: does not open with what the room does", path.display()))
    });
    is_clean(silent.collect());
    Ok(())
}

#[test]
fn no_path_of_anybodys_machine_is_written_down() -> Result<()> {
    // Put together here, so that this file does not name them itself.
    let homes = ["work", "root", "home"].map(|home| format!("\"/{home}/"));
    let files = sources()?.into_iter();
    let breaches = files.filter_map(|(path, text)| {
        let home = homes.iter().find(|home| text.contains(home.as_str()))?;
        Some(format!("{}: {home}…", path.display()))
    });
    is_clean(breaches.collect());
    Ok(())
}

#[test]
fn a_long_function_is_found() {
    let body = "    step();\n".repeat(FUNCTION);
    let text =
        format!("fn short() {{\n    step();\n}}\n\npub(super) async fn long(\n) {{\n{body}}}\n");
    let found = long_functions(&text);
    assert_eq!(found, [("pub(super) async fn long(", FUNCTION + 3)]);
}
