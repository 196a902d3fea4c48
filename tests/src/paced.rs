//! Requests at a steady pace, counted by whether they were admitted.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::browser::client;

/// Clients that ask in turn.
const CLIENTS: u32 = 10;

/// What came of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Admitted {
    /// Requests sent.
    pub asked: u32,
    /// Those that were not refused.
    pub admitted: u32,
    /// How long it went on.
    pub time: Duration,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Admitted {
    /// How far what was admitted is off `rate` a second and `burst`, as a fraction.
    pub fn off(&self, rate: u32, burst: u32) -> f64 {
        let expected = f64::from(rate) * self.time.as_secs_f64() + f64::from(burst);
        f64::from(self.admitted) / expected - 1.0
    }
}

/// Asks these in turn, `pace` times a second altogether, for this long. 2xx is admitted, 429 is
/// not.
///
/// # Errors
/// If anything else is answered.
pub async fn ask(urls: &[String], pace: u32, time: Duration) -> anyhow::Result<Admitted> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (client, urls) = (client()?, urls.to_vec());
        clients.spawn(async move {
            let mut all = Admitted::default();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) * CLIENTS / pace);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut turn = number as usize;
            while began.elapsed() < time {
                ticks.tick().await;
                let sent = Instant::now();
                let answer = client.get(&urls[turn % urls.len()]).send().await?;
                turn += 1;
                all.slowest = all.slowest.max(sent.elapsed());
                all.asked += 1;
                match answer.status().as_u16() {
                    200..=299 => all.admitted += 1,
                    429 => {}
                    other => bail!("{other}"),
                }
            }
            Ok(all)
        });
    }
    let mut total = Admitted::default();
    while let Some(ended) = clients.join_next().await {
        let one = ended??;
        total.asked += one.asked;
        total.admitted += one.admitted;
        total.slowest = total.slowest.max(one.slowest);
    }
    total.time = began.elapsed();
    Ok(total)
}
