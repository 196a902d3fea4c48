//! Puts the rooms together.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use patchbay_common::lifecycle::{Drain, Notify, Outcome};
use patchbay_common::tunnel::Registered;
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::carry::Carrier;
use crate::config::Config;
use crate::control::Control;
use crate::gauge::{self, Gauge};
use crate::poll::Poller;
use crate::session::Keeper;

/// How long a good-bye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the start would load, without keeping it.
///
/// # Errors
/// What is wrong.
pub fn check(config: &Config) -> anyhow::Result<()> {
    for gateway in &config.gateways {
        Control::new(config, gateway)?;
    }
    tls(config)?;
    Ok(())
}

/// How `https` targets are trusted: by the certificates given, else as the system does.
fn tls(config: &Config) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match &config.target_ca {
        None => builder.with_platform_verifier()?.with_no_client_auth(),
        Some(pem) => {
            use rustls::pki_types::pem::PemObject as _;
            let mut roots = rustls::RootCertStore::empty();
            for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.context("agent.target_ca")?)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(Arc::new(config))
}

/// Lends until told to stop.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("the limit on open files cannot be raised: {error}");
    }
    let (drain, gauge) = (Drain::new(), Arc::new(Gauge::default()));
    let carrier = Carrier::new(
        config.tunnels.clone(),
        tls(&config)?,
        Arc::clone(&gauge),
        drain.clone(),
    );
    if let Some(address) = config.metrics {
        let listener = gauge::bind(address).await;
        let listener = listener.with_context(|| format!("agent.metrics: {address}"))?;
        tokio::spawn(gauge::serve(listener, Arc::clone(&gauge)));
    }
    let mut sessions = Vec::new();
    for gateway in &config.gateways {
        let (session, current) = watch::channel(None);
        let control = Control::new(&config, gateway).context("the gateway's certificates")?;
        let poller = Poller::new(
            control.clone(),
            config.tunnels.clone(),
            config.target_ca.as_deref(),
            Arc::clone(&gauge),
            drain.clone(),
        )?;
        let keeper = Keeper {
            config: config.clone(),
            control: control.clone(),
            carrier: Arc::clone(&carrier),
            poller,
            gauge: Arc::clone(&gauge),
            drain: drain.clone(),
            session,
            up: AtomicBool::new(false),
        };
        tokio::spawn(async move { keeper.run().await });
        sessions.push(Session { control, current });
    }
    tokio::spawn(Notify.feed_watchdog());
    // Holds up the drain until the gateway sends no more.
    let holding = drain.enter();
    let (stopping, telling) = (drain.clone(), sessions.clone());
    tokio::spawn(async move {
        let _holding = holding;
        stopping.stopping().await;
        Notify.stopping();
        goodbye(&telling, async |control: &Control, session: &str| {
            control.drain(session).await
        })
        .await;
    });
    let outcome = drain.run_until_signalled(config.grace).await?;
    if let Outcome::GraceOver(left) | Outcome::Forced(left) = outcome {
        log::warn!("{left} streams are cut off");
    }
    goodbye(&sessions, async |control: &Control, session: &str| {
        control.leave(session).await
    })
    .await;
    Ok(())
}

/// The session with one gateway, as it stands.
#[derive(Clone)]
struct Session {
    control: Control,
    current: watch::Receiver<Option<Registered>>,
}

/// Tells all gateways at once.
async fn goodbye<E>(sessions: &[Session], tell: impl AsyncFn(&Control, &str) -> Result<(), E>) {
    let tell = &tell;
    let told = sessions.iter().map(|one| async move {
        let session = one
            .current
            .borrow()
            .as_ref()
            .map(|one| one.session_id.clone());
        if let Some(session) = session {
            // A gateway that is away finds out by itself.
            let _ = timeout(GOODBYE, tell(&one.control, &session)).await;
        }
    });
    futures_util::future::join_all(told).await;
}
