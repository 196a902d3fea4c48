//! Heads as they stand in a buffer: where each header is, nothing copied and nothing mapped.

use crate::stage::HeaderLookup;

/// Most headers of a head, as the other engine has it.
pub(super) const MAX_FIELDS: usize = 256;

/// A part of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part` stands in `whole`, of which it is a slice.
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        // Heads are shorter than 4 GiB by far.
        Self {
            start: start as u32,
            end: (start + part.len()) as u32,
        }
    }

    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    pub(super) fn end(self) -> usize {
        self.end as usize
    }

    pub(super) fn bytes(self, whole: &[u8]) -> &[u8] {
        whole.get(self.start()..self.end()).unwrap_or_default()
    }

    pub(super) fn text(self, whole: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(whole)).unwrap_or_default()
    }
}

/// One header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

impl Field {
    /// Whether its name is this one, given in lower case.
    pub(super) fn is(&self, bytes: &[u8], name: &str) -> bool {
        self.name.len() == name.len()
            && self.name.bytes(bytes).eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Notes where the parsed headers stand in `bytes`.
pub(super) fn note(bytes: &[u8], parsed: &[httparse::Header<'_>], fields: &mut Vec<Field>) {
    fields.clear();
    fields.extend(parsed.iter().map(|header| Field {
        name: Span::of(bytes, header.name.as_bytes()),
        value: Span::of(bytes, header.value),
    }));
}

/// Whether every line from `at` on is a header as RFC 9112 §5 writes it, ended by CR LF, and the
/// empty line ends the head at `end`. Parsers forgive more than that.
pub(super) fn lines_are_neat(bytes: &[u8], fields: &[Field], mut at: usize, end: usize) -> bool {
    for field in fields {
        if field.name.start() != at || bytes.get(field.name.end()) != Some(&b':') {
            return false;
        }
        at = field.value.end();
        while matches!(bytes.get(at), Some(b' ' | b'\t')) {
            at += 1;
        }
        if !ends_line(bytes, at) {
            return false;
        }
        at += 2;
    }
    ends_line(bytes, at) && at + 2 == end
}

fn ends_line(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + 2) == Some(b"\r\n")
}

/// The headers of a head as stages read them.
#[derive(Clone, Copy)]
pub(super) struct Headers<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) fields: &'a [Field],
    /// Where the empty line begins, if all lines are neat: such lines can be copied as they stand.
    pub(super) neat_until: Option<usize>,
}

impl HeaderLookup for Headers<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| field.is(self.bytes, name));
        field.map(|field| field.value.bytes(self.bytes))
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for field in self.fields {
            if field.is(self.bytes, name) {
                visit(field.value.bytes(self.bytes));
            }
        }
    }
}
