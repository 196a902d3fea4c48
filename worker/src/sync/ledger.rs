//! Buckets of rate limits that several workers share, kept in Redis.
//!
//! A bucket is one number there: when it will be full again (GCRA). It is changed by a script, by
//! Redis's own clock, and expires when it is full. One connection serves all; after a fault the
//! ledger counts as down until [`RedisLedger::run`] has a connection that answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::redis_link::{RedisLink, within};
use crate::config::RedisSettings;
use crate::gateway::chain::{Ledger, Taken, Want};

/// Longest a call may take; requests wait for it.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between attempts to reach a ledger that is down, and looks at one that is up.
const AGAIN: Duration = Duration::from_millis(500);

/// Times are microseconds after the beginning of 2024: small enough for a double's precision. A
/// clock that was put back cannot make a bucket emptier than empty.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = (time[1] - 1704067200) * 1000000 + time[2]
local period, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
full = math.min(math.max(full, now), now + burst * period)
local room = math.floor(burst - (full - now) / period + 0.000001)
local tokens = math.max(0, math.min(want, room))
if tokens > 0 then
  full = full + tokens * period
  redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000) + 1)
end
local wait = math.max(0, math.ceil(full - now - (burst - 1) * period))
return {tokens, math.max(0, room - tokens), wait}
";

/// The ledger.
#[derive(Debug)]
pub struct RedisLedger {
    link: RedisLink,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    connection: ArcSwapOption<MultiplexedConnection>,
    up: AtomicBool,
    wanted: Notify,
    fallen: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("up", &self.up).finish()
    }
}

impl RedisLedger {
    /// Not connected yet.
    pub fn new(settings: &RedisSettings) -> Arc<Self> {
        Arc::new(Self {
            link: RedisLink::new(settings.clone()),
            shared: Arc::new(Shared {
                script: Script::new(TAKE),
                connection: ArcSwapOption::empty(),
                up: AtomicBool::new(false),
                wanted: Notify::new(),
                fallen: Notify::new(),
            }),
        })
    }

    /// Keeps it connected from when a limit is opened for as long as the process lives.
    pub async fn run(&self) {
        let shared = &self.shared;
        shared.wanted.notified().await;
        let mut told = false;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    shared.connection.store(Some(Arc::new(connection)));
                    shared.up.store(true, Ordering::Release);
                    log::info!("rate limits are shared over Redis");
                    told = false;
                    self.watch().await;
                    shared.connection.store(None);
                }
                Err(cause) if !told => {
                    told = true;
                    log::warn!("Redis is out of reach, each worker limits by itself: {cause}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.link.connection(0).await?;
        ping(&mut connection).await?;
        Ok(connection)
    }

    /// Returns when the connection has failed, in a call or while nobody called.
    async fn watch(&self) {
        let shared = &self.shared;
        while shared.up.load(Ordering::Acquire) {
            // Either end of the wait is followed by a look.
            let _ = timeout(AGAIN, shared.fallen.notified()).await;
            let Some(connection) = shared.connection.load_full() else {
                return;
            };
            if ping(&mut (*connection).clone()).await.is_err() {
                shared.fall();
            }
        }
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    within(redis::cmd("PING").query_async(connection)).await
}

impl Shared {
    fn fall(&self) {
        self.up.store(false, Ordering::Release);
        self.fallen.notify_one();
    }

    async fn take(&self, want: &Want) -> RedisResult<Taken> {
        let connection = self.connection.load_full();
        let connection = connection.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let mut connection = (*connection).clone();
        let period = want.period.as_secs_f64() * 1e6;
        let mut call = self.script.key(&want.bucket);
        call.arg(period).arg(want.burst).arg(want.tokens);
        let taking = call.invoke_async::<(u32, u32, u64)>(&mut connection);
        let (tokens, left, wait) = timeout(PATIENCE, taking)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Taken {
            tokens,
            left,
            wait: Duration::from_micros(wait),
        })
    }
}

impl Ledger for RedisLedger {
    fn open(&self) {
        self.shared.wanted.notify_one();
    }

    fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    fn take(&self, want: Want) -> BoxFuture<'static, Option<Taken>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match shared.take(&want).await {
                Ok(taken) => Some(taken),
                Err(cause) => {
                    if shared.up.load(Ordering::Acquire) {
                        log::warn!("Redis fails, each worker limits by itself: {cause}");
                    }
                    shared.fall();
                    None
                }
            }
        })
    }
}
