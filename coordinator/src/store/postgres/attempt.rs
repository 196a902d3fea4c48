//! How work is tried: on a connection of the pool, in a transaction where it needs one, again where
//! that helps. Macros, because no closure can promise a future that borrows from the transaction it
//! is handed. Who uses them has `pool` and `Doing` in scope, and imports `again` as well.

/// Tries, again if others got in the way or the connection was cut before a commit was asked for,
/// which the try says by setting `$committing`.
macro_rules! again {
    ($pool:expr, $doing:expr, |$committing:ident| $try:expr) => {{
        let mut attempt = 1;
        let started = std::time::Instant::now();
        let outcome = loop {
            let $committing = std::sync::atomic::AtomicBool::new(false);
            let outcome = $try.await;
            let unknown = $committing.load(std::sync::atomic::Ordering::Relaxed);
            match outcome {
                Err(error) if pool::worth_another_try(&error, attempt, unknown) => {
                    pool::pause($doing, &error, attempt).await;
                    attempt += 1;
                }
                outcome => break outcome,
            }
        };
        $pool.observe($doing, started.elapsed(), outcome.is_ok());
        outcome
    }};
}

/// Runs `work` in a transaction that writes.
macro_rules! change {
    ($pool:expr, $doing:expr, |$tx:ident| $work:expr) => {
        again!($pool, $doing, |committing| async {
            let mut client = $pool.client($doing).await?;
            let $tx = pool::begin(&mut client, $doing, pool::Access::Write).await?;
            let answer = $work.await?;
            committing.store(true, std::sync::atomic::Ordering::Relaxed);
            $tx.commit().await.doing($doing)?;
            Ok(answer)
        })
    };
}

/// Runs `work` without a transaction around it, which would take two more round trips: for a single
/// statement, or for several that need not see the same moment. Only for what may be done twice: it
/// is tried again even if its connection is cut at the end.
macro_rules! direct {
    ($pool:expr, $doing:expr, |$client:ident| $work:expr) => {
        again!($pool, $doing, |committing| async {
            let $client = $pool.client($doing).await?;
            $work.await
        })
    };
}

/// Runs `work` in a transaction that sees one moment and writes nothing.
macro_rules! look {
    ($pool:expr, $doing:expr, |$tx:ident| $work:expr) => {
        again!($pool, $doing, |committing| async {
            let mut client = $pool.client($doing).await?;
            let $tx = pool::begin(&mut client, $doing, pool::Access::Read).await?;
            let answer = $work.await?;
            $tx.commit().await.doing($doing)?;
            Ok(answer)
        })
    };
}

pub(super) use {again, change, direct, look};
