//! Connections and requests that go to the other engine.

use bytes::BytesMut;
use pingora_core::apps::{HttpServerApp as _, ServerApp as _};
use pingora_core::protocols::IO;
use pingora_core::protocols::http::ServerSession;
use tokio::sync::watch;

use super::Lane;
use super::connection::Connection;
use crate::frontend::{Guarded, Wire};

impl Lane {
    /// Gives a connection of HTTP/2 to the other engine, of which this has been read.
    pub(super) async fn hand_over_whole<S: IO + 'static>(
        &self,
        client: S,
        read: &[u8],
        stopping: &watch::Receiver<bool>,
    ) {
        let guarded = Guarded::new(client, Wire::Http2, self.patience.head).again(read.to_vec());
        self.other.process_new(Box::new(guarded), stopping).await;
    }
}

impl<S: IO + 'static> Connection<S> {
    /// Gives what has been read to the other engine, and takes the connection back after its
    /// request, if it is kept.
    pub(super) async fn hand_over(self) -> Option<Self> {
        let keep = !self.is_last();
        let Self {
            lane,
            pool,
            client,
            peer,
            local,
            tls,
            memory,
            requests,
            stopping,
            timer,
        } = self;
        let read = BytesMut::from(memory.up.data());
        pool.shelf.put(memory);
        let guarded = Guarded::new(client, Wire::Http1, lane.patience.head).after(&read);
        let mut session = ServerSession::new_http1(Box::new(guarded));
        session.set_keepalive(keep.then_some(lane.patience.keepalive.as_secs()));
        session.set_pipelined_prefix(read);
        let back = lane.other.process_new_http(session, &stopping).await?;
        let (stream, _) = back.consume();
        let guarded = stream.into_any().downcast::<Guarded<S>>().ok()?;
        Some(Self {
            client: guarded.into_inner().await?,
            memory: pool.shelf.take(),
            lane,
            pool,
            peer,
            local,
            tls,
            requests,
            stopping,
            timer,
        })
    }
}
