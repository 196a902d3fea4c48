//! Smuggling and broken requests, byte by byte: each refused as it has to be, and nothing that the
//! client did not mean reaches the app.

use anyhow::{Result, ensure};
use patchbay_tests::malformed::{cases, hold};
use patchbay_tests::recorder::Recorder;
use patchbay_tests::rig::{Parts, Rig};

async fn every_case(fast_lane: bool) -> Result<()> {
    let rig = Rig::start(Parts::embedded().fast_lane(fast_lane)).await?;
    let recorder = Recorder::start().await?;
    let mut order = rig.order("app").with("open_to_public", "true");
    order.kernel = recorder.address;
    let door = rig.open_order(&order).await?;
    let address = door.address()?;
    // In order, so that the table shows what is carried at all.
    door.get("/hello").await?.expect(200)?;

    let cases = cases();
    ensure!(cases.len() >= 80, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(problem) = hold(case, address, &recorder).await {
            wrong.push(format!("{}: {problem:#}", case.name));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    door.get("/hello").await?.expect(200)?;
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
