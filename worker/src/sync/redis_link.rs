//! Connecting to Redis, at a fixed address or wherever the sentinels say, with a limit on every
//! wait.

use std::io;
use std::time::Duration;

use patchbay_common::config::{HostPort, RedisAddress};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisResult,
};
use tokio::time::timeout;

use crate::config::RedisSettings;

/// How long connecting, subscribing or one round trip may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How Redis is reached.
#[derive(Clone, Debug)]
pub(super) struct RedisLink(RedisSettings);

impl RedisLink {
    pub(super) fn new(settings: RedisSettings) -> Self {
        Self(settings)
    }

    /// A connection for messages.
    pub(super) async fn pubsub(&self) -> RedisResult<PubSub> {
        let client = self.client(0).await?;
        within(client.get_async_pubsub()).await
    }

    /// A connection for commands on database `db`.
    pub(super) async fn connection(&self, db: i64) -> RedisResult<MultiplexedConnection> {
        connect(&self.client(db).await?).await
    }

    async fn client(&self, db: i64) -> RedisResult<Client> {
        match &self.0.address {
            RedisAddress::Single(address) => self.open(address, db),
            RedisAddress::Sentinel {
                nodes,
                service_name,
            } => {
                let mut last = None;
                for node in nodes {
                    match self.ask(node, service_name).await {
                        Ok(Some(address)) => return self.open(&address, db),
                        Ok(None) => {}
                        Err(cause) => last = Some(cause),
                    }
                }
                Err(last.unwrap_or_else(|| {
                    let text = format!("no sentinel knows `{service_name}`");
                    io::Error::new(io::ErrorKind::NotFound, text).into()
                }))
            }
        }
    }

    /// Where this sentinel says the server is.
    async fn ask(&self, sentinel: &HostPort, service: &str) -> RedisResult<Option<HostPort>> {
        let client = Client::open(address(sentinel).into_connection_info()?)?;
        let mut connection = connect(&client).await?;
        let found: Option<(String, u16)> = redis::cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(service)
            .query_async(&mut connection)
            .await?;
        Ok(found.map(|(host, port)| HostPort::new(host, port)))
    }

    fn open(&self, at: &HostPort, db: i64) -> RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default().set_db(db);
        if let Some(password) = &self.0.password {
            settings = settings.set_password(password.expose());
        }
        let info = address(at).into_connection_info()?;
        Client::open(info.set_redis_settings(settings))
    }
}

fn address(at: &HostPort) -> ConnectionAddr {
    ConnectionAddr::Tcp(at.host.clone(), at.port)
}

async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    within(client.get_multiplexed_async_connection_with_config(&config)).await
}

/// The answer, or an error if it takes too long.
pub(super) async fn within<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// A connection that is made when it is needed, and made anew after a fault.
#[derive(Debug)]
pub(super) struct LiveConnection {
    link: RedisLink,
    db: i64,
    connection: Option<MultiplexedConnection>,
}

impl LiveConnection {
    pub(super) fn new(link: RedisLink, db: i64) -> Self {
        Self {
            link,
            db,
            connection: None,
        }
    }

    /// Runs the commands in one round trip. A kept connection that turns out to be dead is
    /// replaced once: the commands must bear being sent twice.
    pub(super) async fn run(&mut self, pipe: &Pipeline) -> RedisResult<()> {
        if let Some(mut connection) = self.connection.take() {
            match pipe.query_async::<()>(&mut connection).await {
                Ok(()) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(cause) if cause.is_timeout() => return Err(cause),
                Err(cause) => log::debug!("connecting to Redis again: {cause}"),
            }
        }
        let mut connection = self.link.connection(self.db).await?;
        pipe.query_async::<()>(&mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
