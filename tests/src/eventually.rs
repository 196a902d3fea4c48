//! Waiting for a condition, with a deadline and the reason it did not come.

use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Tries `check` until it succeeds.
///
/// # Errors
/// What `check` said last, when `within` has passed.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let left = within.saturating_sub(start.elapsed()).max(PAUSE);
        let tried = tokio::time::timeout(left, check()).await;
        let problem = match tried {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(problem)) => problem,
            Err(_) => anyhow::anyhow!("the last try did not end in time"),
        };
        if start.elapsed() >= within {
            return Err(problem).with_context(|| format!("{what}: not so after {within:?}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
