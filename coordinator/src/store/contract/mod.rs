//! What a store promises, asked of all of them: SQLite in memory and in a file, and PostgreSQL.
//!
//! Each case gets a [`Bench`]: an empty store, and a second instance on the same data as another
//! coordinator would have it. What only one database can show is in `sqlite_files` and `takeover`.

mod audit;
mod disturbances;
mod endpoints;
mod fleet;
mod grants;
mod log;
mod openings;
mod reports;
mod services;
mod sessions;
mod sharing;
mod sqlite_files;
mod takeover;
mod tunnels;
mod workers;

use std::sync::Arc;

use patchbay_common::circuit::{AppMode, FrontendMode, Protocol};
use patchbay_common::config::Secret;
use patchbay_common::id::{CircuitId, SessionId, WorkerId};
use patchbay_common::route::Route;
use patchbay_common::worker::{Registration, Worker};
use patchbay_tests::postgres::Database;

use super::{
    Actor, Cause, NewCircuit, Opened, PostgresConfig, PostgresStore, Reason, Result, SlotWish,
    SqliteStore, Store,
};

/// An empty store to try.
struct Bench {
    store: Arc<dyn Store>,
    /// Another instance on the same data, where the data can have two.
    other: Arc<dyn Store>,
    place: Place,
}

enum Place {
    Memory,
    File(tempfile::TempDir),
    Server(Database),
}

impl Bench {
    async fn in_memory() -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory());
        store.migrate().await.unwrap();
        Self {
            other: Arc::clone(&store),
            store,
            place: Place::Memory,
        }
    }

    async fn in_a_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.db");
        let store = SqliteStore::open(&path).unwrap();
        store.migrate().await.unwrap();
        Self {
            store: Arc::new(store),
            other: Arc::new(SqliteStore::open(&path).unwrap()),
            place: Place::File(folder),
        }
    }

    async fn in_postgres() -> Self {
        let database = Database::create().await.unwrap();
        let store = connect(&database);
        store.migrate().await.unwrap();
        Self {
            store: Arc::new(store),
            other: Arc::new(connect(&database)),
            place: Place::Server(database),
        }
    }

    fn is_server(&self) -> bool {
        matches!(self.place, Place::Server(_))
    }

    /// Runs SQL behind the store's back; `false` where there is no way.
    async fn behind_its_back(&self, sql: &str) -> bool {
        match &self.place {
            Place::Memory => return false,
            Place::File(folder) => {
                let path = folder.path().join("coordinator.db");
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.execute_batch(sql).unwrap();
            }
            Place::Server(database) => {
                let client = database.connect().await.unwrap();
                client.batch_execute(sql).await.unwrap();
            }
        }
        true
    }
}

fn connect(database: &Database) -> PostgresStore {
    let (host, port, name) = database.place();
    PostgresStore::connect(PostgresConfig {
        host: host.to_owned(),
        port,
        name: name.to_owned(),
        user: "postgres".to_owned(),
        password: Secret::new("any"),
        pool_size: 8,
    })
    .unwrap()
}

/// A worker that gives out ports.
fn port_worker(authority: &str, range: (u16, u16)) -> Registration {
    Registration {
        authority: authority.to_owned(),
        frontend_mode: FrontendMode::Port,
        protocol: Protocol::Http,
        hostname: "worker.example".to_owned(),
        tls_listen: false,
        tls_advertised: true,
        api_port: 10201,
        accepted_traffics: vec![AppMode::Interactive],
        filtered_apps_only: false,
        app_filters: Vec::new(),
        traefik_last_used_marker_path: None,
        port_range: Some(range),
        wildcard_domain: None,
        wildcard_traffic_port: None,
        node_id: None,
    }
}

/// A worker that gives out subdomains.
fn wildcard_worker(authority: &str, domain: &str) -> Registration {
    Registration {
        frontend_mode: FrontendMode::Wildcard,
        port_range: None,
        wildcard_domain: Some(domain.to_owned()),
        wildcard_traffic_port: Some(10250),
        ..port_worker(authority, (1, 1))
    }
}

