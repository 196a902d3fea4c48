//! Compression of answers: which coding a client wants (RFC 9110 §12.5.3), and which answers get
//! one. What is compressed already, is a part of something, must not be transformed, or is small
//! stays as it is; so does an event stream unless the operator wants it otherwise.

use std::sync::Arc;

use http::HeaderValue;
use http::header::VARY;

use super::{Passage, Step};
use crate::gateway::encoder::Coding;
use crate::gateway::refusal::GatewayRefusal;
use crate::stage::{Head, HeaderLookup, HeaderSink};

const EVENT_STREAM: &str = "text/event-stream";
/// Headers about the bytes as the service sent them.
const OF_THE_BYTES: [&str; 6] = [
    "content-length",
    "accept-ranges",
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
];

/// What is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compress {
    /// Codings, the preferred one first.
    pub codings: Vec<Coding>,
    /// Media types: `type/subtype`, `type/*` or `*+suffix`, lower case.
    pub types: Vec<String>,
    /// Shortest body that is compressed, where its length is known.
    pub minimum: u64,
    /// Event streams too.
    pub event_streams: bool,
}

/// What one request's answer may become.
#[derive(Clone, Debug)]
pub struct Compressing {
    rules: Arc<Compress>,
    /// What the client would like best; `None` if it takes the answer as it is.
    coding: Option<Coding>,
}

impl Compress {
    pub(super) fn run(
        self: &Arc<Self>,
        head: &Head<'_>,
        passage: &mut Passage,
    ) -> Result<Option<Step>, GatewayRefusal> {
        passage.compressing = Some(Compressing {
            rules: Arc::clone(self),
            coding: self.choose(head),
        });
        Ok(None)
    }

    fn choose(&self, head: &Head<'_>) -> Option<Coding> {
        let headers = head.headers;
        let plain = head.method != "HEAD" && head.is_http11 && headers.get("range").is_none();
        if !plain || has_token(headers, "cache-control", "no-transform") {
            return None;
        }
        let mut best: Option<(Coding, u16)> = None;
        for coding in &self.codings {
            let quality = quality(headers, coding.names()).unwrap_or(0);
            if quality > best.map_or(0, |(_, most)| most) {
                best = Some((*coding, quality));
            }
        }
        let (coding, most) = best?;
        let as_it_is = explicit(headers, &["identity"]).unwrap_or(0);
        (as_it_is <= most).then_some(coding)
    }

    fn takes(&self, content_type: &str) -> bool {
        let bare = content_type.split(';').next().unwrap_or_default();
        let bare = bare.trim().to_ascii_lowercase();
        if bare == EVENT_STREAM {
            return self.event_streams;
        }
        // gRPC has a compression of its own, message by message.
        !bare.starts_with("application/grpc")
            && self.types.iter().any(|one| {
                if let Some(kind) = one.strip_suffix('*') {
                    bare.starts_with(kind)
                } else if let Some(suffix) = one.strip_prefix('*') {
                    bare.ends_with(suffix)
                } else {
                    bare == *one
                }
            })
    }

    fn fits(&self, status: u16, head: &dyn HeaderLookup) -> bool {
        let text = |name: &str| {
            let value = head.get(name)?;
            std::str::from_utf8(value).ok()
        };
        let length = text("content-length").and_then(|value| value.trim().parse().ok());
        let encoded = text("content-encoding").is_some_and(|value| {
            let value = value.trim();
            !value.is_empty() && !value.eq_ignore_ascii_case("identity")
        });
        status >= 200
            && !matches!(status, 204..=206 | 304)
            && !encoded
            && head.get("content-range").is_none()
            && length.is_none_or(|length: u64| length >= self.minimum)
            && text("content-type").is_some_and(|value| self.takes(value))
            && !has_token(head, "cache-control", "no-transform")
    }
}

impl Compressing {
    /// The coding for an answer with this head; notes in it that there may be one.
    pub fn choose(&self, status: u16, sink: &mut dyn HeaderSink) -> Option<Coding> {
        if !self.rules.fits(status, &*sink) {
            return None;
        }
        // Caches must know even where this client gets the answer as it is.
        if !has_token(&*sink, "vary", "accept-encoding") && !has_token(&*sink, "vary", "*") {
            sink.add(&VARY, &HeaderValue::from_static("Accept-Encoding"));
        }
        self.coding
    }

    /// Makes an answer's head that of the same answer in this coding.
    pub fn apply(coding: Coding, sink: &mut dyn HeaderSink) {
        for name in OF_THE_BYTES {
            sink.remove(name);
        }
        sink.set("content-encoding", coding.as_str());
        // Other bytes need another strong validator, and there is none (RFC 9110 §8.8.3).
        let etag = sink.get("etag");
        let etag = etag.map(|value| String::from_utf8_lossy(value).into_owned());
        if let Some(etag) = etag.filter(|etag| etag.starts_with('"')) {
            sink.set("etag", &format!("W/{etag}"));
        }
    }
}

