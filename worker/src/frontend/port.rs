//! A range of ports: each bound by itself, failures reported and tried again.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashSet;

use patchbay_listen::ListenError;

use super::{Acceptor, Carry};
use crate::handover::Listeners;

/// Between tries for ports that were taken.
const RETRY: Duration = Duration::from_secs(5);

/// The ports of the worker's range.
#[derive(Debug)]
pub struct PortRange {
    address: IpAddr,
    bound: Vec<TcpListener>,
    missing: Vec<u16>,
    open: Arc<DashSet<u16>>,
    listeners: Arc<Listeners>,
}

impl PortRange {
    /// Binds every port of the range that can be had, or takes it over; says which cannot.
    ///
    /// # Errors
    /// If not one can be had.
    pub fn bind(
        listeners: &Arc<Listeners>,
        address: IpAddr,
        (first, last): (u16, u16),
    ) -> Result<Self, ListenError> {
        let mut range = Self {
            listeners: Arc::clone(listeners),
            address,
            bound: Vec::new(),
            missing: Vec::new(),
            open: Arc::new(DashSet::new()),
        };
        let mut failure = None;
        for port in first..=last {
            match listeners.listen(SocketAddr::new(address, port)) {
                Ok(listener) => {
                    range.open.insert(port);
                    range.bound.push(listener);
                }
                Err(error) => {
                    log::error!("{error}: circuits on this port are not served until it is free");
                    range.missing.push(port);
                    failure = Some(error);
                }
            }
        }
        match failure {
            Some(error) if range.bound.is_empty() => Err(error),
            _ => Ok(range),
        }
    }

    /// The ports that are bound, kept current.
    pub fn open(&self) -> Arc<DashSet<u16>> {
        Arc::clone(&self.open)
    }

    /// Accepts on every port until the process stops.
    pub async fn run<C: Carry>(self, acceptor: Acceptor<C>) {
        let mut loops = tokio::task::JoinSet::new();
        for listener in self.bound {
            loops.spawn(acceptor.clone().run(listener));
        }
        let mut missing = self.missing;
        while !missing.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                Some(_) = loops.join_next() => return,
            }
            missing.retain(|port| {
                match self.listeners.listen(SocketAddr::new(self.address, *port)) {
                    Ok(listener) => {
                        log::info!("port {port} is free now and bound");
                        self.open.insert(*port);
                        loops.spawn(acceptor.clone().run(listener));
                        false
                    }
                    Err(_) => true,
                }
            });
        }
        while loops.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_does_not_hold_up_the_others() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let listeners = Arc::default();
        assert!(PortRange::bind(&listeners, address, (port, port)).is_err());
        let Some(last) = port.checked_add(4) else {
            return;
        };
        if let Ok(range) = PortRange::bind(&listeners, address, (port, last)) {
            assert!(range.missing.contains(&port));
            assert!(!range.open().contains(&port));
            assert_eq!(range.bound.len() + range.missing.len(), 5);
        }
    }
}
