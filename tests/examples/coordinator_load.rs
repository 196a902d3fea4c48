//! What the coordinator takes with much in its store: figures, and the bounds they have to keep
//! (docs/PERFORMANCE.md). `scripts/bench-coordinator` runs it, with optimised programs.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use patchbay_tests::coordinator::Store;
use patchbay_tests::opener::{Opener, Order};
use patchbay_tests::postgres::Database;
use patchbay_tests::rig::{Parts, Rig};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Circuits beside those of the worker that is opened on: on how many other workers, how many each.
const BULK: (usize, usize) = (4, 20_000);
/// Circuits on the worker that is opened on.
const OWN: usize = 20_000;
/// Circuits in the other store, which is compared with.
const FEW: usize = 100;
/// Rounds that the two stores take turns in, and openings in each.
const ROUNDS: (usize, usize) = (7, 40);
/// Openings on their way at once.
const AT_ONCE: usize = 128;
/// Routes on a page.
const PAGE: usize = 1_000;

/// The bounds of the requirements.
const SLOWER: f64 = 1.5;
const FETCH_WITHIN: Duration = Duration::from_secs(2);
const FETCH_MEMORY: u64 = 100;

fn say(figure: std::fmt::Arguments<'_>) {
    // A figure that cannot be shown fails nothing.
    let _ = writeln!(std::io::stdout(), "    {figure}");
}

/// A worker that is never chosen.
fn bulk_worker(name: &str) -> String {
    format!(
        "INSERT INTO workers (id, authority, frontend_mode, protocol, hostname, tls_listen, \
         tls_advertised, api_port, available_slots, occupied_slots, wildcard_domain, nodes, \
         accepted_traffics, filtered_apps_only, updated_at) \
         VALUES (uuid_generate_v4(), '{name}', 'WILDCARD_DOMAIN', 'HTTP', 'bulk', false, \
         false, 1, -1, 0, '.{name}', 1, '{{}}', true, now() + interval '1 day')"
    )
}

/// Circuits of a worker, written behind the coordinator's back.
fn bulk_circuits(name: &str, count: usize) -> String {
    format!(
        "INSERT INTO circuits (id, app, protocol, worker, app_mode, frontend_mode, subdomain, \
         slot_domain, envs, open_to_public, session_ids, route_info, user_id) \
         SELECT uuid_generate_v4(), 'jupyter', 'HTTP', w.id, 'INTERACTIVE', 'WILDCARD_DOMAIN', \
         'bulk-' || n, lower(w.wildcard_domain), '{{\"LANG\": \"C.UTF-8\"}}', false, \
         ARRAY[uuid_generate_v4()], jsonb_build_array(jsonb_build_object('route_id', null, \
         'session_id', uuid_generate_v4(), 'session_name', null, 'kernel_host', '10.0.0.1', \
         'kernel_port', 30000, 'protocol', 'http', 'traffic_ratio', 1.0)), uuid_generate_v4() \
         FROM workers w, generate_series(1, {count}) n WHERE w.authority = '{name}'; \
         UPDATE workers SET occupied_slots = occupied_slots + {count} WHERE authority = '{name}'"
    )
}

/// Fills the store, and lets the worker fetch its part.
async fn fill(rig: &mut Rig, database: &Database) -> Result<()> {
    let client = database.connect().await?;
    let own: String = client
        .query_one("SELECT authority FROM workers", &[])
        .await?
        .get(0);
    client.batch_execute(&bulk_circuits(&own, OWN)).await?;
    for number in 0..BULK.0 {
        let name = format!("bulk-{number}");
        client.batch_execute(&bulk_worker(&name)).await?;
        client.batch_execute(&bulk_circuits(&name, BULK.1)).await?;
    }
    client.batch_execute("VACUUM ANALYZE").await?;
    rig.worker.program.kill().await?;
    let begin = Instant::now();
    rig.worker.start_again().await?;
    let took = begin.elapsed();
    say(format_args!(
        "a worker with {OWN} circuits serves them {took:.2?} after its start"
    ));
    Ok(())
}

fn database(rig: &Rig) -> Result<Database> {
    match rig.store.clone() {
        Store::Postgres(database) => Ok(database),
        Store::Sqlite(_) => bail!("PostgreSQL is expected"),
    }
}

/// Opens so many circuits one after the other and closes each again; answers how long the openings
/// took.
async fn openings(rig: &Rig, count: usize) -> Result<Vec<Duration>> {
    let order = rig.order("one").with("no_reuse", true);
    let token = rig.opener.conf(&order).await?;
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let opened = rig.opener.auth(&order, &token).await?;
        times.push(begin.elapsed());
        rig.opener.close(opened.circuit).await?;
    }
    Ok(times)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// An opening with many circuits in the store beside one with few, the two taking turns.
async fn compared(few: &Rig, many: &Rig) -> Result<()> {
    for number in 0..FEW {
        let order = few.order(&format!("few-{number}"));
        few.opener.open(&order).await?;
    }
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    // The first round of each is to warm up.
    for round in 0..=ROUNDS.0 {
        let (a, b) = (
            openings(few, ROUNDS.1).await?,
            openings(many, ROUNDS.1).await?,
        );
        if round > 0 {
            with_few.extend(a);
            with_many.extend(b);
        }
    }
    let (with_few, with_many) = (median(&mut with_few), median(&mut with_many));
    let ratio = with_many.as_secs_f64() / with_few.as_secs_f64();
    say(format_args!(
        "an opening: {with_few:.2?} with {FEW} circuits in the store, {with_many:.2?} with {}: \
         {ratio:.2} times (at most {SLOWER})",
        OWN + BULK.0 * BULK.1
    ));
    ensure!(ratio <= SLOWER, "{ratio:.2} times");
    Ok(())
}

