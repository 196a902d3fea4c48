//! A tunnel: a name on the gateway, and the local service behind it.

use std::str::FromStr;

use patchbay_common::config::Secret;
use patchbay_common::tunnel::TunnelId;

pub use patchbay_common::tunnel::Kind;

/// One service to lend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name on the gateway.
    pub id: TunnelId,
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
    /// Bytes cannot show a token.
    #[error("tunnel `{0}` carries TCP, which shows no token: leave the @ out and guard its port")]
    TcpToken(String),
    /// The target is not one we can dial.
    #[error("`{0}` is not a target: use http://host:port, https://host:port or tcp://host:port")]
    Target(String),
}

impl Tunnel {
    /// What it carries.
    pub fn kind(&self) -> Kind {
        match self.target.scheme {
            Scheme::Tcp => Kind::Tcp,
            Scheme::Http | Scheme::Https => Kind::Http,
        }
    }
}

impl Target {
    /// Its host, without brackets.
    pub fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What URLs of its pages begin with.
    pub fn base(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Http | Scheme::Tcp => "http",
        };
        format!("{scheme}://{}", self.authority)
    }
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
        let target: Target = target.parse()?;
        if target.scheme == Scheme::Tcp && visitor_token.is_some() {
            return Err(TunnelError::TcpToken(id.to_owned()));
        }
        Ok(Self {
            id: id.parse().map_err(|_| TunnelError::Id(id.to_owned()))?,
            visitor_token,
            target,
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
            "a@token=tcp://h:22",
        ] {
            assert!(text.parse::<Tunnel>().is_err(), "{text}");
        }
    }
}
