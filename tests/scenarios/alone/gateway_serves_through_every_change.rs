//! Instances and routes are added, changed and removed 50 times a second by the coordinator's API
//! while requests pass: none fails.
//!
//! Ten seconds and 500 requests a second here, with programs that are not optimised;
//! docs/PERFORMANCE.md tells how to have a minute and 2,000.

use std::time::Duration;

use anyhow::{Result, ensure};
use patchbay_tests::app::App;
use patchbay_tests::fleet::{Fleet, service};
use patchbay_tests::load::Load;
use patchbay_tests::rig::Parts;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::report_figure;

/// Between two changes.
const BETWEEN: Duration = Duration::from_millis(20);
/// Services that come and go beside the one that is asked for.
const OTHERS: u64 = 10;

/// A number that a variable says, or the usual one.
fn setting(variable: &str, usual: u32) -> u32 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The service asked for, at other instances and with other routes at every turn.
fn shop(turn: u64, apps: &[App; 3]) -> Value {
    let used: Vec<&App> = match turn % 4 {
        0 => apps.iter().collect(),
        1 => vec![&apps[0], &apps[1]],
        2 => vec![&apps[1]],
        _ => vec![&apps[1], &apps[2]],
    };
    let mut body = service("shop", &used);
    for extra in 0..turn % 5 {
        body["routes"][format!("extra-{extra}")] = json!({"path": format!("/extra/{extra}/*")});
    }
    body
}

async fn change(fleet: &Fleet, turn: u64, apps: &[App; 3]) -> Result<()> {
    let name = format!("other-{}", turn % OTHERS);
    match turn % 3 {
        0 => fleet.put("shop", &shop(turn / 3, apps)).await.map(drop),
        _ if (turn / OTHERS).is_multiple_of(2) => {
            let body = service(&name, &[&apps[0]]);
            fleet.put(&name, &body).await.map(drop)
        }
        // It may have gone already: that is an answer, too.
        _ => {
            let path = format!("/api/services/{name}");
            let gone = fleet.call(reqwest::Method::DELETE, &path, None).await?;
            let status = gone.status.as_u16();
            ensure!(matches!(status, 200 | 404), "{status}: {}", gone.text());
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_no_request_fails() -> Result<()> {
    let fleet = Fleet::start(Parts::embedded(), "").await?;
    let apps = [
        App::start().await?,
        App::start().await?,
        App::start().await?,
    ];
    fleet.put("shop", &shop(0, &apps)).await?;
    fleet.answers("/shop/hello", 200).await?;
    let seconds = setting("PATCHBAY_CHURN_SECONDS", 10);
    let rate = setting("PATCHBAY_CHURN_RATE", 500);
    let load = Load::start(vec![fleet.target("/shop/hello")], rate)?;
    let mut ticks = tokio::time::interval(BETWEEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let changes = u64::from(seconds) * 50;
    for turn in 0..changes {
        ticks.tick().await;
        change(&fleet, turn, &apps).await?;
    }
    // The last word is what holds.
    fleet.put("last", &service("last", &[&apps[2]])).await?;
    let took = fleet.answers("/last/hello", 200).await?;
    let tally = load.finish().await?;
    report_figure(format_args!(
        "{changes} changes in {seconds} s under {rate} requests a second: {tally}; the last is in \
         force after {} ms",
        took.as_millis()
    ));
    ensure!(took < Duration::from_secs(1), "{took:?}");
    tally.ensure_faultless()
}
