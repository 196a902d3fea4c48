//! Certificates, read from their files and chosen by name.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;

use super::settings::{CertificateFiles, ClientCertificates, Plan, Version, normal_name};

/// What is wrong with one of the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It holds no certificate that can be read.
    #[error("{key}: {} holds no readable certificate: {cause}", file.display())]
    Certificate {
        /// The dotted key that names it.
        key: String,
        /// The file.
        file: PathBuf,
        /// Why.
        cause: String,
    },
    /// It holds no private key that can be read.
    #[error("{key}: {} holds no readable private key: {cause}", file.display())]
    Key {
        /// The dotted key that names it.
        key: String,
        /// The file.
        file: PathBuf,
        /// Why.
        cause: rustls::pki_types::pem::Error,
    },
    /// Chain and key do not fit each other, or are of no use.
    #[error("{key}: {} and its private key are of no use together: {cause}", file.display())]
    Pair {
        /// The dotted key that names the chain.
        key: String,
        /// The chain's file.
        file: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// No client's certificate could be verified.
    #[error("tls.client_ca: {} holds no authority of use: {cause}", file.display())]
    Authority {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: String,
    },
    /// The library refuses the settings.
    #[error("tls: {0}")]
    Unusable(rustls::Error),
}

/// Everything that is wrong with the files.
#[derive(Debug)]
pub struct TlsErrors(pub Vec<TlsError>);

impl fmt::Display for TlsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "\n" };
            write!(f, "{between}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TlsErrors {}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Its first name, or its file's.
    pub certificate: String,
    /// Unix seconds.
    pub not_after: i64,
}

/// Everything read from the files.
pub(super) struct Loaded {
    pub(super) config: ServerConfig,
    /// The same, but clients are not asked for certificates.
    pub(super) open: ServerConfig,
    pub(super) expiries: Vec<Expiry>,
}

/// Reads every file of the plan.
///
/// # Errors
/// What is wrong with them, all together.
pub(super) fn load(plan: &Plan) -> Result<Loaded, TlsErrors> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut mistakes = Vec::new();
    let mut choice = Choice::default();
    let mut expiries = Vec::new();
    for files in &plan.certificates {
        match read_pair(files, &provider) {
            Ok((pair, facts)) => {
                let names = if files.names.is_empty() {
                    &facts.names
                } else {
                    &files.names
                };
                choice.add(Arc::new(pair), names);
                expiries.push(Expiry {
                    certificate: facts.title(&files.cert),
                    not_after: facts.not_after,
                });
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    let clients = match client_verifier(plan, &provider) {
        Ok(clients) => clients,
        Err(mistake) => {
            mistakes.push(mistake);
            None
        }
    };
    if !mistakes.is_empty() {
        return Err(TlsErrors(mistakes));
    }
    let choice = Arc::new(choice);
    let config = |clients| server_config(plan.minimum_version, &provider, clients, &choice);
    match (config(clients), config(None)) {
        (Ok(config), Ok(open)) => Ok(Loaded {
            config,
            open,
            expiries,
        }),
        (Err(cause), _) | (_, Err(cause)) => Err(TlsErrors(vec![TlsError::Unusable(cause)])),
    }
}

fn server_config(
    minimum: Version,
    provider: &Arc<CryptoProvider>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    choice: &Arc<Choice>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = match minimum {
        Version::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Version::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::clone(choice) as _);
    // Sessions are resumed by tickets, so that nothing is kept for a client that is gone. The
    // keys go with the configuration: a changed authority is asked anew.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

/// What a certificate says about itself.
struct Facts {
    names: Vec<String>,
    not_after: i64,
}

impl Facts {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|cause| cause.to_string())?;
        let alternatives = parsed
            .subject_alternative_name()
            .map_err(|cause| cause.to_string())?;
        let names = alternatives.into_iter().flat_map(|extension| {
            extension.value.general_names.iter().filter_map(|name| {
                let GeneralName::DNSName(name) = name else {
                    return None;
                };
                normal_name(name)
            })
        });
        Ok(Self {
            names: names.collect(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    fn title(&self, file: &Path) -> String {
        let name = self.names.first().cloned();
        name.unwrap_or_else(|| {
            let name = file.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        })
    }
}

fn read_chain(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let error = |cause: rustls::pki_types::pem::Error| TlsError::Certificate {
        key: key.to_owned(),
        file: file.to_owned(),
        cause: cause.to_string(),
    };
    match chain {
        Ok(chain) if chain.is_empty() => Err(error(rustls::pki_types::pem::Error::NoItemsFound)),
        Ok(chain) => Ok(chain),
        Err(cause) => Err(error(cause)),
    }
}

fn read_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Facts), TlsError> {
    let chain = read_chain(&files.cert_key, &files.cert)?;
    let facts = chain.first().map(Facts::of).unwrap_or(Err(String::new()));
    let facts = facts.map_err(|cause| TlsError::Certificate {
        key: files.cert_key.clone(),
        file: files.cert.clone(),
        cause,
    })?;
    let key = PrivateKeyDer::from_pem_file(&files.privkey).map_err(|cause| TlsError::Key {
        key: files.privkey_key.clone(),
        file: files.privkey.clone(),
        cause,
    })?;
    let pair = CertifiedKey::from_der(chain, key, provider).map_err(|cause| TlsError::Pair {
        key: files.cert_key.clone(),
        file: files.cert.clone(),
        cause,
    })?;
    Ok((pair, facts))
}

fn client_verifier(
    plan: &Plan,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (Some(file), ClientCertificates::Optional | ClientCertificates::Required) =
        (&plan.client_ca, plan.clients)
    else {
        return Ok(None);
    };
    let error = |cause: String| TlsError::Authority {
        file: file.clone(),
        cause,
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_chain("tls.client_ca", file)? {
        roots
            .add(certificate)
            .map_err(|cause| error(cause.to_string()))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match plan.clients {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        _ => builder,
    };
    builder
        .build()
        .map(Some)
        .map_err(|cause| error(cause.to_string()))
}

/// Certificates by the names they are shown for. Of several for one name the first is taken whose
/// key the client can verify, so that an RSA certificate may stand beside an ECDSA one.
#[derive(Debug, Default)]
struct Choice {
    default: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the `*`, with its dot.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Choice {
    fn add(&mut self, pair: Arc<CertifiedKey>, names: &[String]) {
        if self.default.is_empty() {
            self.default.push(Arc::clone(&pair));
        }
        for name in names {
            let (table, name) = match name.strip_prefix('*') {
                Some(suffix) => (&mut self.wildcard, suffix),
                None => (&mut self.exact, name.as_str()),
            };
            table
                .entry(name.to_owned())
                .or_default()
                .push(Arc::clone(&pair));
        }
    }

    /// An exact name goes before a wildcard, which stands for one label (RFC 6125 §6.4.3).
    fn find(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.and_then(normal_name) else {
            return &self.default;
        };
        let parent = name.find('.').map(|dot| &name[dot..]);
        self.exact
            .get(&name)
            .or_else(|| self.wildcard.get(parent?))
            .unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = self.find(hello.server_name());
        let schemes = hello.signature_schemes();
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        found.iter().find(fits).or(found.first()).cloned()
    }
}
