//! Find, read, overlay, deserialise. Mistakes are gathered, not thrown one by one.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_path_to_error::{Segment, Track};
use toml::{Table, Value};

/// Prefix of environment variables that override single keys.
const ENV_PREFIX: &str = "PATCHBAY_";
/// Environment variable that names the file, as the incumbent reads it.
const FILE_VARIABLE: &str = "BACKEND_CONFIG_FILE";

/// Sections and keys of the incumbent that mean nothing here (contract/config.md §2–4).
const INERT: &[&str] = &[
    "core_redis",
    "debug",
    "etcd",
    "logging.console",
    "logging.drivers",
    "logging.file",
    "logging.graylog",
    "logging.logstash",
    "logging.pkg_ns",
    "otel",
    "profiling",
    "proxy_coordinator.aiomonitor_termui_port",
    "proxy_coordinator.aiomonitor_webui_port",
    "proxy_coordinator.distributed_lock",
    "proxy_coordinator.enable_traefik",
    "proxy_coordinator.event_loop",
    "proxy_coordinator.group",
    "proxy_coordinator.health_check_timer_interval",
    "proxy_coordinator.ipc_base_path",
    "proxy_coordinator.pid_file",
    "proxy_coordinator.redlock_config",
    "proxy_coordinator.traefik",
    "proxy_coordinator.user",
    "proxy_worker.aiomonitor_termui_port",
    "proxy_worker.aiomonitor_webui_port",
    "proxy_worker.announce_addr",
    "proxy_worker.client_pool_cleanup_interval",
    "proxy_worker.event_loop",
    "proxy_worker.group",
    "proxy_worker.http2",
    "proxy_worker.ipc_base_path",
    "proxy_worker.pid_file",
    "proxy_worker.traefik",
    "proxy_worker.user",
    "pyroscope",
    "redis.redis_helper_config",
    "service_discovery",
];

/// Sections of ours whose keys are names (of services, of headers) and read as they are written.
const VERBATIM: &[&str] = &["gateway"];

/// Where a program's configuration file may be.
#[derive(Clone, Copy, Debug)]
pub struct Discovery {
    /// File names without `.toml`, the preferred first.
    pub names: &'static [&'static str],
}

/// One thing an operator has to fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Dotted key.
    pub key: String,
    /// What is wrong and how to mend it.
    pub problem: String,
}

impl Mistake {
    /// A mistake at a dotted key.
    pub fn new(key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            problem: problem.to_string(),
        }
    }

    /// A mistake told as `key: problem`.
    pub fn of_line(line: &str) -> Self {
        let (key, problem) = line.split_once(": ").unwrap_or((line, "is not usable"));
        Self::new(key, problem)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: is not valid TOML: {cause}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Where and why.
        cause: Box<toml::de::Error>,
    },
    /// The file or the environment says something that cannot be.
    #[error("{}", Lines(file, mistakes))]
    Mistakes {
        /// The file's name, or a word for there being none.
        file: String,
        /// All of them.
        mistakes: Vec<Mistake>,
    },
}

struct Lines<'a>(&'a str, &'a [Mistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Mistake { key, problem }) in self.1.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}: {key}: {problem}", self.0)?;
        }
        Ok(())
    }
}

/// What happens to keys nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// A section of the incumbent's file: they are named in a warning.
    Theirs,
    /// A section of ours: they are mistakes.
    Ours,
}

impl Discovery {
    /// The file to read; `None` if none of the usual places has one.
    ///
    /// An explicit path wins, then `BACKEND_CONFIG_FILE`; neither has to exist here, so that a
    /// missing one is reported when it is read (contract/config.md §1).
    pub fn find(&self, explicit: Option<&Path>) -> Option<PathBuf> {
        if let Some(path) = explicit {
            return Some(path.to_owned());
        }
        if let Some(path) = std::env::var_os(FILE_VARIABLE) {
            return Some(path.into());
        }
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let mut folders = vec![PathBuf::from(".")];
        if let Ok(here) = std::env::current_dir() {
            let below_home = here
                .ancestors()
                .skip(1)
                .take_while(|folder| home.as_deref().is_none_or(|home| folder.starts_with(home)));
            folders.extend(
                below_home
                    .filter(|folder| folder.join("BUILD_ROOT").is_file())
                    .map(Path::to_owned),
            );
        }
        folders.extend(home.map(|home| home.join(".config/backend.ai")));
        folders.extend(["/etc/patchbay", "/etc/backend.ai"].map(PathBuf::from));
        folders
            .iter()
            .flat_map(|folder| {
                self.names
                    .iter()
                    .map(move |name| folder.join(format!("{name}.toml")))
            })
            .find(|path| path.is_file())
    }
}

