//! Scenarios that carry a steady load, count what is lost or measure how soon something takes
//! effect. They have the machine to themselves, because on two cores whatever ran beside them would
//! be measured as well: `scripts/test` runs them one at a time, and `.config/nextest.toml` likewise.
//! A scenario that measures nothing does not belong here.

mod a_successor_takes_over;
mod an_opening_is_routable_when_answered;
mod circuits_of_a_lost_worker_move;
mod clients_that_go_away;
mod coordinator_finds_containers;
mod gateway_balances;
mod gateway_follows_the_coordinator;
mod gateway_holds_limits;
mod gateway_reloads;
mod gateway_serves_through_every_change;
mod gateway_shares_limits;
mod kernels_fail_in_every_way;
mod sigterm_during_a_download_loses_nothing;
mod slots_are_never_given_twice;
mod slow_clients_hold_nobody_up;
mod survive_a_coordinator_killed_in_a_loop;
mod survive_coordinator_death;
mod survive_database_cut;
mod survive_disturbed_transactions;
mod survive_postgres_restart;
mod survive_redis_outage;
mod survive_worker_restart;
mod tcp_circuits_carry_anything;
mod tunnels_carry_everything;
mod tunnels_survive;
mod websockets_by_the_thousand;
mod what_a_client_may_cost;
mod what_idle_connections_cost;
