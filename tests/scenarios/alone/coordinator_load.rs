//! What the coordinator takes with much in its store: figures, and the bounds they have to keep.
//! Not run with the others: `scripts/bench-coordinator` runs it, with optimised programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use patchbay_tests::coordinator::Store;
use patchbay_tests::opener::Opener;
use patchbay_tests::rig::{Parts, Rig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Workers that only fill the store, and circuits of each.
const BULK: (usize, usize) = (5, 20_000);
/// Openings a figure is taken from.
const SAMPLE: usize = 300;
/// Openings on their way at once.
const AT_ONCE: usize = 64;

/// Circuits of a worker that is never chosen, written behind the coordinator's back.
fn fill(number: usize) -> String {
    format!(
        "INSERT INTO workers (id, authority, frontend_mode, protocol, hostname, tls_listen, \
         tls_advertised, api_port, available_slots, occupied_slots, wildcard_domain, nodes, \
         accepted_traffics, filtered_apps_only, updated_at) \
         SELECT uuid_generate_v4(), 'bulk-{number}', 'WILDCARD_DOMAIN', 'HTTP', 'bulk', false, \
         false, 1, -1, {count}, '.bulk-{number}', 1, '{{}}', true, now() + interval '1 day'; \
         INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, subdomain, \
         slot_domain, envs, open_to_public, session_ids, route_info, user_id) \
         SELECT uuid_generate_v4(), 'jupyter', 'HTTP', w.id, 'INTERACTIVE', 'WILDCARD_DOMAIN', \
         'app-' || n, '.bulk-{number}', '{{\"LANG\": \"C.UTF-8\"}}', false, \
         ARRAY[uuid_generate_v4()], jsonb_build_array(jsonb_build_object('route_id', null, \
         'session_id', uuid_generate_v4(), 'session_name', null, 'kernel_host', '10.0.0.1', \
         'kernel_port', 30000, 'protocol', 'http', 'traffic_ratio', 1.0)), uuid_generate_v4() \
         FROM workers w, generate_series(1, {count}) n WHERE w.authority = 'bulk-{number}';",
        count = BULK.1
    )
}

async fn open_once(
    opener: &Opener,
    rig_order: &patchbay_tests::opener::Order,
    token: &str,
) -> Result<Duration> {
    let begin = Instant::now();
    opener.auth(rig_order, token).await?;
    Ok(begin.elapsed())
}

/// One opening after the other; answers with the median.
async fn median(rig: &Rig) -> Result<Duration> {
    let order = rig.order("one").with("no_reuse", true);
    let token = rig.opener.conf(&order).await?;
    let mut times = Vec::new();
    for _ in 0..SAMPLE {
        times.push(open_once(&rig.opener, &order, &token).await?);
    }
    times.sort_unstable();
    Ok(times[SAMPLE / 2])
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmHWM")?.parse::<u64>()? / 1024)
}

async fn fetch(rig: &Rig, database: &patchbay_tests::postgres::Database) -> Result<()> {
    let client = database.connect().await?;
    let bulk = "SELECT id::text FROM workers WHERE authority = 'bulk-0'";
    let id: String = client.query_one(bulk, &[]).await?.get(0);
    let pid = rig.coordinator.program.pid()?;
    let before = resident(pid)?;
    let begin = Instant::now();
    let url = rig.opener.at(&format!("/api/worker/{id}/circuits"));
    let answer = rig
        .opener
        .authorized(rig.opener.client().get(url))
        .send()
        .await?;
    let bytes = answer.bytes().await?.len();
    let (took, grown) = (begin.elapsed(), resident(pid)? - before);
    crate::report_figure(format_args!(
        "full fetch of {} circuits: {took:.2?}, {} MiB, the coordinator's peak grew by {grown} MiB",
        BULK.1,
        bytes >> 20
    ));
    ensure!(took < Duration::from_secs(2), "the fetch took {took:?}");
    ensure!(grown < 100, "the coordinator grew by {grown} MiB");
    Ok(())
}

/// `PATCHBAY_BENCH_RATE` openings a second for `PATCHBAY_BENCH_SECONDS`.
async fn sustained(rig: &Rig) -> Result<()> {
    let setting = |name: &str, usual: u32| -> Result<u32> {
        std::env::var(name).map_or(Ok(usual), |text| text.parse().context("a whole number"))
    };
    let rate = setting("PATCHBAY_BENCH_RATE", 500)?;
    let count = rate * setting("PATCHBAY_BENCH_SECONDS", 60)?;
    let order = rig.order("many").with("no_reuse", true);
    let token = rig.opener.conf(&order).await?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    let begin = tokio::time::Instant::now();
    for number in 0..count {
        let due = begin + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        let permit = Arc::clone(&room).acquire_owned().await?;
        let (opener, order, token) = (rig.opener.clone(), order.clone(), token.clone());
        clients.spawn(async move {
            let outcome = opener.auth(&order, &token).await;
            drop(permit);
            // From when it was due: a queue in front counts.
            outcome.map(|_| due.elapsed())
        });
    }
    let mut times: Vec<Duration> = clients
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let took = begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    crate::report_figure(format_args!(
        "{count} openings in {took:.1} s ({:.0} a second): p50 {:.1?}, p99 {:.1?}, no error",
        f64::from(count) / took,
        at(50),
        at(99)
    ));
    let late = took > f64::from(count) / f64::from(rate) * 1.05;
    ensure!(!late, "{rate} a second were not kept up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for minutes: scripts/bench-coordinator"]
async fn a_hundred_thousand_circuits() -> Result<()> {
    let rig = Rig::start(Parts::servers().wildcard()).await?;
    let Store::Postgres(database) = rig.store.clone() else {
        bail!("PostgreSQL is expected");
    };
    median(&rig).await?;
    let few = median(&rig).await?;
    let client = database.connect().await?;
    for number in 0..BULK.0 {
        client.batch_execute(&fill(number)).await?;
    }
    client.batch_execute("ANALYZE").await?;
    let many = median(&rig).await?;
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    crate::report_figure(format_args!(
        "an opening: {few:.1?} with few circuits, {many:.1?} with {}: {ratio:.2} times",
        BULK.0 * BULK.1
    ));
    ensure!(ratio < 1.5, "{ratio} times");
    fetch(&rig, &database).await?;
    sustained(&rig).await
}
