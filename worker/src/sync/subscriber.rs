//! The Redis bus: subscribes to the events, notices silence, comes back.

use std::io;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use patchbay_common::event::{CHANNEL, Message};
use patchbay_common::gateway;
use redis::{RedisError, RedisResult};

use super::backoff::{Backoff, Outage};
use super::inbox::{Inbox, Input, Via};
use super::redis_link::{RedisLink, within};
use super::services;
use super::status::{Board, Reach, RedisState};

/// Between pings. One that is not answered within the link's patience ends the subscription, so
/// a connection that died without a word is noticed within four seconds.
const PING: Duration = Duration::from_secs(2);

/// Stays subscribed for ever.
pub(super) async fn run(
    link: RedisLink,
    inbox: Inbox,
    services: Option<services::Inbox>,
    board: Board,
) {
    let ears = Ears { inbox, services };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut outage = Outage::new("the subscription on Redis");
    let mut times = 0;
    loop {
        times += 1;
        let before = Instant::now();
        let cause = match subscribe(&link, &ears, &board, times, &mut outage).await {
            Ok(never) => match never {},
            Err(cause) => cause,
        };
        outage.failed(&cause);
        board.write(|status| {
            status.redis_reach = Reach::failed(&cause);
            if !matches!(status.redis, Some(RedisState::Down(_))) {
                status.redis = Some(RedisState::Down(Instant::now()));
            }
        });
        if before.elapsed() > Duration::from_secs(5) {
            backoff.reset();
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

/// Who wants to hear.
struct Ears {
    inbox: Inbox,
    /// Where the services are kept, if there is a gateway.
    services: Option<services::Inbox>,
}

/// Cannot be made: a subscription only ends by an error.
enum Never {}

async fn subscribe(
    link: &RedisLink,
    ears: &Ears,
    board: &Board,
    times: u64,
    outage: &mut Outage,
) -> RedisResult<Never> {
    let (mut sink, mut messages) = within(link.pubsub()).await?.split();
    within(sink.subscribe(CHANNEL)).await?;
    if let Some(services) = &ears.services {
        within(sink.subscribe(gateway::CHANNEL)).await?;
        services.leave(services::Input::Resync);
    }
    outage.over();
    board.write(|status| {
        status.redis_reach = Reach::ok();
        status.redis = Some(RedisState::Subscribed(times));
    });
    ears.inbox.tell(Input::Subscribed(times)).await;
    let reading = async {
        while let Some(message) = messages.next().await {
            let wire = message.get_payload_bytes();
            match &ears.services {
                Some(services) if message.get_channel_name() == gateway::CHANNEL => {
                    services.wire(wire);
                }
                _ => receive(wire, &ears.inbox),
            }
        }
        closed()
    };
    let pinging = async {
        loop {
            tokio::time::sleep(PING).await;
            if let Err(cause) = within(sink.ping::<redis::Value>()).await {
                return cause;
            }
            board.write(|status| status.redis_reach = Reach::ok());
        }
    };
    tokio::select! {
        cause = reading => Err(cause),
        cause = pinging => Err(cause),
    }
}

fn receive(wire: &[u8], inbox: &Inbox) {
    match Message::from_wire(wire) {
        Ok(Some(message)) => inbox.message(message, Via::Redis),
        // The channel is shared; other events are not ours to read.
        Ok(None) => {}
        Err(cause) => {
            log::warn!("an event cannot be read, fetching instead: {cause}");
            inbox.resync();
        }
    }
}

fn closed() -> RedisError {
    io::Error::new(io::ErrorKind::ConnectionReset, "closed by Redis").into()
}