/// The environment, without what is not text: no key of ours could be meant by it.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads sections out of one file, overlaid with the environment, and gathers what is wrong.
#[derive(Debug)]
pub struct Loader {
    file: String,
    table: Table,
    /// Overrides by path: the variable and its text.
    overrides: HashMap<Vec<String>, (String, String)>,
    mistakes: Vec<Mistake>,
    inert: Vec<String>,
    pub(super) unknown: Vec<String>,
}

impl Loader {
    /// Reads `file` (or starts from nothing) and overlays `environment`
    /// (`PATCHBAY_<SECTION>__<KEY>`, deeper keys with more `__`).
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML.
    pub fn open(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = file.map(std::fs::read_to_string).transpose();
        let text = text.map_err(|cause| ConfigError::Unreadable {
            file: file.unwrap_or(Path::new("")).to_owned(),
            cause,
        })?;
        let table: Table =
            toml::from_str(&text.unwrap_or_default()).map_err(|cause| ConfigError::Syntax {
                file: file.unwrap_or(Path::new("")).to_owned(),
                cause: Box::new(cause),
            })?;
        let mut loader = Self {
            file: file.map_or_else(|| "(no file)".into(), |path| path.display().to_string()),
            table: Table::new(),
            overrides: HashMap::new(),
            mistakes: Vec::new(),
            inert: Vec::new(),
            unknown: Vec::new(),
        };
        loader.table = loader.snake_case(table, "");
        for (variable, text) in environment {
            loader.overlay(&variable, text);
        }
        Ok(loader)
    }

    /// Both spellings of a key are read; a file that uses both for one key contradicts itself.
    fn snake_case(&mut self, table: Table, parent: &str) -> Table {
        let mut out = Table::new();
        for (key, value) in table {
            if parent.is_empty() && VERBATIM.contains(&key.as_str()) {
                out.insert(key, value);
                continue;
            }
            let name = key.replace('-', "_");
            let path = join(parent, &name);
            let value = match value {
                Value::Table(inner) => Value::Table(self.snake_case(inner, &path)),
                Value::Array(items) => Value::Array(
                    items
                        .into_iter()
                        .map(|item| match item {
                            Value::Table(inner) => Value::Table(self.snake_case(inner, &path)),
                            other => other,
                        })
                        .collect(),
                ),
                other => other,
            };
            if out.insert(name, value).is_some() {
                self.mistake(Mistake::new(
                    path,
                    "is given twice, with - and with _: keep one",
                ));
            }
        }
        out
    }

