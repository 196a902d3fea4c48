//! Which workers a new circuit may go to, the best first (contract/rest-coordinator.md §8, its
//! defects corrected). Pure: whether a slot is really free only the store knows.

use patchbay_common::circuit::{AppMode, Circuit, FrontendMode, Protocol};
use patchbay_common::id::WorkerId;
use patchbay_common::worker::{AppFilter, Worker, WorkerStatus};

/// What a circuit asks of its worker.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    /// What it carries.
    pub(crate) protocol: Protocol,
    /// Whom it serves.
    pub(crate) mode: AppMode,
    /// The port it would like.
    pub(crate) port: Option<u16>,
    /// The opener's properties (`session.user_uuid`, …) that filters are compared with.
    pub(crate) properties: &'a [AppFilter],
}

/// The workers to try, in this order.
///
/// Workers with a filter that matches come alone, if one has room; workers that take only what
/// they filter are left out otherwise. A wished port goes to workers that have it in their range
/// (wildcard workers know no ports and follow behind). Wildcard workers come before port workers,
/// the least occupied and the most free first; `seed` decides between equals.
pub(crate) fn rank<'a>(
    workers: &'a [Worker],
    filters: &[(WorkerId, AppFilter)],
    wish: &Wish<'_>,
    seed: u64,
) -> Vec<&'a Worker> {
    let matched = |worker: &Worker| {
        filters
            .iter()
            .any(|(id, filter)| *id == worker.id && wish.properties.contains(filter))
    };
    let fits = |worker: &&Worker| {
        worker.status == WorkerStatus::Alive
            && worker.protocol == wish.protocol
            && worker.accepted_traffics.contains(&wish.mode)
            && worker.has_room()
            && wish.port.is_none_or(|port| may_hold(worker, port))
    };
    let fitting: Vec<&Worker> = workers.iter().filter(fits).collect();
    let mut ranked: Vec<&Worker> = fitting
        .iter()
        .copied()
        .filter(|worker| matched(worker))
        .collect();
    if ranked.is_empty() {
        ranked = fitting;
        ranked.retain(|worker| !worker.filtered_apps_only);
    }
    ranked.sort_by_key(|worker| {
        let holds_port = wish.port.is_some() && worker.frontend_mode == FrontendMode::Port;
        let wildcard = worker.frontend_mode == FrontendMode::Wildcard;
        let load = if wildcard {
            worker.occupied_slots
        } else {
            worker.occupied_slots.saturating_sub(worker.available_slots)
        };
        (!holds_port, !wildcard, load, shuffle(worker.id, seed))
    });
    ranked
}

fn may_hold(worker: &Worker, port: u16) -> bool {
    match worker.frontend_mode {
        FrontendMode::Wildcard => true,
        FrontendMode::Port => worker
            .port_range
            .is_some_and(|(first, last)| (first..=last).contains(&port)),
    }
}

/// The live workers that the addresses of a lost worker's circuits lead to as well: of the same
/// domain, or with ports of its range; of the same advertised host unless `across_hosts`.
///
/// A worker that takes only what it filters is no heir, unless the lost one had the same filters:
/// who opened a circuit is not known well enough to ask them again.
pub(crate) fn heirs<'a>(
    lost: &Worker,
    workers: &'a [Worker],
    filters: &[(WorkerId, AppFilter)],
    across_hosts: bool,
) -> Vec<&'a Worker> {
    let of = |id: WorkerId| filters.iter().filter(move |(worker, _)| *worker == id);
    let filters_alike = |worker: &Worker| {
        lost.filtered_apps_only
            && of(lost.id).all(|(_, wanted)| of(worker.id).any(|(_, filter)| filter == wanted))
    };
    let leads_there = |worker: &Worker| match (lost.frontend_mode, worker.frontend_mode) {
        (FrontendMode::Wildcard, FrontendMode::Wildcard) => {
            let domains = lost
                .wildcard_domain
                .as_ref()
                .zip(worker.wildcard_domain.as_ref());
            domains.is_some_and(|(old, new)| old.eq_ignore_ascii_case(new))
        }
        (FrontendMode::Port, FrontendMode::Port) => {
            let overlap = |((first, last), (from, to))| from <= last && first <= to;
            let ranges = lost.port_range.zip(worker.port_range);
            ranges.is_some_and(overlap)
                && (across_hosts || lost.hostname.eq_ignore_ascii_case(&worker.hostname))
        }
        _ => false,
    };
    let fits = |worker: &&Worker| {
        worker.id != lost.id
            && worker.status == WorkerStatus::Alive
            && worker.protocol == lost.protocol
            && leads_there(worker)
            && (!worker.filtered_apps_only || filters_alike(worker))
    };
    workers.iter().filter(fits).collect()
}

/// Whether an heir may hold this circuit; whether its slot is free there only the store knows.
pub(crate) fn may_inherit(heir: &Worker, circuit: &Circuit) -> bool {
    heir.accepted_traffics.contains(&circuit.app_mode)
        && circuit.port.is_none_or(|port| may_hold(heir, port))
}

