//! When the opener has its answer, the circuit carries: the first request after it succeeds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use patchbay_common::permit;
use patchbay_tests::browser::Browser;
use patchbay_tests::rig::{Parts, Rig};
use patchbay_tests::secrets;
use reqwest::Method;

/// Openings measured.
const OPENINGS: u16 = 50;
/// What the median may be in a debug build on a busy machine.
const MEDIAN: Duration = Duration::from_millis(100);

async fn measure(parts: Parts, what: &str) -> Result<()> {
    let rig = Rig::start(parts.ports(OPENINGS)).await?;
    let hour = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    let mut times = Vec::new();
    for port in rig.worker.slots.all() {
        // The port is chosen here, and the permit made here, so that nothing at all happens
        // between the opener's answer and the first request.
        let order = rig.order("jupyter").with("port", port);
        let begin = Instant::now();
        let opened = rig.opener.open(&order).await?;
        times.push(begin.elapsed());

        let permit = secrets::permit_key().issue(opened.circuit, Some(order.user), hour);
        let cookie = format!("{}={permit}", permit::cookie_name(opened.circuit));
        let browser = Browser::new()?;
        let url = format!("http://127.0.0.1:{port}/hello");
        let request = browser.request(Method::GET, &url)?.header("cookie", cookie);
        browser.send(request).await?.expect(200)?;
    }
    times.sort_unstable();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    crate::report_figure(format_args!(
        "{what}: {OPENINGS} openings, median {median:.1?}, longest {longest:.1?}"
    ));
    ensure!(median < MEDIAN, "the median opening takes {median:?}");
    Ok(())
}

#[tokio::test]
async fn with_postgres_and_redis() -> Result<()> {
    measure(Parts::servers(), "PostgreSQL and Redis").await
}

#[tokio::test]
async fn with_sqlite_and_the_stream() -> Result<()> {
    measure(Parts::embedded(), "SQLite and the stream").await
}
