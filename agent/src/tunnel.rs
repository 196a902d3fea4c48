//! A tunnel: a name on the gateway, and the local service behind it.

use std::str::FromStr;

use patchbay_common::config::Secret;

/// Longest name of a tunnel.
const MAX_ID: usize = 63;

/// One service to lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name on the gateway.
    pub id: String,
    /// What visitors have to show, if anything.
    pub visitor_token: Option<Secret>,
    /// Where requests go.
    pub target: Target,
}

/// A local service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What it speaks.
    pub scheme: Scheme,
    /// `host:port`.
    pub authority: String,
}

/// What a local service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP in plaintext.
    Http,
    /// HTTP over TLS.
    Https,
    /// Bytes.
    Tcp,
}

/// Why a text is not a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// There is no `=`.
    #[error("`{0}` is not ID=URL or ID@TOKEN=URL")]
    Form(String),
    /// The name cannot be part of a URL's path.
    #[error("`{0}` cannot name a tunnel: use 1 to 63 of a-z, A-Z, 0-9, - and _")]
    Id(String),
    /// The token after `@` is empty.
    #[error("tunnel `{0}` has an empty visitor token: give one or leave the @ out")]
    Token(String),
    /// The target is not one we can dial.
    #[error("`{0}` is not a target: use http://host:port, https://host:port or tcp://host:port")]
    Target(String),
}

impl FromStr for Tunnel {
    type Err = TunnelError;

    fn from_str(text: &str) -> Result<Self, TunnelError> {
        let (name, target) = text
            .split_once('=')
            .ok_or_else(|| TunnelError::Form(text.to_owned()))?;
        let (id, visitor_token) = match name.split_once('@') {
            None => (name, None),
            Some((id, "")) => return Err(TunnelError::Token(id.to_owned())),
            Some((id, token)) => (id, Some(Secret::new(token))),
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=MAX_ID).contains(&id.len()) || !id.bytes().all(legal) {
            return Err(TunnelError::Id(id.to_owned()));
        }
        Ok(Self {
            id: id.to_owned(),
            visitor_token,
            target: target.parse()?,
        })
    }
}

impl FromStr for Target {
    type Err = TunnelError;

    fn from_str(text: &str) -> Result<Self, TunnelError> {
        let error = || TunnelError::Target(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        let (scheme, default_port) = match scheme {
            "http" => (Scheme::Http, Some(80)),
            "https" => (Scheme::Https, Some(443)),
            "tcp" => (Scheme::Tcp, None),
            _ => return Err(error()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(error());
        }
        let after_name = authority
            .rfind(']')
            .map_or(authority, |end| &authority[end..]);
        let authority = match (after_name.rsplit_once(':'), default_port) {
            (Some((_, port)), _) if port.parse::<u16>().is_ok_and(|port| port > 0) => {
                authority.to_owned()
            }
            (None, Some(port)) => format!("{authority}:{port}"),
            _ => return Err(error()),
        };
        Ok(Self { scheme, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_forms_are_read() {
        let web: Tunnel = "web=http://localhost:3000".parse().unwrap();
        assert_eq!((web.id.as_str(), web.visitor_token), ("web", None));
        assert_eq!(web.target.authority, "localhost:3000");
        let api: Tunnel = "api@secret=https://localhost/".parse().unwrap();
        assert_eq!(api.visitor_token.unwrap().expose(), "secret");
        assert_eq!(api.target.authority, "localhost:443");
        let ssh: Tunnel = "ssh=tcp://[::1]:22".parse().unwrap();
        assert_eq!(ssh.target.scheme, Scheme::Tcp);
        assert_eq!(ssh.target.authority, "[::1]:22");
    }

    #[test]
    fn mistakes_are_named() {
        for text in [
            "web",
            "=http://h",
            "a/b=http://h",
            "a@=http://h",
            "a=ftp://h",
            "a=tcp://h",
            "a=http://h/p",
            "a=http://h:0",
        ] {
            assert!(text.parse::<Tunnel>().is_err(), "{text}");
        }
    }
}