/// The highest resident memory of a process since it was last asked, in MiB.
fn peak(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmHWM")?.parse::<u64>()? / 1024)
}

/// Forgets the peak: from here on it is counted anew.
fn reset_peak(pid: u32) -> Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    std::fs::write(&file, "5").with_context(|| file)
}

async fn fetched(rig: &Rig, path: &str) -> Result<usize> {
    let url = rig.opener.at(path);
    let request = rig.opener.authorized(rig.opener.client().get(url));
    let answer = request.send().await?.error_for_status()?;
    Ok(answer.bytes().await?.len())
}

/// What a worker's full fetch costs.
async fn fetch(rig: &Rig, database: &Database) -> Result<()> {
    let client = database.connect().await?;
    let bulk = "SELECT id::text FROM workers WHERE authority = 'bulk-0'";
    let id: String = client.query_one(bulk, &[]).await?.get(0);
    let pid = rig.coordinator.program.pid()?;
    reset_peak(pid)?;
    let before = peak(pid)?;
    let begin = Instant::now();
    let bytes = fetched(rig, &format!("/api/worker/{id}/circuits")).await?;
    let (took, grown) = (begin.elapsed(), peak(pid)?.saturating_sub(before));
    say(format_args!(
        "a full fetch of {} circuits: {took:.2?} for {} MiB, the coordinator's memory rose by \
         {grown} MiB at most (from {before})",
        BULK.1,
        bytes >> 20
    ));
    ensure!(took < FETCH_WITHIN, "the fetch took {took:?}");
    ensure!(grown < FETCH_MEMORY, "the coordinator grew by {grown} MiB");
    for path in ["/api/worker", "/api/slots", "/metrics"] {
        let begin = Instant::now();
        let bytes = fetched(rig, path).await?;
        let took = begin.elapsed();
        say(format_args!("{path}: {took:.2?} for {} KiB", bytes >> 10));
    }
    Ok(())
}

/// All routes, page by page.
async fn pages(rig: &Rig) -> Result<()> {
    let (mut cursor, mut seen, mut times) = (String::new(), 0, Vec::new());
    loop {
        let begin = Instant::now();
        let path = format!("/routes?limit={PAGE}{cursor}");
        let page = rig.opener.read(&path).await?;
        times.push(begin.elapsed());
        seen += page["routes"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let (count, all) = (times.len(), times.iter().sum::<Duration>());
    let middle = median(&mut times);
    let longest = times.last().copied().unwrap_or_default();
    say(format_args!(
        "{seen} routes in {count} pages of {PAGE}: {all:.2?}, a page {middle:.1?}, the slowest \
         {longest:.1?}"
    ));
    ensure!(seen >= OWN + BULK.0 * BULK.1, "only {seen} were listed");
    Ok(())
}

fn setting(name: &str, usual: u32) -> Result<u32> {
    std::env::var(name).map_or(Ok(usual), |text| text.parse().context("a whole number"))
}

async fn one(opener: Opener, order: Arc<Order>, token: Arc<str>) -> Result<()> {
    opener.auth(&order, &token).await.map(drop)
}

/// `PATCHBAY_BENCH_RATE` openings a second for `PATCHBAY_BENCH_SECONDS`.
async fn sustained(rig: &Rig) -> Result<()> {
    let rate = setting("PATCHBAY_BENCH_RATE", 500)?;
    let count = rate * setting("PATCHBAY_BENCH_SECONDS", 60)?;
    let order = Arc::new(rig.order("many").with("no_reuse", true));
    let token: Arc<str> = rig.opener.conf(&order).await?.into();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut clients = JoinSet::new();
    let begin = tokio::time::Instant::now();
    for number in 0..count {
        let due = begin + Duration::from_secs(1) * number / rate;
        tokio::time::sleep_until(due).await;
        let permit = Arc::clone(&room).acquire_owned().await?;
        let opening = one(rig.opener.clone(), Arc::clone(&order), Arc::clone(&token));
        clients.spawn(async move {
            let outcome = opening.await;
            drop(permit);
            // From when it was due: a queue in front counts.
            outcome.map(|()| due.elapsed())
        });
    }
    let outcomes: Vec<Result<Duration>> = clients.join_all().await;
    let took = begin.elapsed().as_secs_f64();
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        bail!("{failed} of {count} openings failed, the first with {error:#}");
    }
    let mut times: Vec<Duration> = outcomes.into_iter().flatten().collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    say(format_args!(
        "{count} openings in {took:.1} s, {:.0} a second, none failed: p50 {:.1?}, p99 {:.1?}, \
         the slowest {:.1?}",
        f64::from(count) / took,
        at(50),
        at(99),
        at(100)
    ));
    let late = took > f64::from(count) / f64::from(rate) * 1.02;
    ensure!(!late, "{rate} a second were not kept up");
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let few = Rig::start(Parts::servers().wildcard()).await?;
    let mut many = Rig::start(Parts::servers().wildcard()).await?;
    let database = database(&many)?;
    fill(&mut many, &database).await?;
    compared(&few, &many).await?;
    drop(few);
    fetch(&many, &database).await?;
    pages(&many).await?;
    sustained(&many).await
}
