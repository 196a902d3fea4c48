//! HTTP/1 as RFC 9110 and RFC 9112 have it, request and answer, by either engine.

use anyhow::{Result, ensure};
use patchbay_tests::http1_cases::{ScriptedApp, cases, hold};
use patchbay_tests::opener::Order;
use patchbay_tests::rig::{Parts, Rig};

/// An app that says nothing but nonsense stays in service here.
const LENIENT: &str = "[upstreams]\nfaults_to_eject = 1000000\n";

async fn every_case(fast_lane: bool) -> Result<()> {
    let rig = Rig::start(Parts::embedded().fast_lane(fast_lane).worker(LENIENT)).await?;
    let app = ScriptedApp::start().await?;
    let order = Order::http("app", app.address).with("open_to_public", "true");
    let address = rig.open_order(&order).await?.address()?;
    let cases = cases();
    ensure!(cases.len() >= 100, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(problem) = hold(case, address, &app).await {
            wrong.push(format!("{}: {problem:#}", case.name));
        }
    }
    let (count, all) = (wrong.len(), cases.len());
    ensure!(wrong.is_empty(), "{count} of {all}:\n{}", wrong.join("\n"));
    crate::report_figure(format_args!("{all} cases of HTTP/1"));
    Ok(())
}

#[tokio::test]
async fn by_the_lane() -> Result<()> {
    every_case(true).await
}

#[tokio::test]
async fn by_pingoras_engine() -> Result<()> {
    every_case(false).await
}