/// How much a coding is wanted, in thousandths; `None` if nothing is said of it.
fn quality(headers: &dyn HeaderLookup, names: &[&str]) -> Option<u16> {
    explicit(headers, names).or_else(|| explicit(headers, &["*"]))
}

fn explicit(headers: &dyn HeaderLookup, names: &[&str]) -> Option<u16> {
    let mut found = None;
    headers.each("accept-encoding", &mut |line| {
        let line = std::str::from_utf8(line).unwrap_or_default();
        for item in line.split(',') {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            if names.iter().any(|one| name.eq_ignore_ascii_case(one)) {
                found = found.max(Some(weight(parts)));
            }
        }
    });
    found
}

/// A weight that cannot be read means that the coding is not wanted.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u16 {
    let value = parameters.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim_end()
            .eq_ignore_ascii_case("q")
            .then_some(value.trim())
    });
    let Some(value) = value else { return 1_000 };
    let weight: f32 = value.parse().unwrap_or(0.0);
    // In range, as clamped; what is not a number becomes nothing.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let thousandths = (weight.clamp(0.0, 1.0) * 1_000.0).round() as u16;
    thousandths
}

/// Whether a list of tokens holds one.
fn has_token(headers: &dyn HeaderLookup, name: &str, wanted: &str) -> bool {
    let mut found = false;
    headers.each(name, &mut |line| {
        let mut tokens = line.split(|byte| *byte == b',');
        found |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()));
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::trial::{Headers, head};

    fn rules() -> Compress {
        Compress {
            codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
            types: vec!["text/*".into(), "application/json".into(), "*+xml".into()],
            minimum: 100,
            event_streams: false,
        }
    }

    fn chosen(method: &str, headers: &[(&str, &str)]) -> Option<Coding> {
        let headers = Headers::of(headers);
        rules().choose(&head(method, "/", &headers))
    }

    #[test]
    fn the_client_says_what_it_would_like_best() {
        let wants = |value: &str| chosen("GET", &[("accept-encoding", value)]);
        for (value, coding) in [
            ("gzip", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("GZIP;Q=0.5", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip;q=1.0, br;q=0.8, zstd;q=0.1", Some(Coding::Gzip)),
            ("br;q=0.001", Some(Coding::Brotli)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *", Some(Coding::Brotli)),
            ("*;q=0, gzip;q=0.2", Some(Coding::Gzip)),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=much", None),
            ("gzip;q=NaN", None),
            ("deflate", None),
            ("identity", None),
            ("", None),
        ] {
            assert_eq!(wants(value), coding, "{value}");
        }
        assert_eq!(chosen("GET", &[]), None);
        let lines = [("accept-encoding", "br;q=0.1"), ("accept-encoding", "gzip")];
        assert_eq!(chosen("GET", &lines), Some(Coding::Gzip), "two lines");
    }

    #[test]
    fn parts_and_heads_and_what_must_stay_are_left_alone() {
        let gzip = ("accept-encoding", "gzip");
        assert_eq!(chosen("HEAD", &[gzip]), None);
        assert_eq!(chosen("GET", &[gzip, ("range", "bytes=0-9")]), None);
        let stays = ("cache-control", "max-age=0, No-Transform");
        assert_eq!(chosen("GET", &[gzip, stays]), None);
        assert_eq!(chosen("POST", &[gzip]), Some(Coding::Gzip));
    }

    #[test]
    fn not_every_answer_is_worth_it() {
        let fits = |status, headers: &[(&str, &str)]| rules().fits(status, &Headers::of(headers));
        let json = ("content-type", "Application/JSON; charset=utf-8");
        assert!(fits(200, &[json]));
        assert!(fits(404, &[json, ("content-length", "100")]));
        assert!(fits(200, &[("content-type", "image/svg+xml")]));
        assert!(fits(200, &[json, ("content-encoding", "identity")]));
        for status in [101, 103, 204, 205, 206, 304] {
            assert!(!fits(status, &[json]), "{status}");
        }
        for other in [
            ("content-length", "99"),
            ("content-encoding", "gzip"),
            ("content-encoding", "br"),
            ("content-range", "bytes 0-9/100"),
            ("cache-control", "private, no-transform"),
        ] {
            assert!(!fits(200, &[json, other]), "{other:?}");
        }
        for kind in ["image/png", EVENT_STREAM, "application/grpc+json", ""] {
            assert!(!fits(200, &[("content-type", kind)]), "{kind}");
        }
        assert!(!fits(200, &[]), "nobody says what it is");
        let mut all = rules();
        all.event_streams = true;
        let stream = Headers::of(&[("content-type", EVENT_STREAM)]);
        assert!(all.fits(200, &stream));
    }
}
