//! A new process takes the place of a running one, again and again, and nobody notices. With
//! `PATCHBAY_FULL=1` twenty times under 2,000 requests a second, 200 WebSockets and 50 streams.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use patchbay_tests::eventually::eventually;
use patchbay_tests::load::{Load, Target};
use patchbay_tests::program::{Program, Signal};
use patchbay_tests::rig::{Door, Parts, Rig};
use patchbay_tests::scale::{allow_sockets, sized};
use patchbay_tests::socket;
use reqwest::Method;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// Events of each stream.
const EVENTS: usize = 30;
/// More ports than one message between the processes carries sockets.
const PORTS: u16 = 100;

fn parts() -> Result<(tempfile::TempDir, Parts)> {
    let folder = tempfile::tempdir()?;
    let place = folder.path().join("handover.sock");
    let section = format!(
        "[server]\nhandover = \"{}\"\ngrace_period = {}\n",
        place.display(),
        sized(5, 600)
    );
    Ok((folder, Parts::embedded().ports(PORTS).worker(&section)))
}

/// Reads a stream of events to its end: every event, in order.
async fn read_events(door: Door) -> Result<()> {
    let url = door.at(&format!("/events/{EVENTS}"));
    let response = door.browser.request(Method::GET, &url)?.send().await?;
    ensure!(response.status() == 200, "{}", response.status());
    let text = response.text().await.context("a stream was cut")?;
    let expected: String = (0..EVENTS)
        .map(|number| format!("data: event {number}\n\n"))
        .collect();
    ensure!(text == expected, "{text}");
    Ok(())
}

/// Opens streams of events and waits until the app has heard of all.
async fn open_streams(rig: &Rig, doors: &[Door], count: usize) -> Result<JoinSet<Result<()>>> {
    let mut streams = JoinSet::new();
    for number in 0..count {
        streams.spawn(read_events(doors[number % doors.len()].clone()));
    }
    let path = format!("/events/{EVENTS}");
    eventually(
        "the streams are open",
        Duration::from_secs(10),
        async || {
            let open = rig.app.seen(&path).len();
            ensure!(open == count, "{open}");
            Ok(())
        },
    )
    .await?;
    Ok(streams)
}

async fn echoes(socket: &mut socket::Socket, text: &str) -> Result<()> {
    socket.send(Message::text(text)).await?;
    let answer = socket::next(socket).await?;
    ensure!(answer == Message::text(text), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn again_and_again_under_load() -> Result<()> {
    let (generations, rate, stream_count) = sized((5, 60, 10), (20, 2_000, 50));
    allow_sockets(sized(1_000, 10_000))?;
    let (_folder, parts) = parts()?;
    let mut rig = Rig::start(parts).await?;
    let doors = rig.open_many(4).await?;
    let load = Load::start(
        doors.iter().map(Door::target).collect::<Vec<Target>>(),
        rate,
    )?;
    let mut streams = open_streams(&rig, &doors, stream_count).await?;

    let mut sockets = Vec::new();
    let mut old: Vec<Program> = Vec::new();
    for generation in 0..generations {
        let more = match generation {
            0 => sized(8, 200),
            _ => 8,
        };
        for number in 0..more {
            let door = &doors[number % doors.len()];
            sockets.push(socket::open(door, "/ws/echo", &[]).await?.0);
        }
        load.answers(sized(100, 1_000)).await?;
        old.push(rig.worker.hand_over().await?);
        for (number, socket) in sockets.iter_mut().enumerate() {
            let text = format!("socket {number} after hand-over {generation}");
            echoes(socket, &text).await.context(text)?;
        }
        rig.app.release(stream_count);
        load.answers(sized(200, 2_000)).await?;
        // The new process opens and closes circuits as the old one did.
        let newcomer = rig.open("newcomer").await?;
        newcomer.get("/hello").await?.expect(200)?;
        rig.opener.close(newcomer.circuit).await?;
    }

    rig.app.release(stream_count * EVENTS);
    while let Some(read) = streams.join_next().await {
        read??;
    }
    let tally = load.finish().await?;
    crate::report_figure(format_args!("{generations} hand-overs: {tally}"));
    tally.ensure_faultless()?;

    // Who has nothing left to serve, goes.
    for mut socket in sockets {
        socket.close(None).await?;
        while let Some(Ok(_)) = socket.next().await {}
    }
    drop(doors);
    for mut program in old {
        let status = program.exited(Duration::from_secs(20)).await?;
        ensure!(status.success(), "{status}");
    }
    let workers = rig.opener.read("/api/worker").await?;
    assert_eq!(workers["workers"][0]["nodes"], 1, "{workers}");
    rig.worker.program.stop(Duration::from_secs(10)).await
}

#[tokio::test]
async fn a_successor_that_fails_costs_nothing() -> Result<()> {
    let (_folder, parts) = parts()?;
    let mut rig = Rig::start(parts).await?;
    let door = rig.open("jupyter").await?;
    // It takes the sockets, and ends before it is ready: its coordinator is not there.
    rig.coordinator.program.signal(Signal::Stop).await?;
    let mut heir = rig.worker.heir();
    heir.start()?;
    rig.worker
        .program
        .logged(&["a successor takes the listening sockets"])
        .await?;
    door.get("/hello").await?.expect(200)?;
    heir.kill().await?;
    rig.coordinator.program.signal(Signal::Continue).await?;
    rig.worker
        .program
        .logged(&["a successor did not take over, this process goes on"])
        .await?;
    door.get("/hello").await?.expect(200)?;
    // The next one has better luck.
    let mut old = rig.worker.hand_over().await?;
    door.get("/hello").await?.expect(200)?;
    drop(door);
    let status = old.exited(Duration::from_secs(20)).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_signal_asks_for_a_successor() -> Result<()> {
    let (_folder, parts) = parts()?;
    let mut rig = Rig::start(parts).await?;
    let door = rig.open("jupyter").await?;
    door.get("/hello").await?.expect(200)?;
    // SIGHUP after a change of the configuration does: the successor reads it.
    let config = std::fs::read_to_string(&rig.worker.config)?;
    let changed = config.replace("level = \"INFO\"", "level = \"DEBUG\"");
    std::fs::write(&rig.worker.config, changed)?;
    rig.worker.program.signal(Signal::Hangup).await?;
    rig.worker
        .program
        .logged(&["the listening sockets are taken over"])
        .await?;
    door.get("/hello").await?.expect(200)?;
    drop(door);
    let status = rig
        .worker
        .program
        .exited(Duration::from_secs(20))
        .await
        .context("the process before the successor stays")?;
    ensure!(status.success(), "{status}");
    // The successor is nobody's child here: it goes when the next one comes.
    let before = rig.worker.hand_over().await?;
    eventually("the successor goes", Duration::from_secs(20), async || {
        let gone = before.log().matches("all connections have ended").count();
        ensure!(gone == 2, "{gone}");
        Ok(())
    })
    .await
}
