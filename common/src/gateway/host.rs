//! Host patterns.

/// Longest name there is (RFC 1035 §2.3.4), in text and with its last dot.
pub const MAX_NAME: usize = 254;

/// A host a route takes; lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name only.
    Exact(String),
    /// Every name that ends in this; it begins with a dot.
    Suffix(String),
}

impl HostPattern {
    /// Parses `name` or `*.suffix`.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim().trim_end_matches('.').to_ascii_lowercase();
        let (name, pattern) = match lower.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => {
                (suffix[1..].to_owned(), Self::Suffix(suffix.to_owned()))
            }
            Some(_) => return Err(format!("`{text}`: write *.example.com")),
            None => (lower.clone(), Self::Exact(lower.clone())),
        };
        let is_address = name.starts_with('[') && name.ends_with(']');
        let good = is_address
            || name.len() < MAX_NAME
                && name.split('.').all(|label| {
                    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                    !label.is_empty() && label.len() < 64 && label.bytes().all(letters)
                });
        if good {
            Ok(pattern)
        } else {
            Err(format!(
                "`{text}` is not a host name: write it without scheme, port and path, \
                 international names in their xn-- form"
            ))
        }
    }
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A host without its port.
pub fn bare(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split_once(':').map_or(host, |(name, _)| name)
}

/// The name as patterns spell it; `None` if it is longer than names can be.
pub fn lower_case<'a>(host: &str, space: &'a mut [u8; MAX_NAME]) -> Option<&'a str> {
    let name = bare(host);
    let name = name.strip_suffix('.').unwrap_or(name);
    let space = space.get_mut(..name.len())?;
    space.copy_from_slice(name.as_bytes());
    space.make_ascii_lowercase();
    std::str::from_utf8(space).ok()
}
