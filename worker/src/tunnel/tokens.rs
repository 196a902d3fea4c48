//! Who may register, and which names each may hold.

use patchbay_common::config::Secret;
use patchbay_common::tunnel::TunnelId;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// A registration token.
#[derive(Clone, Debug, Deserialize)]
pub struct Token {
    /// Its name, for logs and for taking it back.
    pub name: String,
    /// The secret itself.
    pub token: Secret,
    /// Tunnels it stretches to: names, in which `*` stands for any text. Absent means all.
    #[serde(default = "all")]
    pub tunnels: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["*".into()]
}

impl Token {
    /// A token that stretches to all tunnels.
    pub fn of_all(name: &str, token: Secret) -> Self {
        Self {
            name: name.into(),
            token,
            tunnels: all(),
        }
    }

    /// Whether it stretches to this tunnel.
    pub fn allows(&self, id: &TunnelId) -> bool {
        self.tunnels
            .iter()
            .any(|pattern| matches(pattern.as_bytes(), id.as_str().as_bytes()))
    }
}

/// The tokens that are good at the moment.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// These tokens.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// The token this text is. Every token is compared, each in constant time, so that the time
    /// taken says nothing about any of them.
    pub fn find(&self, given: &str) -> Option<&Token> {
        let given = Sha256::digest(given.as_bytes());
        let mut found = None;
        for token in &self.0 {
            let known = Sha256::digest(token.token.expose().as_bytes());
            let same = bool::from(given.ct_eq(&known));
            if same && !token.token.expose().is_empty() {
                found = Some(token);
            }
        }
        found
    }

    /// The token of this name.
    pub fn named(&self, name: &str) -> Option<&Token> {
        self.0.iter().find(|token| token.name == name)
    }

    /// Whether nobody can register.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a text fits a pattern in which `*` stands for any text.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut star) = (0, None);
    let mut position = 0;
    while position < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, position));
            at += 1;
        } else if pattern.get(at) == Some(&text[position]) {
            at += 1;
            position += 1;
        } else if let Some((before, taken)) = star {
            star = Some((before, taken + 1));
            at = before + 1;
            position = taken + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, text, fits) in [
            ("*", "web", true),
            ("web-*", "web-1", true),
            ("web-*", "api-1", false),
            ("*-db", "a-b-db", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("web", "web2", false),
            ("", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_alone() {
        let tokens = Tokens::new(vec![
            Token::of_all("one", Secret::new("secret-one")),
            Token {
                name: "two".into(),
                token: Secret::new("secret-two"),
                tunnels: vec!["lab-*".into()],
            },
            Token::of_all("empty", Secret::new("")),
        ]);
        assert_eq!(tokens.find("secret-one").unwrap().name, "one");
        let two = tokens.find("secret-two").unwrap();
        assert!(two.allows(&"lab-1".parse().unwrap()));
        assert!(!two.allows(&"web".parse().unwrap()));
        for wrong in ["", "secret", "secret-one ", "SECRET-ONE"] {
            assert!(tokens.find(wrong).is_none(), "{wrong}");
        }
    }
}
