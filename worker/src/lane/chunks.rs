//! Reads the framing of a chunked body (RFC 9112 §7.1): an answer passes through unchanged while its
//! end is looked for, a request is framed anew.

/// Longest size line, its extensions included, and longest trailer line.
const MAX_LINE: u32 = 4_096;
/// Most bytes of trailers.
const MAX_TRAILERS: u32 = 16_384;

/// Where in a chunked body the scanner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    Size,
    /// Within the digits of a size.
    Digits(u64),
    /// Behind a size, in white space before extensions.
    Blank(u64),
    /// Behind a size, in extensions.
    Extension(u64),
    /// The line feed that ends a size line.
    SizeEnd(u64),
    /// Within data; this much is left.
    Data(u64),
    /// The carriage return after data.
    DataReturn,
    /// The line feed after data.
    DataFeed,
    /// At the beginning of a trailer line, or of the empty one.
    Trailer,
    /// Within a trailer line.
    TrailerLine,
    /// The line feed of a trailer line.
    TrailerFeed,
    /// The line feed of the empty line.
    LastFeed,
    /// All is read.
    End,
}

/// Reads the framing of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    line: u32,
    trailers: u32,
    /// Bytes of data so far, without the framing.
    pub(super) data: u64,
}

/// The framing is not that of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            at: At::Size,
            line: 0,
            trailers: 0,
            data: 0,
        }
    }

    /// Whether the body has ended.
    pub(super) fn ended(&self) -> bool {
        self.at == At::End
    }

    /// Reads on and shows the data to `see`; says how many of these bytes belong to the body, which
    /// are all while it has not ended.
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        mut see: impl FnMut(&[u8]),
    ) -> Result<usize, BadChunk> {
        let mut used = 0;
        while used < bytes.len() && !self.ended() {
            let (taken, data) = self.take(&bytes[used..])?;
            used += taken;
            see(&bytes[used - data..used]);
        }
        Ok(used)
    }

    /// Reads on to the end of the next piece of data; says how many of these bytes that takes, and
    /// how many at their end are data.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, usize), BadChunk> {
        let mut index = 0;
        while index < bytes.len() && !self.ended() {
            if let At::Data(left) = self.at {
                let here = (bytes.len() - index) as u64;
                let taken = here.min(left);
                self.data += taken;
                self.at = match left - taken {
                    0 => At::DataReturn,
                    left => At::Data(left),
                };
                return Ok((index + taken as usize, taken as usize));
            }
            self.at = self.step(bytes[index])?;
            index += 1;
        }
        Ok((index, 0))
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunk> {
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(BadChunk);
        }
        let next = match (self.at, byte) {
            (At::Size, _) => At::Digits(digit(byte).ok_or(BadChunk)?),
            (At::Digits(size) | At::Blank(size) | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Digits(size) | At::Blank(size), b';') => At::Extension(size),
            // Only white space, or another size would be taken for an extension.
            (At::Digits(size) | At::Blank(size), b' ' | b'\t') => At::Blank(size),
            (At::Digits(size), _) => {
                let digit = digit(byte).ok_or(BadChunk)?;
                // Sixteen digits would overflow; nobody sends fifteen.
                At::Digits(
                    (size < 1 << 56)
                        .then_some(size << 4 | digit)
                        .ok_or(BadChunk)?,
                )
            }
            (At::Extension(_), b'\n' | 0) => return Err(BadChunk),
            (At::Extension(size), _) => At::Extension(size),
            (At::SizeEnd(0), b'\n') => At::Trailer,
            (At::SizeEnd(size), b'\n') => At::Data(size),
            (At::DataReturn, b'\r') => At::DataFeed,
            (At::DataFeed, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::LastFeed,
            (At::Trailer | At::TrailerLine, b'\n' | 0) => return Err(BadChunk),
            (At::TrailerLine, b'\r') => At::TrailerFeed,
            (At::Trailer | At::TrailerLine, _) => At::TrailerLine,
            (At::TrailerFeed, b'\n') => At::Trailer,
            (At::LastFeed, b'\n') => At::End,
            _ => return Err(BadChunk),
        };
        if matches!(next, At::Trailer) {
            self.trailers += self.line;
            if self.trailers > MAX_TRAILERS {
                return Err(BadChunk);
            }
        }
        if matches!(next, At::Data(_) | At::Size | At::Trailer) {
            self.line = 0;
        }
        Ok(next)
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
