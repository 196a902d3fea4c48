use std::time::Duration;

use serde_json::Value;

use super::*;
use crate::test_vectors::vectors;

const SECRETS: &str = "[secrets]\napi_secret = \"a\"\njwt_secret = \"j\"\n";

fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.toml");
    std::fs::write(&file, text).unwrap();
    let loaded = Config::from_file(Some(&file), [], &CommonArgs::default());
    loaded.map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}: ", file.display()), "")
    })
}

#[test]
fn secrets_are_all_it_needs() {
    let config = load(SECRETS).unwrap();
    assert_eq!(config.bind.to_string(), "0.0.0.0:6030");
    assert_eq!(config.advertise_url, "http://0.0.0.0:6030");
    assert_eq!(config.announce.to_string(), "0.0.0.0:6030");
    assert!(matches!(config.database, Database::Sqlite { .. }));
    assert!(config.redis.is_none() && config.tls.is_none());
    assert!(!config.allow_unauthorized_configure);
    assert_eq!(config.worker_timeout, Duration::from_secs(30));
    assert_eq!(config.metric_access.len(), 2);
    assert_eq!(config.server.body_limit.0, 16 * 1024 * 1024);
    assert_eq!(
        config.server.acknowledgement_timeout.0,
        Duration::from_secs(15)
    );
}

#[test]
fn a_file_of_the_incumbent_is_read() {
    let config = load(&format!(
        "{SECRETS}
        [db]
        type = \"postgresql\"
        name = \"appproxy\"
        user = \"appproxy\"
        password = \"develove\"
        pool_size = 3
        max_overflow = 64
        pool_recycle = -1
        pool_pre_ping = true
        addr = {{ host = \"localhost\", port = 8100 }}
        [redis]
        addr = {{ host = \"localhost\", port = 8110 }}
        [proxy_coordinator]
        bind-addr = {{ host = \"127.0.0.1\", port = 10200 }}
        tls_listen = false
        allow_unauthorized_configure_request = true
        enable_traefik = false
        metric_access_allowed_hosts = \"10.0.0.0/8\"
        aiomonitor_termui_port = 48500
        [permit_hash]
        secret = \"p\"
        digest_mod = \"sha256\""
    ))
    .unwrap();
    let Database::Postgres(database) = &config.database else {
        panic!("not PostgreSQL: {:?}", config.database);
    };
    assert_eq!((database.port, database.pool_size), (8100, 3));
    assert!(config.redis.is_some() && config.allow_unauthorized_configure);
    assert_eq!(config.metric_access, ["10.0.0.0/8".parse().unwrap()]);
    assert!(!format!("{config:?}").contains("develove"));
}

#[test]
fn all_mistakes_come_together() {
    let mistakes = load(
        "[secrets]\napi_secret = \"a\"\n
        [db]\ntype = \"mysql\"\n
        [server]\nbody_limit = 0\nthread = 1\n
        [proxy_coordinator]\nmetric_access_allowed_hosts = [\"10.0.0.0/99\"]\n
        tls_listen = true\ntls_cert = \"/nonexistent/cert.pem\"\n
        worker_heartbeat_timeout = 0",
    )
    .unwrap_err();
    let keys: Vec<&str> = mistakes
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    for key in [
        "secrets.jwt_secret",
        "db.type",
        "server.body_limit",
        "server.thread",
        "proxy_coordinator.metric_access_allowed_hosts",
        "proxy_coordinator.tls_cert",
        "proxy_coordinator.tls_privkey",
        "proxy_coordinator.worker_heartbeat_timeout",
    ] {
        assert!(keys.contains(&key), "{key} is not in {mistakes}");
    }
    assert_eq!(keys.len(), 8, "{mistakes}");
}

#[test]
fn postgresql_needs_its_address() {
    let mistakes = load(&format!(
        "{SECRETS}[db]\ntype = \"postgresql\"\npool_size = 0"
    ))
    .unwrap_err();
    for key in [
        "db.addr",
        "db.name",
        "db.user",
        "db.password",
        "db.pool_size",
    ] {
        assert!(mistakes.contains(key), "{key} is not in {mistakes}");
    }
}

#[test]
fn the_advertised_address_as_the_incumbent_builds_it() {
    let address = |text: &Value| {
        let (host, port) = text.as_str()?.rsplit_once(':')?;
        Some(HostPort::new(host, port.parse().ok()?))
    };
    for case in vectors()["advertise_base_url"].as_array().unwrap() {
        let section = ProxyCoordinator {
            bind_addr: address(&case["bind"]).unwrap(),
            advertised_addr: address(&case["advertised"]),
            tls_listen: case["tls_listen"].as_bool().unwrap(),
            tls_advertised: case["tls_advertised"].as_bool().unwrap(),
            ..ProxyCoordinator::default()
        };
        assert_eq!(advertise_url(&section), case["url"], "{case}");
    }
}
