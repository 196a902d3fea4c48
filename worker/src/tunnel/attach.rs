//! The multiplexed connection: taken over from the engine after its upgrade, run to its end.

use std::sync::Arc;

use patchbay_common::tunnel::mux::GatewayEnd;
use tokio::io::{AsyncRead, AsyncWrite};

use super::registry::Registry;
use super::session::Session;

impl Registry {
    /// Runs a session's multiplexed connection until it ends. The session outlives it by its time
    /// to live, so that its agent can come back to it.
    pub async fn attach<T>(&self, session: &Arc<Session>, io: T)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (opener, end) = match GatewayEnd::begin(io, self.settings.mux).await {
            Ok(begun) => begun,
            Err(cause) => {
                log::warn!("agent {}: its connection broke off: {cause}", session.agent);
                return;
            }
        };
        let (generation, replaced) = session.attach(opener);
        session.hear();
        log::info!("agent {} is connected", session.agent);
        tokio::select! {
            () = end.run() => log::info!("agent {} is not connected any more", session.agent),
            () = session.over.cancelled() => {}
            () = replaced.cancelled() => {}
        }
        session.detach(generation);
    }
}
