//! The load rig's programs live in `src/bin`: the origin every proxy of `scripts/bench` leads to,
//! and a bare Pingora proxy to measure Patchbay against; criterion's benchmarks in `benches`. This
//! library holds what they share.

use std::collections::HashMap;
use std::net::SocketAddr;

use patchbay_common::circuit::{AppMode, Circuit, Slot};
use serde_json::json;
use uuid::Uuid;

/// A circuit with one route, as the coordinator would send it.
///
/// # Errors
/// If the wire form has changed and this was forgotten.
pub fn circuit(slot: &Slot, app_mode: AppMode) -> serde_json::Result<Circuit> {
    let (frontend_mode, port, subdomain) = match slot {
        Slot::Port(port) => ("port", Some(port), None),
        Slot::Subdomain(name) => ("wildcard", None, Some(name)),
    };
    serde_json::from_value(json!({
        "id": Uuid::new_v4(),
        "app": "jupyter",
        "protocol": "http",
        "worker": Uuid::new_v4(),
        "app_mode": app_mode,
        "frontend_mode": frontend_mode,
        "envs": {},
        "port": port,
        "subdomain": subdomain,
        "user_id": Uuid::new_v4(),
        "route_info": [{
            "session_id": Uuid::new_v4(),
            "kernel_host": "10.10.0.5",
            "kernel_port": 30729,
            "protocol": "http",
            "traffic_ratio": 1.0,
        }],
        "session_ids": [Uuid::new_v4()],
        "created_at": "2026-11-20T15:36:50Z",
        "updated_at": "2026-11-20T15:36:50Z",
    }))
}

/// Reads `--name ADDRESS` pairs of a command line.
///
/// # Errors
/// A sentence that names the argument at fault.
pub fn addresses(
    arguments: impl IntoIterator<Item = String>,
) -> Result<HashMap<String, SocketAddr>, String> {
    let mut arguments = arguments.into_iter();
    let mut found = HashMap::new();
    while let Some(flag) = arguments.next() {
        let name = flag
            .strip_prefix("--")
            .ok_or_else(|| format!("{flag}: write --NAME ADDRESS:PORT"))?;
        let value = arguments
            .next()
            .ok_or_else(|| format!("{flag}: needs an address"))?;
        let address = value
            .parse()
            .map_err(|_| format!("{flag} {value}: write it as 127.0.0.1:8080"))?;
        found.insert(name.to_owned(), address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn reads_pairs_and_names_what_is_wrong() {
        let given = ["--listen", "127.0.0.1:1", "--upstream", "[::1]:2"].map(str::to_owned);
        let found = addresses(given).unwrap();
        assert_eq!(found["listen"].port(), 1);
        assert_eq!(found["upstream"].port(), 2);
        let given = ["--listen", "nowhere"].map(str::to_owned);
        assert!(addresses(given).unwrap_err().contains("nowhere"));
        let given = ["--listen".to_owned()];
        assert!(addresses(given).unwrap_err().contains("--listen"));
    }
}