/// An order of equals that differs from opening to opening.
fn shuffle(id: WorkerId, seed: u64) -> u64 {
    let (high, low) = id.0.as_u64_pair();
    let mut mixed = (high ^ low ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 32;
    mixed.wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::Utc;

    use super::*;

    fn worker(name: &str, mode: FrontendMode, available: i32, occupied: i32) -> Worker {
        Worker {
            id: WorkerId::random(),
            authority: name.into(),
            frontend_mode: mode,
            protocol: Protocol::Http,
            hostname: "h".into(),
            tls_listen: false,
            tls_advertised: false,
            api_port: 1,
            port_range: (mode == FrontendMode::Port).then_some((100, 109)),
            wildcard_domain: None,
            wildcard_traffic_port: None,
            filtered_apps_only: false,
            traefik_last_used_marker_path: None,
            accepted_traffics: vec![AppMode::Interactive],
            created_at: Utc::now(),
            updated_at: Utc::now(),
            available_slots: available,
            occupied_slots: occupied,
            nodes: 1,
            status: WorkerStatus::Alive,
        }
    }

    fn port(name: &str, available: i32, occupied: i32) -> Worker {
        worker(name, FrontendMode::Port, available, occupied)
    }

    fn wildcard(name: &str, occupied: i32) -> Worker {
        worker(name, FrontendMode::Wildcard, -1, occupied)
    }

    const PLAIN: Wish<'_> = Wish {
        protocol: Protocol::Http,
        mode: AppMode::Interactive,
        port: None,
        properties: &[],
    };

    fn names(ranked: &[&Worker]) -> Vec<String> {
        ranked
            .iter()
            .map(|worker| worker.authority.clone())
            .collect()
    }

    #[test]
    fn wildcard_first_then_the_least_loaded() {
        let workers = [
            port("p1", 10, 5),
            wildcard("w9", 9),
            port("p2", 10, 2),
            wildcard("w1", 1),
        ];
        assert_eq!(
            names(&rank(&workers, &[], &PLAIN, 1)),
            ["w1", "w9", "p2", "p1"]
        );
    }

    #[test]
    fn lost_full_and_unsuited_workers_are_passed_over() {
        let mut lost = wildcard("lost", 0);
        lost.status = WorkerStatus::Lost;
        let mut tcp = port("tcp", 10, 0);
        tcp.protocol = Protocol::Tcp;
        let mut inference = wildcard("inference", 0);
        inference.accepted_traffics = vec![AppMode::Inference];
        let workers = [
            lost,
            tcp,
            inference,
            port("full", 10, 10),
            port("good", 10, 9),
        ];
        assert_eq!(names(&rank(&workers, &[], &PLAIN, 1)), ["good"]);
    }

    #[test]
    fn filters_draw_what_they_name_and_keep_out_the_rest() {
        let mut own = port("own", 10, 9);
        own.filtered_apps_only = true;
        let workers = [own, port("free", 10, 0)];
        let filter = AppFilter {
            key: "session.user_uuid".into(),
            value: "u1".into(),
        };
        let filters = [(workers[0].id, filter.clone())];
        assert_eq!(names(&rank(&workers, &filters, &PLAIN, 1)), ["free"]);

        let properties = [filter];
        let wish = Wish {
            properties: &properties,
            ..PLAIN
        };
        assert_eq!(names(&rank(&workers, &filters, &wish, 1)), ["own"]);
    }

    #[test]
    fn a_wished_port_goes_where_it_exists() {
        let mut other = port("other", 10, 0);
        other.port_range = Some((200, 209));
        let workers = [other, wildcard("w", 0), port("has", 10, 9)];
        let wish = Wish {
            port: Some(105),
            ..PLAIN
        };
        assert_eq!(names(&rank(&workers, &[], &wish, 1)), ["has", "w"]);
    }

    #[test]
    fn equals_take_turns() {
        let workers: Vec<Worker> = (0..4).map(|n| port(&n.to_string(), 10, 0)).collect();
        let firsts: HashSet<String> = (0..64)
            .map(|seed| rank(&workers, &[], &PLAIN, seed)[0].authority.clone())
            .collect();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn heirs_are_where_the_address_leads_as_well() {
        let mut lost = port("lost", 10, 1);
        lost.status = WorkerStatus::Lost;
        let twin = port("twin", 10, 0);
        let elsewhere = Worker {
            hostname: "other".into(),
            ..port("elsewhere", 10, 0)
        };
        let beside = Worker {
            port_range: Some((110, 119)),
            ..port("beside", 10, 0)
        };
        let down = Worker {
            status: WorkerStatus::Lost,
            ..port("down", 10, 0)
        };
        let other_kind = worker("wildcard", FrontendMode::Wildcard, -1, 0);
        let workers = [lost.clone(), twin, elsewhere, beside, down, other_kind];
        let names = |lost: &Worker, across| -> Vec<String> {
            let heirs = heirs(lost, &workers, &[], across);
            heirs.iter().map(|heir| heir.authority.clone()).collect()
        };
        assert_eq!(names(&lost, false), ["twin"]);
        assert_eq!(names(&lost, true), ["twin", "elsewhere"]);
    }

    #[test]
    fn names_are_inherited_within_a_domain_and_its_filters() {
        let named = |name: &str, domain: &str| Worker {
            wildcard_domain: Some(domain.into()),
            ..worker(name, FrontendMode::Wildcard, -1, 0)
        };
        let lost = named("lost", ".apps.example");
        let picky = Worker {
            filtered_apps_only: true,
            ..named("picky", ".apps.example")
        };
        let workers = [
            lost.clone(),
            named("same", ".Apps.Example"),
            named("other", ".else.example"),
            picky.clone(),
        ];
        let filter = |value: &str| AppFilter {
            key: "session.domain_name".into(),
            value: value.into(),
        };
        let filters = [
            (lost.id, filter("a")),
            (picky.id, filter("a")),
            (picky.id, filter("b")),
        ];
        let names = |lost: &Worker, filters: &[_]| -> Vec<String> {
            let heirs = heirs(lost, &workers, filters, false);
            heirs.iter().map(|heir| heir.authority.clone()).collect()
        };
        assert_eq!(names(&lost, &filters), ["same"]);
        let lost = Worker {
            filtered_apps_only: true,
            ..lost
        };
        assert_eq!(names(&lost, &filters), ["same", "picky"]);
        assert_eq!(names(&lost, &filters[..1]), ["same"]);
    }
}
