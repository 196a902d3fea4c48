//! TLS of the worker's listeners.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora_core::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::TlsFiles;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate chain cannot be read.
    #[error("tls_cert: {} holds no readable certificate chain: {cause}", file.display())]
    Chain {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: rustls::pki_types::pem::Error,
    },
    /// The private key cannot be read.
    #[error("tls_privkey: {} holds no readable private key: {cause}", file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: rustls::pki_types::pem::Error,
    },
    /// Chain and key do not fit each other, or are of no use.
    #[error("tls_cert and tls_privkey: {0}")]
    Unusable(rustls::Error),
}

/// TLS 1.2 and 1.3 with the certificate in these files.
///
/// # Errors
/// What is wrong with them.
pub fn load(files: &TlsFiles) -> Result<Arc<Acceptor>, TlsError> {
    let chain_error = |cause| TlsError::Chain {
        file: files.cert.clone(),
        cause,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(chain_error)?;
    if chain.is_empty() {
        return Err(chain_error(rustls::pki_types::pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| TlsError::Key {
        file: files.key.clone(),
        cause,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(Acceptor::from_server_config(Arc::new(config))))
}

/// TLS with the certificate in use, which a reload exchanges. Connections keep the one they began
/// with.
pub type LiveTls = Arc<ArcSwap<Acceptor>>;

/// Takes the certificate in these files into use; one that cannot be used leaves the old in place.
pub fn reload(files: &TlsFiles, live: &LiveTls) {
    match load(files) {
        Ok(tls) => {
            live.store(tls);
            log::info!("the certificate in {} is in use", files.cert.display());
        }
        Err(error) => log::error!("the certificate in use stays: {error}"),
    }
}