fn circuit_on(worker: WorkerId, slot: SlotWish) -> NewCircuit {
    let session = SessionId::random();
    NewCircuit {
        id: CircuitId::random(),
        worker,
        slot,
        app: Some("jupyter".to_owned()),
        protocol: Protocol::Http,
        app_mode: AppMode::Interactive,
        envs: serde_json::Map::new(),
        arguments: None,
        open_to_public: false,
        allowed_client_ips: None,
        user_id: None,
        endpoint_id: None,
        runtime_variant: None,
        routes: vec![Route {
            route_id: None,
            session_id: session,
            session_name: None,
            kernel_host: Some("10.10.0.5".to_owned()),
            kernel_port: 30729,
            protocol: Protocol::Http,
            traffic_ratio: 1.0,
        }],
        session_ids: vec![session],
        origin_request_id: Some("req-1".to_owned()),
        by: Actor::Session,
        reuse: None,
    }
}

async fn open(store: &dyn Store, worker: &Worker, slot: SlotWish) -> Result<Opened> {
    store.open_circuit(&circuit_on(worker.id, slot)).await
}

/// A change that the Manager asks for with this request.
fn asked(request_id: &str) -> Cause {
    Cause {
        request_id: Some(request_id.to_owned()),
        ..nobody()
    }
}

/// A change that no request asks for.
fn nobody() -> Cause {
    Cause::now(Actor::Manager, Reason::Requested)
}

fn subdomain(name: &str) -> SlotWish {
    SlotWish::Subdomain(name.to_owned())
}

macro_rules! on_every_store {
    ($($room:ident :: $case:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $case() {
                super::$room::$case(super::Bench::in_memory().await).await;
            })+
        }

        mod in_a_file {
            $(#[tokio::test]
            async fn $case() {
                super::$room::$case(super::Bench::in_a_file().await).await;
            })+
        }

        mod in_postgres {
            $(#[tokio::test]
            async fn $case() {
                super::$room::$case(super::Bench::in_postgres().await).await;
            })+
        }
    };
}

on_every_store! {
    openings::a_circuit_comes_back_as_it_was_opened,
    openings::the_lowest_free_port_is_given,
    openings::a_port_is_given_once,
    openings::a_full_worker_is_full,
    openings::a_slot_of_the_wrong_kind_is_refused,
    openings::workers_of_one_domain_share_its_names,
    openings::two_hundred_openers_get_two_hundred_ports,
    openings::openers_of_one_name_get_it_once,
    openings::closing_is_done_once,
    openings::a_broken_row_costs_only_itself,
    openings::what_no_column_holds_is_refused,
    openings::the_counter_of_the_incumbent_stays_above_zero,
    sharing::openers_at_once_share_one_circuit,
    sharing::only_an_equal_circuit_is_shared,
    workers::a_registration_replaces_the_one_before,
    workers::nodes_are_counted_by_name,
    workers::nodes_without_a_name_are_counted_one_by_one,
    workers::silence_makes_a_worker_lost,
    workers::registering_at_once_makes_one_worker,
    workers::names_move_with_the_domain,
    workers::tokens_are_kept,
    workers::old_tokens_are_forgotten,
    openings::long_open_circuits_of_people_are_listed_by_page,
    log::events_add_up_to_the_circuits,
    log::the_log_knows_how_far_it_reaches,
    log::events_are_published_once,
    log::acknowledgements_only_grow,
    audit::every_change_leaves_a_row,
    audit::what_fails_leaves_no_row,
    audit::rows_are_filtered_and_paged,
    audit::old_rows_are_forgotten,
    fleet::circuits_move_with_both_workers_told,
    fleet::what_cannot_move_stays,
    fleet::silent_nodes_no_longer_count,
    fleet::one_holder_at_a_time,
    sessions::circuits_are_found_by_what_they_are,
    sessions::a_circuit_leads_elsewhere,
    grants::revocations_are_kept_and_told,
    grants::a_full_list_takes_no_more,
    sessions::a_session_ends_with_all_it_had,
    endpoints::many_open_in_their_order_and_only_once,
    endpoints::nothing_is_kept_of_a_call_that_fails,
    endpoints::health_checks_are_replaced,
    endpoints::health_checks_reach_the_workers,
    tunnels::a_tunnel_has_one_owner,
    tunnels::claims_of_one_name_at_once_have_one_winner,
    reports::each_node_has_one_report,
    reports::circuits_and_waiting_events_are_counted,
    reports::circuits_of_endpoints_are_paged,
    endpoints::routes_come_change_and_go,
    endpoints::endpoints_and_circuits_end_together,
    services::a_service_comes_back_as_it_was_put,
    services::every_change_has_a_number_and_a_reason,
    services::changers_at_once_get_different_numbers,
    services::old_changes_are_forgotten,
}
