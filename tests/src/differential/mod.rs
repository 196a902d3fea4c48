//! The same bytes through both engines: what the app got and what the client got are compared.
//! `stream` makes up what clients send, `script` what apps answer, `recorder` is the app, `account`
//! says what is the same. It refuses to judge which engine is right: the other one is the oracle.

mod account;
mod recorder;
mod script;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use account::Answered;
use recorder::Recorder;

/// Longest an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this silence a client that may have sent less than a request gives up.
const SILENCE: Duration = Duration::from_millis(150);
/// A difference has to show as often: on a busy machine a client may give up on one side only.
const TRIES: usize = 3;

/// One engine, and the app behind it that records.
#[derive(Debug)]
pub struct Side {
    /// Where clients connect.
    pub door: SocketAddr,
    recorder: Recorder,
}

/// Numbers that depend on the seed only (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        usize::try_from(bits % limit.max(1) as u64).unwrap_or_default()
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// What one client sends.
#[derive(Clone, Debug)]
struct Case {
    /// In these pieces.
    pieces: Vec<Vec<u8>>,
    /// It sends more than one request.
    several: bool,
    /// It sends whole requests, and asks to close after the last.
    complete: bool,
    /// What the app answers each request with.
    script: script::Script,
}

/// An app that records, for one side.
///
/// # Errors
/// If no port can be bound.
pub async fn side(
    door: impl AsyncFnOnce(SocketAddr) -> anyhow::Result<SocketAddr>,
) -> anyhow::Result<Side> {
    let recorder = Recorder::start().await?;
    let door = door(recorder.address).await?;
    Ok(Side { door, recorder })
}

/// Plays `count` cases through both sides.
///
/// # Errors
/// The first case that did not come to the same, with all that is needed to repeat it.
pub async fn compare(lane: &Side, other: &Side, seed: u64, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        let seed = seed.wrapping_add((number as u64) << 20);
        let case = stream::case(&mut Dice::new(seed));
        let mut told = Ok(());
        for _ in 0..TRIES {
            told = once(lane, other, &case, seed).await;
            if told.is_ok() {
                break;
            }
        }
        told?;
    }
    Ok(())
}

async fn once(lane: &Side, other: &Side, case: &Case, seed: u64) -> anyhow::Result<()> {
    let (one, two) = tokio::join!(play(lane, case), play(other, case));
    let told = || {
        let sent = String::from_utf8_lossy(&case.pieces.concat()).into_owned();
        let answer = String::from_utf8_lossy(&case.script.answer).into_owned();
        let lengths = lengths(case);
        format!("seed {seed}, pieces {lengths:?}: {sent:.3000?} answered {answer:.300?}")
    };
    let (one, two) = (one.with_context(told)?, two.with_context(told)?);
    let difference = account::difference(&one, &two, case.several, &case.script);
    let what = difference.unwrap_or_default();
    ensure!(
        difference.is_none(),
        "{what}: {}\nlane:  {one:.2000?}\nother: {two:.2000?}",
        told()
    );
    Ok(())
}

fn lengths(case: &Case) -> Vec<usize> {
    case.pieces.iter().map(Vec::len).collect()
}

async fn play(side: &Side, case: &Case) -> anyhow::Result<Answered> {
    side.recorder.play(&case.script);
    let mut client = TcpStream::connect(side.door).await?;
    client.set_nodelay(true)?;
    for piece in &case.pieces {
        // An engine that has had enough closes: what it said counts.
        if client.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut said = Vec::new();
    let mut room = vec![0; 64 * 1_024];
    let mut silent = false;
    loop {
        let patience = match silent || case.complete {
            true => PATIENCE,
            false => SILENCE,
        };
        match timeout(patience, client.read(&mut room)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(count)) => said.extend_from_slice(&room[..count]),
            Err(_) if !silent && !case.complete && !account::waits(&said) => {
                silent = true;
                // The peer may be gone already.
                let _ = client.shutdown().await;
            }
            Err(_) if !silent && !case.complete => {}
            Err(_) => bail!(
                "the connection stays open after {:?}",
                account::answers(&said)
            ),
        }
    }
    Ok(Answered {
        answers: account::answers(&said),
        requests: side.recorder.take(),
    })
}
