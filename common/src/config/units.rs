//! Values with units: durations, byte sizes, addresses.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration: a number of seconds, or a text such as `250ms`, `30s`, `5m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub Duration);

impl Seconds {
    /// This many whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.collect_str(&format_args!("{}s", self.0.as_secs())),
            nanos if nanos % 1_000_000 == 0 => {
                serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
            }
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_any(NumberWithUnit {
            what: "a number of seconds, or a text such as \"30s\" or \"5m\"",
            units: &[
                ("ms", 0.001),
                ("s", 1.0),
                ("m", 60.0),
                ("h", 3_600.0),
                ("d", 86_400.0),
            ],
        })?;
        Duration::try_from_secs_f64(number)
            .map(Self)
            .map_err(|_| de::Error::custom("the duration must not be negative or absurdly long"))
    }
}

/// A number of bytes: a number, or a text such as `64KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = deserializer.deserialize_any(NumberWithUnit {
            what: "a number of bytes, or a text such as \"64KiB\" or \"16MiB\"",
            units: &[
                ("KiB", 1024.0),
                ("MiB", 1_048_576.0),
                ("GiB", 1_073_741_824.0),
                ("B", 1.0),
            ],
        })?;
        if !(0.0..=9e15).contains(&number) {
            return Err(de::Error::custom("the size is out of range"));
        }
        // In range and whole enough: sizes are configured, not computed.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(number as u64))
    }
}

struct NumberWithUnit {
    what: &'static str,
    units: &'static [(&'static str, f64)],
}

impl Visitor<'_> for NumberWithUnit {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<f64, E> {
        self.visit_f64(number as f64)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<f64, E> {
        self.visit_f64(number as f64)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<f64, E> {
        if number.is_finite() && number >= 0.0 {
            Ok(number)
        } else {
            Err(E::custom("the number must not be negative"))
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
        let text = text.trim();
        let (digits, factor) = self
            .units
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1.0));
        let number: f64 = digits
            .trim()
            .parse()
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))?;
        self.visit_f64(number * factor)
    }
}

/// A host and a port: a table `{host, port}` as in the incumbent's files, or `"host:port"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostPort {
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// TCP port; 0 asks the system for a free one.
    pub port: u16,
}

impl HostPort {
    /// A host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Parses `host:port`, `[::1]:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return None;
        }
        Some(Self::new(host, port.parse().ok()?))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HostPortVisitor;
        impl<'de> Visitor<'de> for HostPortVisitor {
            type Value = HostPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{ host = \"…\", port = … } or \"host:port\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HostPort, E> {
                HostPort::parse(text)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HostPort, A::Error> {
                #[derive(Deserialize)]
                struct Table {
                    host: String,
                    port: u16,
                }
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(HostPort::new(table.host, table.port))
            }
        }
        deserializer.deserialize_any(HostPortVisitor)
    }
}
