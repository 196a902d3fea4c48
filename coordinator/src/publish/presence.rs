//! The record by which the Manager lists this coordinator among Prometheus' targets
//! (contract/events.md §7).

use std::time::Duration;

use patchbay_common::config::HostPort;
use serde_json::json;
use uuid::Uuid;

use super::redis::Redis;

/// The group that the Manager knows coordinators by.
const GROUP: &str = "appproxy-coordinator";
/// How often the record is renewed, and for how long it lasts.
const RENEW: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(180);
/// Until the next try where Redis did not take it.
const PAUSE: Duration = Duration::from_secs(5);

/// One process' record.
#[derive(Debug)]
pub struct Presence {
    id: Uuid,
    name: String,
    address: HostPort,
    since: f64,
}

impl Presence {
    /// The record of the process of this name, whose metrics are at this address.
    pub fn new(name: &str, address: HostPort) -> Self {
        Self {
            id: Uuid::new_v4(),
            name: format!("{GROUP}-{name}"),
            address,
            since: now(),
        }
    }

    /// Keeps the record in Redis until the process ends.
    pub async fn keep(&self, redis: &Redis) {
        let key = format!("service_discovery.{GROUP}.{}", self.id);
        loop {
            let left = redis.leave_record(&key, &self.fields(now()), LASTS).await;
            if let Err(error) = &left {
                log::debug!("the record of this process cannot be left in redis: {error}");
            }
            tokio::time::sleep(if left.is_ok() { RENEW } else { PAUSE }).await;
        }
    }

    /// Its fields; every value is a JSON text.
    fn fields(&self, now: f64) -> [(&'static str, String); 7] {
        let (host, port) = (&self.address.host, self.address.port);
        let endpoint = json!({
            "address": host, "port": port, "protocol": "http",
            "prometheus_address": self.address.to_string(),
        });
        let health = json!({"registration_time": self.since, "last_heartbeat": now});
        [
            ("id", json!(self.id).to_string()),
            ("display_name", json!(self.name).to_string()),
            ("service_group", json!(GROUP).to_string()),
            ("version", json!(env!("CARGO_PKG_VERSION")).to_string()),
            ("endpoint", endpoint.to_string()),
            ("health_status", health.to_string()),
            ("labels", json!({}).to_string()),
        ]
    }
}

fn now() -> f64 {
    chrono::Utc::now().timestamp_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_the_incumbents_fields() {
        let presence = Presence::new("one", HostPort::new("10.0.0.1", 10_200));
        let fields = presence.fields(presence.since + 60.0);
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let expected = [
            "id",
            "display_name",
            "service_group",
            "version",
            "endpoint",
            "health_status",
            "labels",
        ];
        assert_eq!(names, expected);
        assert_eq!(fields[1].1, "\"appproxy-coordinator-one\"");
        let endpoint: serde_json::Value = serde_json::from_str(&fields[4].1).unwrap();
        assert_eq!(
            endpoint,
            json!({"address": "10.0.0.1", "port": 10_200, "protocol": "http",
                "prometheus_address": "10.0.0.1:10200"})
        );
    }
}
