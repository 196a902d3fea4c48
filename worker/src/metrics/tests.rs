use std::sync::Arc;
use std::time::Duration;

use super::{Metrics, RequestFacts};
use crate::error::Refusal;
use crate::frontend::ConnectionGate;
use crate::sync::trial::{FakeCoordinator, circuit, config};
use crate::sync::{Everywhere, Link};
use crate::table::Table;

fn facts() -> RequestFacts<'static> {
    RequestFacts {
        status: 200,
        bytes_in: 3,
        bytes_out: 5,
        duration: Duration::from_millis(20),
        first_byte: Some(Duration::from_millis(10)),
        refusal: None,
        client_gone: false,
        spliced: false,
        client: None,
        kernel: None,
    }
}

#[tokio::test]
async fn says_what_happened_in_our_names_and_in_theirs() {
    let coordinator = FakeCoordinator::start().await;
    coordinator.commit(patchbay_common::event::Change::Created(vec![circuit(
        10_205,
    )]));
    let table = Arc::new(Table::new());
    let config = config(coordinator.address, "");
    let link = Link::start(&config, Arc::clone(&table), Arc::new(Everywhere)).unwrap();
    link.ready().await;
    let gate = Arc::new(ConnectionGate::new(0));
    let metrics = Metrics::new(&table, &Arc::new(link), &gate, None).unwrap();

    metrics.request_finished(&facts());
    metrics.request_finished(&RequestFacts {
        status: 502,
        first_byte: None,
        refusal: Some(&Refusal::UpstreamConnect),
        ..facts()
    });
    metrics.request_finished(&RequestFacts {
        status: 499,
        client_gone: true,
        ..facts()
    });
    // The app's own 499 is no sign of a client that went away.
    metrics.request_finished(&RequestFacts {
        status: 499,
        ..facts()
    });
    metrics.tcp_opened().carried(7, 9);
    let open = metrics.websocket_opened();
    let code = Some("agent_read_not-found");
    metrics.api_finished(("GET", "/setup"), 404, code, Duration::ZERO);

    let text = metrics.render();
    for line in [
        "patchbay_requests_total{class=\"2xx\"} 1",
        "patchbay_requests_total{class=\"4xx\"} 1",
        "patchbay_requests_total{class=\"5xx\"} 1",
        "patchbay_requests_total{class=\"client_gone\"} 1",
        "patchbay_upstream_errors_total{kind=\"connect\"} 1",
        "patchbay_refusals_total{error_code=\"kernel_access_unreachable\"} 1",
        "patchbay_received_bytes_total{kind=\"http\"} 12",
        "patchbay_sent_bytes_total{kind=\"tcp\"} 9",
        "patchbay_circuits 1",
        "patchbay_sync_generation 1",
        "patchbay_ready 1",
        "appproxy_requests_received_http_total{remote=\"\"} 4",
        "appproxy_proxy_request_iteration_duration_http_count{remote=\"\"} 4",
        "appproxy_connections_closed_tcp_total 1",
        "appproxy_connection_processed_traffics_tcp_total 16",
        "appproxy_pending_connections_ws 1",
        "appproxy_alive_circuits{protocol=\"HTTP\"} 1",
        "backendai_api_request_count_total{domain=\"agent\",endpoint=\"/setup\",\
         error_detail=\"not-found\",method=\"GET\",operation=\"read\",status_code=\"404\"} 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\nin\n{text}");
    }
    drop(open);
    let text = metrics.render();
    assert!(text.contains("appproxy_pending_connections_ws 0"));
}