    fn overlay(&mut self, variable: &str, text: String) {
        let Some(path) = variable.strip_prefix(ENV_PREFIX) else {
            return;
        };
        let path: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        if path.len() < 2 || path.iter().any(String::is_empty) {
            return;
        }
        let value = toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(text.clone()));
        if put(&mut self.table, &path, value) {
            self.overrides.insert(path, (variable.to_owned(), text));
        } else {
            let key = path.join(".");
            self.mistake(Mistake::new(
                key,
                format!("{variable} reaches into a value"),
            ));
        }
    }

    /// Whether the file or the environment has the section.
    pub fn has(&self, section: &str) -> bool {
        self.table.contains_key(section)
    }

    /// Takes a section. Keys that do not fit are noted and count as not given.
    pub fn section<T: DeserializeOwned + Default>(&mut self, name: &str, keys: Strictness) -> T {
        let mut section = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(Mistake::new(
                    name,
                    format!("must be a section: write [{name}]"),
                ));
                return T::default();
            }
        };
        loop {
            let mut unknown = Vec::new();
            let mut track = Track::new();
            let value = Value::Table(section.clone());
            let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
            let result: Result<T, toml::de::Error> =
                serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
            match result {
                Ok(parsed) => {
                    self.note_unknown(name, unknown, keys);
                    return parsed;
                }
                Err(error) => {
                    let path = track.path();
                    if !self.set_aside(name, &mut section, path.iter(), error.message()) {
                        return T::default();
                    }
                }
            }
        }
    }

    /// Notes what is wrong at `path` and takes it out of the section, so that the next round can
    /// find the next mistake. A value from the environment is first tried as plain text.
    fn set_aside<'a>(
        &mut self,
        name: &str,
        section: &mut Table,
        path: impl Iterator<Item = &'a Segment>,
        problem: &str,
    ) -> bool {
        let keys: Vec<String> = path
            .map_while(|segment| match segment {
                Segment::Map { key } => Some(key.clone()),
                _ => None,
            })
            .collect();
        let mut full = vec![name.to_owned()];
        full.extend(keys.iter().cloned());
        let mut problem = problem.trim().to_owned();
        if let Some((variable, text)) = self.overrides.get(&full) {
            if !matches!(get(section, &keys), Some(Value::String(_))) {
                return put(section, &keys, Value::String(text.clone()));
            }
            problem = format!("{problem} (set by {variable})");
        }
        self.mistake(Mistake::new(full.join("."), problem));
        take(section, &keys)
    }

    fn note_unknown(&mut self, section: &str, unknown: Vec<String>, keys: Strictness) {
        for key in unknown {
            let path = join(section, &key);
            if is_inert(&path) {
                self.inert.push(path);
            } else if keys == Strictness::Theirs {
                self.unknown.push(path);
            } else {
                self.mistake(Mistake::new(
                    path,
                    "is not a key of this section: remove it or mend its name",
                ));
            }
        }
    }

    /// Notes a mistake found by the caller.
    pub fn mistake(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    /// Whether something wrong is known at this key or below it.
    pub fn is_mistaken(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| {
            mistake
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// The value, or its default and a note that the key is missing.
    pub fn require<T: Default>(&mut self, section: &str, key: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.mistake(Mistake::new(join(section, key), "is missing: set it"));
            T::default()
        })
    }

    /// Ends the reading: all mistakes at once, or one warning that names what was passed over.
    ///
    /// # Errors
    /// [`ConfigError::Mistakes`] if there were any.
    pub fn finish(mut self) -> Result<(), ConfigError> {
        for section in std::mem::take(&mut self.table).keys() {
            if is_inert(section) {
                self.inert.push(section.clone());
            } else {
                self.unknown.push(section.clone());
            }
        }
        if !self.mistakes.is_empty() {
            return Err(ConfigError::Mistakes {
                file: self.file,
                mistakes: self.mistakes,
            });
        }
        if !self.unknown.is_empty() {
            log::warn!(
                "{}: unknown keys are ignored: {}",
                self.file,
                self.unknown.join(", ")
            );
        }
        if !self.inert.is_empty() {
            log::warn!(
                "{}: settings without a meaning here: {}",
                self.file,
                self.inert.join(", ")
            );
        }
        Ok(())
    }
}

fn is_inert(path: &str) -> bool {
    INERT.iter().any(|inert| {
        path.strip_prefix(inert)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

fn get<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    match (rest, value) {
        ([], value) => Some(value),
        (rest, Value::Table(inner)) => get(inner, rest),
        _ => None,
    }
}

/// Sets the value at a path, making tables on the way; false if a plain value is in the way.
fn put(table: &mut Table, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [key] => {
            table.insert(key.clone(), value);
            true
        }
        [key, rest @ ..] => match table
            .entry(key.clone())
            .or_insert_with(|| Value::Table(Table::new()))
        {
            Value::Table(inner) => put(inner, rest, value),
            _ => false,
        },
    }
}

/// Removes the value at a path; false if there is none.
fn take(table: &mut Table, path: &[String]) -> bool {
    match path {
        [] => false,
        [key] => table.remove(key).is_some(),
        [key, rest @ ..] => match table.get_mut(key) {
            Some(Value::Table(inner)) => take(inner, rest) || table.remove(key).is_some(),
            _ => table.remove(key).is_some(),
        },
    }
}
