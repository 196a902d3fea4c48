//! What a user, an operator and an attacker see of Patchbay, told as stories. Every scenario
//! starts the real programs with configuration files of their own; see the harness in `src/`.
//!
//! One binary, so that it is linked once; a module per subject.

mod a_python_coordinator_is_served;
mod a_session_is_mapped_to_a_route;
mod a_thousand_endpoints_in_one_call;
mod alone;
mod an_app_that_starts_late;
mod an_operator_asks_from_a_shell;
mod answered_before_the_body;
mod apps_are_waited_for_as_asked;
mod balancers_say_who_the_client_is;
mod bodies_stream_both_ways;
mod both_engines_do_the_same;
mod certificates_are_chosen_by_name;
mod errors_for_people_and_programs;
mod figures_for_alarms;
mod gateway_asks_who_is_there;
mod gateway_checks_foreign_tokens;
mod gateway_compresses;
mod gateway_finds_containers;
mod gateway_routes_to_services;
mod gateway_watches_streams;
mod grpc_through_a_circuit;
mod hop_by_hop_headers_stay_here;
mod http1_case_by_case;
mod http2_frame_by_frame;
mod idle_circuits_are_collected;
mod inference_asks_for_a_token;
mod malformed_requests_are_refused;
mod messages_and_tokens_are_told;
mod mistakes_are_reported_at_check;
mod open_an_app_by_port;
mod open_an_app_by_subdomain;
mod ports_known_by_other_numbers;
mod relayed_by_the_coordinator;
mod request_id_is_carried;
mod revoked_grants_end;
mod routes_tell_how_they_are;
mod strangers_are_refused;
mod tunnels_are_upstreams;
mod tunnels_ask_visitors;
mod tunnels_at_several_gateways;
mod tunnels_by_long_polling;
mod tunnels_on_the_dashboard;
mod websocket_through_a_circuit;
mod what_became_of_a_request;
mod without_redis_the_stream_carries_events;

/// Writes a measured figure past the test runner, which keeps what scenarios print to itself.
fn report_figure(figure: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    // A figure that cannot be shown fails nothing.
    let _ = writeln!(std::io::stderr(), "    {figure}");
}
