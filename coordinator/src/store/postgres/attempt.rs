//! How work is tried: on a connection of the pool, in a transaction where it needs one, again where
//! that helps. Macros, because no closure can promise a future that borrows from the transaction it
//! is handed. Who uses them has `pool` and `Doing` in scope.

/// Runs `work` in a transaction that writes, again if others got in its way or the connection was
/// cut before the commit was asked for.
macro_rules! change {
    ($pool:expr, $doing:expr, |$tx:ident| $work:expr) => {{
        let mut attempt = 1;
        let started = std::time::Instant::now();
        let outcome = loop {
            let mut committing = false;
            let outcome = async {
                let mut client = $pool.client($doing).await?;
                let $tx = pool::begin(&mut client, $doing, pool::Access::Write).await?;
                let answer = $work.await?;
                committing = true;
                $tx.commit().await.doing($doing)?;
                Ok(answer)
            };
            match outcome.await {
                Err(error) if pool::worth_another_try(&error, attempt, committing) => {
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

/// Runs `work` without a transaction around it, which would take two more round trips: for a single
/// statement, or for several that need not see the same moment. Only for what may be done twice: it
/// is tried again even if its connection is cut at the end.
macro_rules! direct {
    ($pool:expr, $doing:expr, |$client:ident| $work:expr) => {{
        let mut attempt = 1;
        let started = std::time::Instant::now();
        let outcome = loop {
            let outcome = async {
                let $client = $pool.client($doing).await?;
                $work.await
            };
            match outcome.await {
                Err(error) if pool::worth_another_try(&error, attempt, false) => {
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

/// Runs `work` in a transaction that sees one moment and writes nothing.
macro_rules! look {
    ($pool:expr, $doing:expr, |$tx:ident| $work:expr) => {
        direct!($pool, $doing, |client| async {
            let mut client = client;
            let $tx = pool::begin(&mut client, $doing, pool::Access::Read).await?;
            let answer = $work.await?;
            $tx.commit().await.doing($doing)?;
            Ok(answer)
        })
    };
}

pub(super) use {change, direct, look};
