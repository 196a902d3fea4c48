//! Many openers at once, more than one coordinator, one database: every slot has one owner.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::coordinator::Coordinator;
use patchbay_tests::opener::{Opened, Opener, Order};
use patchbay_tests::rig::{Parts, Rig};
use tokio::task::JoinSet;

/// Clients that open at once.
const CLIENTS: usize = 20;

/// Every client opens `each` circuits, the clients taking turns on the coordinators.
async fn open_at_once(openers: &[Opener], rig: &Rig, each: usize) -> Vec<Result<Opened>> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let opener = openers[client % openers.len()].clone();
        let kernel = rig.app.address;
        clients.spawn(async move {
            let mut opened = Vec::new();
            for number in 0..each {
                let order = Order::http(&format!("app-{client}-{number}"), kernel);
                opened.push(opener.open(&order).await);
            }
            opened
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

async fn second_coordinator(rig: &Rig) -> Result<Coordinator> {
    let redis = rig.redis.as_ref().context("no Redis")?.section();
    let name = "coordinator-2";
    Coordinator::start(rig.folder.path(), name, &rig.store, &redis, "").await
}

async fn slots(rig: &Rig) -> Result<(u64, Vec<u64>)> {
    let workers = rig.opener.read("/api/worker").await?;
    let worker = &workers["workers"][0];
    let id = worker["id"].as_str().context("no id")?;
    let occupied = worker["occupied_slots"]
        .as_u64()
        .context("no occupied_slots")?;
    let circuits = rig
        .opener
        .read(&format!("/api/worker/{id}/circuits"))
        .await?;
    let circuits = circuits["circuits"].as_array().context("no circuits")?;
    let ports = circuits
        .iter()
        .filter_map(|circuit| circuit["port"].as_u64());
    Ok((occupied, ports.collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_clients_open_two_hundred_on_two_coordinators() -> Result<()> {
    let rig = Rig::start(Parts::servers().ports(200)).await?;
    let second = second_coordinator(&rig).await?;
    let openers = [rig.opener.clone(), Opener::new(&second.url())?];

    let begin = std::time::Instant::now();
    let opened: Vec<Opened> = open_at_once(&openers, &rig, 10)
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    crate::report_figure(format_args!(
        "200 circuits by 20 clients: {:.1?}",
        begin.elapsed()
    ));
    let circuits: HashSet<_> = opened.iter().map(|opened| opened.circuit).collect();
    assert_eq!(circuits.len(), 200);

    let (occupied, ports) = slots(&rig).await?;
    let distinct: HashSet<u64> = ports.iter().copied().collect();
    assert_eq!((occupied, ports.len(), distinct.len()), (200, 200, 200));

    // Each is the app's, at once, and nobody's permit opens a neighbour's.
    for opened in opened.iter().step_by(10) {
        let browser = patchbay_tests::browser::Browser::new()?;
        let url = patchbay_tests::rig::enter(&browser, opened).await?;
        browser.get(&format!("{url}/hello")).await?.expect(200)?;
    }

    for opened in opened {
        openers[1].close(opened.circuit).await?;
    }
    let (occupied, ports) = slots(&rig).await?;
    assert_eq!((occupied, ports.len()), (0, 0));
    Ok(())
}

async fn a_small_worker_is_filled_and_no_more(parts: Parts) -> Result<()> {
    let rig = Rig::start(parts.ports(8)).await?;
    let outcomes = open_at_once(std::slice::from_ref(&rig.opener), &rig, 1).await;
    let (given, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((given.len(), refused.len()), (8, 12));
    for refusal in refused.into_iter().filter_map(Result::err) {
        let text = format!("{refusal:#}");
        ensure!(
            text.contains("answers 503") || text.contains("answers 409"),
            "{text}"
        );
    }
    let (occupied, ports) = slots(&rig).await?;
    let distinct: HashSet<u64> = ports.iter().copied().collect();
    assert_eq!((occupied, distinct.len()), (8, 8));
    Ok(())
}

#[tokio::test]
async fn a_full_worker_refuses_with_sqlite() -> Result<()> {
    a_small_worker_is_filled_and_no_more(Parts::embedded()).await
}

#[tokio::test]
async fn a_full_worker_refuses_with_postgres() -> Result<()> {
    a_small_worker_is_filled_and_no_more(Parts::servers()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_wished_by_all_is_given_once() -> Result<()> {
    let rig = Rig::start(Parts::servers().wildcard()).await?;
    let second = second_coordinator(&rig).await?;
    let openers = [rig.opener.clone(), Opener::new(&second.url())?];
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (opener, order) = (openers[client % 2].clone(), rig.order("notebook"));
        clients.spawn(async move { opener.open(&order.with("subdomain", "notebook")).await });
    }
    let mut names = HashSet::new();
    for opened in clients.join_all().await {
        let circuit = rig.opener.circuit(opened?.circuit).await?;
        let name = circuit["subdomain"].as_str().context("no subdomain")?;
        ensure!(names.insert(name.to_owned()), "{name} was given twice");
    }
    ensure!(names.contains("notebook"), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn one_session_opening_twice_at_once_gets_one_circuit() -> Result<()> {
    let rig = Rig::start(Parts::servers()).await?;
    let order = rig.order("jupyter");
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (opener, order) = (rig.opener.clone(), order.clone());
        clients.spawn(async move { opener.open(&order).await });
    }
    let opened: Vec<Opened> = clients
        .join_all()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let circuits: HashSet<_> = opened.iter().map(|opened| opened.circuit).collect();
    assert_eq!(
        circuits.len(),
        1,
        "one session's app was opened more than once"
    );
    Ok(())
}
