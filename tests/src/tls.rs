//! Certificates of our own making, and a TLS client that tells what it was shown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert: String,
    /// Its private key, PEM.
    pub key: String,
    /// The certificate as it is shown.
    pub der: CertificateDer<'static>,
    /// Its private key.
    pub key_der: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self { issuer })
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names, good until the end of 2090.
    ///
    /// # Errors
    /// If one is not a name.
    pub fn issue(&self, names: &[&str]) -> anyhow::Result<Issued> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_after = rcgen::date_time_ymd(2090, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().clone(),
            key_der: PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?,
        })
    }
}

impl Authority {
    /// How a server shakes hands that shows `own` and wants a certificate of this authority's.
    ///
    /// # Errors
    /// If the library refuses them.
    pub fn guarding(&self, own: &Issued) -> anyhow::Result<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let guard =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(guard.build()?)
            .with_single_cert(vec![own.der.clone()], own.key_der.clone_key())?;
        Ok(config)
    }
}

impl Issued {
    /// Writes `name.crt` and `name.key` into a folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let cert = folder.join(format!("{name}.crt"));
        let key = folder.join(format!("{name}.key"));
        std::fs::write(&key, &self.key)?;
        std::fs::write(&cert, &self.cert)?;
        Ok((cert, key))
    }
}

/// How a client shakes hands.
#[derive(Clone)]
pub struct Hands {
    config: ClientConfig,
}

impl Hands {
    /// Believes this authority, offers these protocols, shows this certificate.
    ///
    /// # Errors
    /// If the library refuses them.
    pub fn new(
        authority: &Authority,
        protocols: &[&str],
        shown: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut config = match shown {
            Some(shown) => {
                builder.with_client_auth_cert(vec![shown.der.clone()], shown.key_der.clone_key())?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Ok(Self { config })
    }

    /// Believes this authority, offers these protocols.
    ///
    /// # Errors
    /// If the library refuses them.
    pub fn offering(authority: &Authority, protocols: &[&str]) -> anyhow::Result<Self> {
        Self::new(authority, protocols, None, rustls::DEFAULT_VERSIONS)
    }

    /// Shakes hands, asking for this name.
    ///
    /// # Errors
    /// If the server refuses, or what it shows is not good for the name.
    pub async fn shake(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let name = ServerName::try_from(name.to_owned())?;
        let shaken = tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await;
        Ok(shaken.context("the handshake does not end")??)
    }

    /// As [`Hands::shake`]; answers with the certificate shown.
    ///
    /// # Errors
    /// As [`Hands::shake`].
    pub async fn shown(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> anyhow::Result<CertificateDer<'static>> {
        let stream = self.shake(address, name).await?;
        let chain = stream.get_ref().1.peer_certificates();
        let shown = chain.and_then(<[_]>::first).context("nothing was shown")?;
        Ok(shown.clone().into_owned())
    }
}
