//! Log lines: text for people or JSON for collectors, the request id of the running task on each.

use std::io::{self, Write};

use env_logger::fmt::Formatter;
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Record};
use serde_json::{Map, json};

use crate::cli::LogFormat;
use crate::request_id;

/// Name of the field that carries the request id.
const REQUEST_ID: &str = "request_id";

/// Modules whose warnings are about single connections, which our own logs account for already.
const CHATTY: [&str; 2] = ["pingora_core", "pingora_proxy"];

/// Installs the process's logger. Modules of other crates are heard from `warn` up unless
/// `level` is `debug` or finer. A second call changes nothing.
pub fn install(level: LevelFilter, format: LogFormat) {
    let mut builder = env_logger::Builder::new();
    let others = if level >= LevelFilter::Debug {
        level
    } else {
        level.min(LevelFilter::Warn)
    };
    if level < LevelFilter::Debug {
        for module in CHATTY {
            builder.filter_module(module, LevelFilter::Off);
        }
    }
    builder
        .filter_level(others)
        .filter_module("patchbay", level)
        .target(env_logger::Target::Stderr)
        .format(move |out, record| match format {
            LogFormat::Text => write_text(out, record),
            LogFormat::Json => write_json(out, record),
        });
    if builder.try_init().is_err() {
        log::debug!("a logger is installed already");
    }
}

fn write_text(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    write!(
        out,
        "{} {style}{:<5}{style:#} {}: {}",
        out.timestamp_millis(),
        record.level(),
        record.target(),
        OneLine(&record.args().to_string())
    )?;
    for (key, value) in fields(record) {
        match value.as_str() {
            Some(text) => write!(out, " {key}={}", Field(text))?,
            None => write!(out, " {key}={value}")?,
        }
    }
    writeln!(out)
}

fn write_json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("time".into(), out.timestamp_millis().to_string().into());
    line.insert("level".into(), record.level().as_str().into());
    line.insert("target".into(), record.target().into());
    line.insert("message".into(), record.args().to_string().into());
    line.extend(fields(record));
    writeln!(out, "{}", serde_json::Value::Object(line))
}

/// The record's own fields, the task's request id added where the record names none.
fn fields(record: &Record<'_>) -> Map<String, serde_json::Value> {
    struct Collect(Map<String, serde_json::Value>);
    impl<'kvs> VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            let value = if let Some(number) = value.to_u64() {
                json!(number)
            } else if let Some(number) = value.to_i64() {
                json!(number)
            } else if let Some(number) = value.to_f64() {
                json!(number)
            } else if let Some(flag) = value.to_bool() {
                json!(flag)
            } else {
                json!(value.to_string())
            };
            self.0.insert(key.as_str().to_owned(), value);
            Ok(())
        }
    }
    let mut collect = Collect(Map::new());
    // Collecting into a map cannot fail.
    let _ = record.key_values().visit(&mut collect);
    if !collect.0.contains_key(REQUEST_ID)
        && let Some(id) = request_id::current()
    {
        collect.0.insert(REQUEST_ID.into(), id.as_str().into());
    }
    collect.0
}

/// Text with control characters escaped, so that no input can forge a second line.
struct OneLine<'a>(&'a str);

impl std::fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// A field's text: bare where it is one plain word, quoted otherwise.
struct Field<'a>(&'a str);

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
        if !self.0.is_empty() && self.0.chars().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_input_forges_a_second_line() {
        assert_eq!(OneLine("a\nb\tc").to_string(), "a\\nb\\tc");
        assert_eq!(Field("plain/word").to_string(), "plain/word");
        assert_eq!(Field("two words\n").to_string(), "\"two words\\n\"");
        assert_eq!(Field("").to_string(), "\"\"");
    }
}
