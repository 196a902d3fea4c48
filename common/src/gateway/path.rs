//! Path patterns, and the paths of requests as they are compared with them.
//!
//! A path is compared segment by segment, its escapes undone and empty segments left out, since
//! many services do the same: what they take for the same path must not reach them by another
//! route. Where they could still differ (dot segments, backslashes, control characters), the
//! request is refused.

use std::borrow::Cow;

/// Most segments a path is compared by.
pub const MAX_SEGMENTS: usize = 64;

/// A path a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// The segments, in order.
    pub parts: Vec<Part>,
    /// What may follow them.
    pub rest: Rest,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// This text.
    Text(String),
    /// Any one segment.
    Parameter,
}

/// What may follow a pattern's segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    None,
    /// At least a slash.
    Below,
    /// Nothing, or a slash and anything.
    Prefix,
}

/// Why a path cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `.` or `..`, plain or escaped.
    #[error("the path has dot segments: send it resolved")]
    Dots,
    /// A backslash, a control character, or not UTF-8 once unescaped.
    #[error("the path has characters that may not stand in one")]
    Characters,
    /// Too many segments.
    #[error("the path has too many segments")]
    TooLong,
}

impl PathPattern {
    /// Parses `/exact`, `/below/*`, `/{parameter}/x`.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/*") {
            Some(before) => Self::with(before, Rest::Below),
            None => Self::with(text, Rest::None),
        }
    }

    /// Parses a prefix: it takes itself and everything below.
    ///
    /// # Errors
    /// What is wrong and how to mend it.
    pub fn prefix(text: &str) -> Result<Self, String> {
        Self::with(text.trim_end_matches('/'), Rest::Prefix)
    }

    fn with(text: &str, rest: Rest) -> Result<Self, String> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(format!("`{text}` must begin with a slash"));
        }
        let segments = Segments::of(text).map_err(|error| format!("`{text}`: {error}"))?;
        let mut parts = Vec::new();
        for segment in segments.iter() {
            let inner = segment
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            match inner {
                Some(name) if !name.is_empty() && !name.contains(['{', '}', '*']) => {
                    parts.push(Part::Parameter);
                }
                None if !segment.contains(['{', '}', '*']) => {
                    parts.push(Part::Text(segment.to_owned()));
                }
                _ => {
                    return Err(format!(
                        "`{segment}`: a parameter is a whole segment, {{name}}; a star stands \
                         alone at the end, /api/*"
                    ));
                }
            }
        }
        if rest == Rest::None && segments.ends_in_slash() {
            parts.push(Part::Text(String::new()));
        }
        Ok(Self { parts, rest })
    }

    /// Whether `self` is the beginning of every path of `other`.
    pub fn begins(&self, other: &Self) -> bool {
        let compared = other.parts.get(..self.parts.len());
        compared.is_some_and(|parts| parts == self.parts)
    }

    /// What two patterns are compared by beside their ends: a parameter is one whatever its name.
    pub(super) fn compared(&self) -> &[Part] {
        &self.parts
    }

    /// Path parts that count, and the kind of the end: for messages.
    pub fn shown(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            text.push('/');
            text.push_str(match part {
                Part::Text(text) => text,
                Part::Parameter => "{}",
            });
        }
        text.push_str(match self.rest {
            Rest::None if text.is_empty() => "/",
            Rest::None => "",
            Rest::Below => "/*",
            Rest::Prefix => " and below",
        });
        text
    }
}

/// A request's path, ready to be compared.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    path: Cow<'a, str>,
    /// Where each segment that is not empty lies.
    bounds: [(u16, u16); MAX_SEGMENTS],
    count: usize,
    slash: bool,
}

impl<'a> Segments<'a> {
    /// Splits a path.
    ///
    /// # Errors
    /// If what it means is not certain.
    pub fn of(path: &'a str) -> Result<Self, PathError> {
        let suspect = |byte: u8| byte == b'\\' || byte.is_ascii_control();
        if path.len() > usize::from(u16::MAX) {
            return Err(PathError::TooLong);
        }
        let path = unescaped(path)?;
        if path.bytes().any(suspect) {
            return Err(PathError::Characters);
        }
        let mut bounds = [(0, 0); MAX_SEGMENTS];
        let mut count = 0;
        let mut start = 0;
        for segment in path.split('/') {
            let end = start + segment.len();
            match segment {
                "" => {}
                // Also beside an escaped slash, which some services take for a plain one.
                _ if segment.split(ESCAPED_SLASH).any(is_dots) => return Err(PathError::Dots),
                _ => {
                    let bound = bounds.get_mut(count).ok_or(PathError::TooLong)?;
                    *bound = (start as u16, end as u16);
                    count += 1;
                }
            }
            start = end + 1;
        }
        let slash = path.ends_with('/');
        Ok(Self {
            path,
            bounds,
            count,
            slash,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the path is `/`.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The segment at `index`, its escapes undone.
    pub fn get(&self, index: usize) -> Option<&str> {
        if index >= self.count {
            return None;
        }
        let (start, end) = self.bounds[index];
        self.path.get(usize::from(start)..usize::from(end))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.count).filter_map(|index| self.get(index))
    }

    /// A slash follows the last one.
    pub fn ends_in_slash(&self) -> bool {
        self.slash && self.count > 0
    }

    /// Whether anything follows the first `count` segments.
    pub fn goes_below(&self, count: usize) -> bool {
        self.count > count || self.slash
    }
}

/// Stands for `%2F` inside a segment: no segment of a pattern can hold it.
const ESCAPED_SLASH: char = '\u{fffd}';

fn is_dots(part: &str) -> bool {
    matches!(part, "." | "..")
}

fn unescaped(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(b'/') => {
                bytes.extend_from_slice(ESCAPED_SLASH.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Some(byte) => bytes.push(byte),
            None => bytes.push(byte),
        }
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| PathError::Characters)
}

/// The path after its first `count` segments, with its leading slash, as it was sent.
pub fn after(path: &str, count: usize) -> &str {
    let mut left = count;
    let mut start = 0;
    for segment in path.split('/') {
        if left == 0 {
            break;
        }
        start += segment.len() + 1;
        if !segment.is_empty() {
            left -= 1;
        }
    }
    // From the slash before the rest; nothing is left where the path ended.
    path.get(start.saturating_sub(1)..).unwrap_or_default()
}
