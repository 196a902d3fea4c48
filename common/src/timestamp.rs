//! The time form of the JSON wires: RFC 3339 in UTC with `Z`, six fractional digits when they are
//! not all zero (contract/rest-coordinator.md §1).

use chrono::{DateTime, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serializer};

/// The wire text of a point in time.
pub fn format(at: &DateTime<Utc>) -> String {
    let digits = if at.nanosecond() / 1_000 == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Micros
    };
    at.to_rfc3339_opts(digits, true)
}

/// Now, cut to the microseconds that PostgreSQL and the wires keep.
pub fn now() -> DateTime<Utc> {
    let now = Utc::now();
    let micros = now.nanosecond() / 1_000 * 1_000;
    now.with_nanosecond(micros).unwrap_or(now)
}

/// For `#[serde(with = "timestamp")]`: writes the wire form.
pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(at))
}

/// For `#[serde(with = "timestamp")]`: reads any RFC 3339 text.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    DateTime::<Utc>::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_is_absent_or_six_digits() {
        let whole: DateTime<Utc> = "2026-11-20T15:36:50Z".parse().unwrap();
        let tenth: DateTime<Utc> = "2026-11-20T15:36:50.1Z".parse().unwrap();
        assert_eq!(format(&whole), "2026-11-20T15:36:50Z");
        assert_eq!(format(&tenth), "2026-11-20T15:36:50.100000Z");
    }
}
