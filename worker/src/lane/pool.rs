//! Idle upstream connections, the one used last first. One pool for each thread: a connection
//! stays where its events arrive.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::memory::Shelf;

/// Between looks at what has been idle for too long, or was closed by the app.
const SWEEP: Duration = Duration::from_secs(5);

/// The pools of all threads.
#[derive(Debug)]
pub(super) struct Pools {
    by_thread: Mutex<HashMap<ThreadId, Arc<Pool>>>,
    limit: usize,
    patience: Duration,
}

/// The pool of one thread.
#[derive(Debug)]
pub(super) struct Pool {
    /// Memory for the exchanges of the thread.
    pub(super) shelf: Shelf,
    idle: Mutex<Idle>,
    limit: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Idle {
    by_address: HashMap<SocketAddr, Vec<Rested>, ahash::RandomState>,
    count: usize,
}

#[derive(Debug)]
struct Rested {
    stream: TcpStream,
    since: Instant,
}

impl Pools {
    /// At most `limit` connections for each thread, each idle no longer than `patience`.
    pub(super) fn new(limit: usize, patience: Duration) -> Self {
        Self {
            by_thread: Mutex::default(),
            limit,
            patience,
        }
    }

    /// The pool of the running thread; called within its runtime.
    pub(super) fn here(&self) -> Arc<Pool> {
        let mut pools = lock(&self.by_thread);
        let pool = pools.entry(std::thread::current().id()).or_insert_with(|| {
            let pool = Arc::new(Pool {
                shelf: Shelf::default(),
                idle: Mutex::default(),
                limit: self.limit,
                patience: self.patience,
            });
            tokio::spawn(sweep(Arc::downgrade(&pool)));
            pool
        });
        Arc::clone(pool)
    }
}

impl Pool {
    /// A connection to this address that is open as far as can be told.
    pub(super) fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = lock(&self.idle);
        let idle = &mut *idle;
        let list = idle.by_address.get_mut(&address)?;
        while let Some(rested) = list.pop() {
            idle.count -= 1;
            if is_open(&rested.stream) {
                return Some(rested.stream);
            }
        }
        None
    }

    /// Keeps a connection for the next request. The oldest knowledge of the pool is its sweep, so
    /// a full pool drops what it is offered.
    pub(super) fn put(&self, address: SocketAddr, stream: TcpStream, now: Instant) {
        let mut idle = lock(&self.idle);
        if idle.count < self.limit {
            idle.count += 1;
            let list = idle.by_address.entry(address).or_default();
            list.push(Rested { stream, since: now });
        }
    }

    fn sweep(&self) {
        let patience = self.patience;
        let mut idle = lock(&self.idle);
        idle.by_address.retain(|_, list| {
            list.retain(|rested| rested.since.elapsed() < patience && is_open(&rested.stream));
            !list.is_empty()
        });
        idle.count = idle.by_address.values().map(Vec::len).sum();
    }
}

/// Whether the app has neither closed nor said anything unasked.
fn is_open(stream: &TcpStream) -> bool {
    let unasked = stream.try_read(&mut [0]);
    matches!(unasked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match pool.upgrade() {
            Some(pool) => pool.sweep(),
            None => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn the_last_one_used_comes_first_and_what_was_closed_never() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Pools::new(3, Duration::from_secs(60)).here();
        let mut others = Vec::new();
        let mut names = Vec::new();
        for _ in 0..4 {
            let (ours, theirs) = pair(&listener).await;
            names.push(ours.local_addr().unwrap());
            pool.put(address, ours, Instant::now());
            others.push(theirs);
        }
        // The fourth found no room.
        let third = pool.take(address).unwrap();
        assert_eq!(third.local_addr().unwrap(), names[2]);
        others[1].shutdown().await.unwrap();
        others[0].write_all(b"unasked").await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            pool.sweep();
            if lock(&pool.idle).count == 0 {
                break;
            }
            assert!(Instant::now() < deadline, "closed connections stay");
            tokio::task::yield_now().await;
        }
        assert!(pool.take(address).is_none());
    }

    #[tokio::test]
    async fn what_is_idle_for_too_long_is_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Pools::new(3, Duration::ZERO).here();
        let (ours, _theirs) = pair(&listener).await;
        pool.put(address, ours, Instant::now());
        pool.sweep();
        assert!(pool.take(address).is_none());
    }
}
