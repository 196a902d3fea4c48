//! The incumbent's label `remote`, for dashboards that cannot do without: requests by the client's
//! address, and by the kernel's. Off unless the operator asks for it, and bounded then: what comes
//! beyond is counted under the empty label.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;

/// Most clients, and most kernels, that have series of their own.
const MOST: usize = 10_000;

/// Counts by who is at the other end.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    clients: DashMap<IpAddr, AtomicU64, ahash::RandomState>,
    kernels: DashMap<Box<str>, AtomicU64, ahash::RandomState>,
    other_clients: AtomicU64,
    other_kernels: AtomicU64,
}

impl Remotes {
    /// A request of this client's has ended, which this kernel has answered.
    pub(super) fn note(&self, client: Option<IpAddr>, kernel: Option<&str>) {
        if let Some(client) = client.map(|ip| ip.to_canonical()) {
            if let Some(count) = self.clients.get(&client) {
                count.fetch_add(1, Relaxed);
            } else if self.clients.len() < MOST {
                self.clients
                    .entry(client)
                    .or_default()
                    .fetch_add(1, Relaxed);
            } else {
                self.other_clients.fetch_add(1, Relaxed);
            }
        }
        if let Some(kernel) = kernel {
            if let Some(count) = self.kernels.get(kernel) {
                count.fetch_add(1, Relaxed);
            } else if self.kernels.len() < MOST {
                let entry = self.kernels.entry(kernel.into());
                entry.or_default().fetch_add(1, Relaxed);
            } else {
                self.other_kernels.fetch_add(1, Relaxed);
            }
        }
    }

    /// Requests by client, in the order of their addresses; the empty one stands for all others.
    pub(super) fn by_client(&self) -> Vec<(String, u64)> {
        let each = self.clients.iter();
        let each = each.map(|one| (one.key().to_string(), one.value().load(Relaxed)));
        sorted(each, self.other_clients.load(Relaxed))
    }

    /// The same by kernel.
    pub(super) fn by_kernel(&self) -> Vec<(String, u64)> {
        let each = self.kernels.iter();
        let each = each.map(|one| (one.key().to_string(), one.value().load(Relaxed)));
        sorted(each, self.other_kernels.load(Relaxed))
    }
}

fn sorted(each: impl Iterator<Item = (String, u64)>, others: u64) -> Vec<(String, u64)> {
    let mut all: Vec<_> = each.chain([(String::new(), others)]).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_bound_and_nothing_is_lost_beyond_it() {
        let remotes = Remotes::default();
        let more = u32::try_from(MOST).unwrap() + 7;
        for number in 0..more {
            let client = IpAddr::from(number.to_be_bytes());
            remotes.note(Some(client), Some("10.0.0.5:1"));
        }
        let clients = remotes.by_client();
        assert_eq!(clients.len(), MOST + 1);
        assert_eq!(clients[0], (String::new(), 7));
        assert_eq!(
            clients.iter().map(|(_, count)| count).sum::<u64>(),
            u64::from(more)
        );
        let kernels = [(String::new(), 0), ("10.0.0.5:1".into(), u64::from(more))];
        assert_eq!(remotes.by_kernel(), kernels);
    }
}
