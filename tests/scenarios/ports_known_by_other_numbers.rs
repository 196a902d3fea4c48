//! Behind an address translation a worker's ports have other numbers outside than it listens on.

use anyhow::{Context as _, Result, ensure};
use patchbay_tests::browser::Browser;
use patchbay_tests::rig::{Parts, Rig};

/// The first port outside; nobody has to listen there.
const OUTSIDE: u16 = 40_000;

#[tokio::test]
async fn each_is_served_where_it_is_bound() -> Result<()> {
    let mut rig = Rig::start(Parts::embedded()).await?;
    let (first, last) = (rig.worker.slots.first(), rig.worker.slots.last());
    let file = std::fs::read_to_string(&rig.worker.config)?;
    let outside = format!(
        "advertised_port_range = [{OUTSIDE}, {}], advertised_host",
        OUTSIDE + (last - first)
    );
    ensure!(file.contains("advertised_host"), "another file: {file}");
    std::fs::write(
        &rig.worker.config,
        file.replace("advertised_host", &outside),
    )?;
    rig.worker.program.kill().await?;
    rig.worker.start_again().await?;

    for number in 0..=last - first {
        let order = rig.order(&format!("app-{number}"));
        let opened = rig.opener.open(&order.with("open_to_public", true)).await?;
        let circuit = rig.opener.circuit(opened.circuit).await?;
        let port = circuit["port"].as_u64().context("no port")?;
        let port = u16::try_from(port)?;
        ensure!(port == OUTSIDE + number, "{port} is told");
        let bound = first + (port - OUTSIDE);
        let url = format!("http://127.0.0.1:{bound}/hello");
        Browser::new()?.get(&url).await?.expect(200)?;
    }
    Ok(())
}
