//! The `[tls]` section, and the three keys of the incumbent's that it adds to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use patchbay_common::config::{Loader, Mistake, Seconds, Strictness};
use serde::Deserialize;

use super::certificates::load;

/// Everything TLS runs by; the files named here could be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Never empty. The first is shown to clients that ask for no name, or for one nobody has.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version spoken.
    pub minimum_version: Version,
    /// Whether clients show certificates: of the worker its traffic, of the coordinator its API.
    pub clients: ClientCertificates,
    /// Whose signature on a client's certificate counts, PEM.
    pub client_ca: Option<PathBuf>,
    /// Between looks at the files for changes; zero: only SIGHUP reads them anew.
    pub reload_interval: Duration,
}

/// A certificate chain and its private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The dotted key that names the chain, for messages.
    pub cert_key: String,
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// The dotted key that names the private key, for messages.
    pub privkey_key: String,
    /// Private key.
    pub privkey: PathBuf,
    /// Names it is shown for; empty: those it bears itself.
    pub names: Vec<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that is shown has to be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// `[tls]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Section {
    minimum_version: Version,
    client_certificates: ClientCertificates,
    client_ca: Option<PathBuf>,
    reload_interval: Seconds,
    certificates: Vec<CertificateSection>,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            minimum_version: Version::default(),
            client_certificates: ClientCertificates::default(),
            client_ca: None,
            reload_interval: Seconds::from_secs(10),
            certificates: Vec::new(),
        }
    }
}

/// `[[tls.certificates]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CertificateSection {
    cert: Option<PathBuf>,
    privkey: Option<PathBuf>,
    names: Vec<String>,
}

/// What the incumbent's section says about TLS.
#[derive(Clone, Copy, Debug)]
pub struct Incumbent<'a> {
    /// The section's name.
    pub section: &'static str,
    /// `tls_listen`.
    pub listen: bool,
    /// `tls_cert`.
    pub cert: Option<&'a Path>,
    /// `tls_privkey`.
    pub privkey: Option<&'a Path>,
}

/// Reads `[tls]` beside `tls_listen`, `tls_cert` and `tls_privkey` of a program's own section
/// (contract/config.md §3 and §4); `None` without `tls_listen`. Mistakes go to the loader.
pub fn read(loader: &mut Loader, incumbent: Incumbent<'_>) -> Option<Plan> {
    let section: Section = loader.section("tls", Strictness::Ours);
    let mut certificates = Vec::new();
    let Incumbent {
        section: theirs,
        listen,
        cert,
        privkey,
    } = incumbent;
    if !listen {
        if !section.certificates.is_empty() {
            let fix = format!("has no effect: set {theirs}.tls_listen = true");
            loader.mistake(Mistake::new("tls.certificates", fix));
        }
        return None;
    }
    if section.certificates.is_empty() || cert.is_some() || privkey.is_some() {
        certificates.push(CertificateFiles {
            cert_key: format!("{theirs}.tls_cert"),
            cert: loader.require(theirs, "tls_cert", cert.map(Path::to_owned)),
            privkey_key: format!("{theirs}.tls_privkey"),
            privkey: loader.require(theirs, "tls_privkey", privkey.map(Path::to_owned)),
            names: Vec::new(),
        });
    }
    for (index, one) in section.certificates.iter().enumerate() {
        certificates.push(one.read(loader, index));
    }
    let plan = Plan {
        certificates,
        minimum_version: section.minimum_version,
        clients: section.client_certificates,
        client_ca: section.client_ca,
        reload_interval: section.reload_interval.0,
    };
    plan.check(loader);
    Some(plan)
}

impl CertificateSection {
    fn read(&self, loader: &mut Loader, index: usize) -> CertificateFiles {
        let place = format!("tls.certificates[{index}]");
        let mut names = Vec::new();
        for name in &self.names {
            match normal_name(name) {
                Some(name) => names.push(name),
                None => loader.mistake(Mistake::new(
                    format!("{place}.names"),
                    format!("`{name}` is not a name: write app.example or *.app.example"),
                )),
            }
        }
        CertificateFiles {
            cert: loader.require(&place, "cert", self.cert.clone()),
            cert_key: format!("{place}.cert"),
            privkey: loader.require(&place, "privkey", self.privkey.clone()),
            privkey_key: format!("{place}.privkey"),
            names,
        }
    }
}

/// Loads what the plan names, without keeping it, and notes what is wrong. Files that are known to
/// be unreadable are not tried again.
pub fn examine(plan: &Plan, loader: &mut Loader) {
    if plan.files().any(|(key, _)| loader.is_mistaken(key)) {
        return;
    }
    if let Err(errors) = load(plan) {
        for error in errors.0 {
            loader.mistake(Mistake::of_line(&error.to_string()));
        }
    }
}

impl Plan {
    /// One certificate, and everything else as it is by default.
    pub fn of_pair(section: &str, cert: PathBuf, privkey: PathBuf) -> Self {
        Self {
            certificates: vec![CertificateFiles {
                cert_key: format!("{section}.tls_cert"),
                cert,
                privkey_key: format!("{section}.tls_privkey"),
                privkey,
                names: Vec::new(),
            }],
            minimum_version: Version::default(),
            clients: ClientCertificates::default(),
            client_ca: None,
            reload_interval: Section::default().reload_interval.0,
        }
    }

    /// Every file, with the key that names it.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        let pairs = self.certificates.iter().flat_map(|one| {
            [
                (one.cert_key.as_str(), one.cert.as_path()),
                (one.privkey_key.as_str(), one.privkey.as_path()),
            ]
        });
        pairs.chain(self.client_ca.iter().map(|ca| ("tls.client_ca", &**ca)))
    }

    fn check(&self, loader: &mut Loader) {
        for (key, path) in self.files() {
            if let Err(cause) = std::fs::File::open(path)
                && !path.as_os_str().is_empty()
            {
                let problem = format!("{} cannot be read: {cause}", path.display());
                loader.mistake(Mistake::new(key, problem));
            }
        }
        if self.clients != ClientCertificates::None && self.client_ca.is_none() {
            loader.mistake(Mistake::new(
                "tls.client_ca",
                "is missing: client_certificates needs the authority that signs them",
            ));
        }
        if self.clients == ClientCertificates::None && self.client_ca.is_some() {
            loader.mistake(Mistake::new(
                "tls.client_certificates",
                "is missing: client_ca alone asks no client for a certificate; write optional or \
                 required",
            ));
        }
    }
}

/// A host name as it is looked up: lower case, no dot at the end, `*` only as the whole first
/// label. `None` if it is none.
pub(super) fn normal_name(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let rest = name.strip_prefix("*.").unwrap_or(&name);
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    rest.split('.').all(label).then_some(name)
}
