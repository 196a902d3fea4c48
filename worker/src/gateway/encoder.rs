//! Bodies compressed piece by piece. Every piece that goes in comes out at once, whole, so that
//! nothing of a stream waits here for what follows; an encoder holds its window and no more.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::write::GzEncoder;

/// gzip's level: half as good again costs three times as much.
const GZIP_LEVEL: u32 = 5;
/// Brotli's level and window (2^n bytes): the highest level that keeps pace with a network.
const BROTLI_LEVEL: u32 = 4;
const BROTLI_WINDOW: u32 = 18;
/// Zstandard's level and window; RFC 9659 allows clients to refuse more than 2^23.
const ZSTD_LEVEL: i32 = 3;
const ZSTD_WINDOW: u32 = 18;
/// Brotli's own buffer in front of the encoder, in bytes.
const BUFFER: usize = 4_096;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// What clients may call it (RFC 9110 §8.4.1.3).
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Gzip => &["gzip", "x-gzip"],
            Self::Brotli => &["br"],
            Self::Zstd => &["zstd"],
        }
    }
}

/// Compresses one body.
pub struct Encoder(Inner);

enum Inner {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    /// It has come to its end.
    Ended,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// One for a body in this coding.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(coding: Coding) -> io::Result<Self> {
        let out = Vec::new();
        Ok(Self(match coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Inner::Gzip(Box::new(GzEncoder::new(out, level)))
            }
            Coding::Brotli => Inner::Brotli(Box::new(brotli::CompressorWriter::new(
                out,
                BUFFER,
                BROTLI_LEVEL,
                BROTLI_WINDOW,
            ))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW)?;
                Inner::Zstd(Box::new(encoder))
            }
        }))
    }

    /// What a piece of the body becomes; with `end` also what the coding ends with.
    ///
    /// # Errors
    /// If the coding fails, which it does only without memory.
    pub fn push(&mut self, piece: &[u8], end: bool) -> io::Result<Bytes> {
        if end {
            return self.finish(piece).map(Bytes::from);
        }
        if piece.is_empty() {
            return Ok(Bytes::new());
        }
        let out = match &mut self.0 {
            Inner::Gzip(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Inner::Brotli(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Inner::Zstd(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                std::mem::take(encoder.get_mut())
            }
            Inner::Ended => Vec::new(),
        };
        Ok(out.into())
    }

    fn finish(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match std::mem::replace(&mut self.0, Inner::Ended) {
            Inner::Gzip(mut encoder) => {
                encoder.write_all(piece)?;
                (*encoder).finish()
            }
            Inner::Brotli(mut encoder) => {
                encoder.write_all(piece)?;
                Ok((*encoder).into_inner())
            }
            Inner::Zstd(mut encoder) => {
                encoder.write_all(piece)?;
                (*encoder).finish()
            }
            Inner::Ended => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn decode(coding: Coding, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut out)?,
            Coding::Brotli => brotli::Decompressor::new(bytes, 4_096).read_to_end(&mut out)?,
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes)?.read_to_end(&mut out)?,
        };
        Ok(out)
    }

    /// What a decoder can make of the beginning of a stream.
    fn decode_begin(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut piece = [0; 512];
        let mut reader: Box<dyn io::Read> = match coding {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4_096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        };
        while let Ok(read @ 1..) = reader.read(&mut piece) {
            out.extend_from_slice(&piece[..read]);
        }
        out
    }

    #[test]
    fn every_coding_gives_back_what_went_in() {
        let text: Vec<u8> = (0..200_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for coding in Coding::ALL {
            for size in [1_000, 65_536, text.len()] {
                let mut encoder = Encoder::new(coding).unwrap();
                let mut out = Vec::new();
                for piece in text.chunks(size) {
                    out.extend_from_slice(&encoder.push(piece, false).unwrap());
                }
                out.extend_from_slice(&encoder.push(&[], true).unwrap());
                assert!(out.len() < text.len(), "{coding:?} made it longer");
                assert_eq!(decode(coding, &out).unwrap(), text, "{coding:?} {size}");
                assert!(encoder.push(b"more", true).unwrap().is_empty());
            }
            let mut encoder = Encoder::new(coding).unwrap();
            let out = encoder.push(&text, true).unwrap();
            assert_eq!(decode(coding, &out).unwrap(), text, "{coding:?} at once");
        }
    }

    #[test]
    fn nothing_waits_for_what_follows() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding).unwrap();
            let mut sent = Vec::new();
            for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
                sent.extend_from_slice(&encoder.push(event.as_bytes(), false).unwrap());
                let seen = decode_begin(coding, &sent);
                assert!(seen.ends_with(event.as_bytes()), "{coding:?} holds {event}");
            }
            assert!(encoder.push(&[], false).unwrap().is_empty());
        }
    }
}
