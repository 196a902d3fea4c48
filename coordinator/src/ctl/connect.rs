//! Where the coordinator is and with which secret it is asked: the command line, then the
//! environment, then the coordinator's own configuration file.

use std::path::{Path, PathBuf};

use patchbay_common::cli::CommonArgs;
use patchbay_common::config::{ConfigError, Secret, environment};

use super::arguments::Ctl;
use crate::config::{ApiPlace, DISCOVERY};

const TOKEN_VARIABLE: &str = "PATCHBAY_TOKEN";

/// Why there is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration file does not tell.
    #[error("{0}\n(or say --url and --token-file, or set PATCHBAY_URL and {TOKEN_VARIABLE})")]
    Config(#[from] ConfigError),
    /// The secret's file cannot be read.
    #[error("--token-file {file}: {cause}")]
    TokenFile {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The secret's file is empty.
    #[error("--token-file {}: it holds no secret", .0.display())]
    NoToken(PathBuf),
}

/// Whom to ask, and how.
#[derive(Debug)]
pub(super) struct Place {
    /// Base URL without a trailing slash.
    pub(super) url: String,
    pub(super) secret: Secret,
    pub(super) insecure: bool,
}

/// Finds the coordinator. The configuration file is read only for what nothing else says.
///
/// # Errors
/// [`ConnectError`].
pub(super) fn find(ctl: &Ctl, common: &CommonArgs) -> Result<Place, ConnectError> {
    let secret = match &ctl.token_file {
        Some(file) => Some(read_token(file)?),
        None => std::env::var(TOKEN_VARIABLE)
            .ok()
            .filter(|token| !token.is_empty())
            .map(Secret::new),
    };
    let (url, secret) = match (ctl.url.clone(), secret) {
        (Some(url), Some(secret)) => (url, secret),
        (url, secret) => {
            let file = DISCOVERY.find(common.config.as_deref());
            let place = ApiPlace::from_file(file.as_deref(), environment())?;
            (url.unwrap_or(place.url), secret.unwrap_or(place.secret))
        }
    };
    Ok(Place {
        url: url.trim_end_matches('/').to_owned(),
        secret,
        insecure: ctl.insecure,
    })
}

fn read_token(file: &Path) -> Result<Secret, ConnectError> {
    let text = std::fs::read_to_string(file).map_err(|cause| ConnectError::TokenFile {
        file: file.to_owned(),
        cause,
    })?;
    match text.trim() {
        "" => Err(ConnectError::NoToken(file.to_owned())),
        token => Ok(Secret::new(token)),
    }
}
