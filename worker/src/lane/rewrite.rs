//! A head on its way to the next connection: what stays of it as it came, what is taken out, what
//! is added. Everything is written into one buffer at the end.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue};

use super::head::{Field, Headers, MAX_FIELDS};
use crate::stage::{HeaderLookup, HeaderSink, is_alike, is_hop_by_hop};

/// Added headers; the memory is used again for each head.
#[derive(Debug, Default)]
pub(super) struct Added {
    list: Vec<(Cow<'static, str>, usize, usize)>,
    text: Vec<u8>,
}

impl Added {
    fn push(&mut self, name: Cow<'static, str>, value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(value);
        self.list.push((name, start, self.text.len()));
    }
}

/// A head being rewritten.
pub(super) struct Rewrite<'a> {
    head: Headers<'a>,
    /// A bit for each header that is taken out.
    gone: [u64; MAX_FIELDS / 64],
    added: &'a mut Added,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(head: Headers<'a>, added: &'a mut Added) -> Self {
        added.list.clear();
        added.text.clear();
        Self {
            head,
            gone: [0; MAX_FIELDS / 64],
            added,
        }
    }

    fn kept(&self) -> impl Iterator<Item = &'a Field> {
        let gone = self.gone;
        let all = self.head.fields.iter().enumerate();
        all.filter_map(move |(index, field)| {
            (gone[index / 64] >> (index % 64) & 1 == 0).then_some(field)
        })
    }

    fn take_out(&mut self, mut which: impl FnMut(&Field) -> bool) {
        for (index, field) in self.head.fields.iter().enumerate() {
            if which(field) {
                self.gone[index / 64] |= 1 << (index % 64);
            }
        }
    }

    /// Takes out what is about one connection only, and what `Connection` names besides
    /// (RFC 9110 §7.6.1). `Transfer-Encoding` stays: the body goes through as it is framed.
    pub(super) fn remove_hop_by_hop(&mut self) {
        let head = self.head;
        let mut lists = false;
        self.take_out(|field| {
            let name = field.name.bytes(head.bytes);
            lists |= name.eq_ignore_ascii_case(b"connection");
            is_one_hop(name)
        });
        if lists {
            self.take_out(|field| is_nominated(&head, field.name.bytes(head.bytes)));
        }
    }

    /// Writes the headers that stay and those that were added, without the empty line.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        match self.head.neat_until {
            Some(end) => self.render_lines(end, out),
            None => {
                for field in self.kept() {
                    out.extend_from_slice(field.name.bytes(self.head.bytes));
                    out.extend_from_slice(b": ");
                    push_value(field.value.bytes(self.head.bytes), out);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        for (name, start, end) in &self.added.list {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(&self.added.text[*start..*end]);
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl Rewrite<'_> {
    /// Writes the lines that stay as they stand, neighbours at once.
    fn render_lines(&self, end: usize, out: &mut Vec<u8>) {
        let fields = self.head.fields;
        let mut run = 0..0;
        for (index, field) in fields.iter().enumerate() {
            if self.gone[index / 64] >> (index % 64) & 1 == 1 {
                continue;
            }
            let next = fields.get(index + 1).map_or(end, |next| next.name.start());
            if run.end != field.name.start() {
                out.extend_from_slice(self.head.bytes.get(run).unwrap_or_default());
                run = field.name.start()..field.name.start();
            }
            run.end = next;
        }
        out.extend_from_slice(self.head.bytes.get(run).unwrap_or_default());
    }
}

/// A value as it came, a folded one (RFC 9112 §5.2) on one line.
fn push_value(value: &[u8], out: &mut Vec<u8>) {
    if value.contains(&b'\n') || value.contains(&b'\r') {
        out.extend(value.iter().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            other => *other,
        }));
    } else {
        out.extend_from_slice(value);
    }
}

/// Whether a name, in any case, is one of the standard's about one connection.
fn is_one_hop(name: &[u8]) -> bool {
    if !matches!(
        name.first(),
        Some(b'c' | b'C' | b'k' | b'K' | b'p' | b'P' | b't' | b'T' | b'u' | b'U')
    ) {
        return false;
    }
    let mut lower = [0u8; 24];
    let Some(lower) = lower.get_mut(..name.len()) else {
        return false;
    };
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).is_ok_and(|name| is_hop_by_hop(name) && name != "transfer-encoding")
}

/// Whether `Connection` names this header. Nobody may have the framing or the host taken out.
fn is_nominated(head: &Headers<'_>, name: &[u8]) -> bool {
    let never = ["host", "content-length", "transfer-encoding"];
    if never
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
    {
        return false;
    }
    let mut named = false;
    head.each("connection", &mut |value| {
        named |= value
            .split(|byte| *byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(name));
    });
    named
}

impl HeaderLookup for Rewrite<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let kept = self.kept().find(|field| field.is(self.head.bytes, name));
        let added = || self.added.list.iter().find(|(one, _, _)| *one == name);
        kept.map(|field| field.value.bytes(self.head.bytes))
            .or_else(|| added().map(|(_, start, end)| &self.added.text[*start..*end]))
    }

    fn each<'a>(&'a self, name: &str, visit: &mut dyn FnMut(&'a [u8])) {
        for field in self.kept().filter(|field| field.is(self.head.bytes, name)) {
            visit(field.value.bytes(self.head.bytes));
        }
        for (_, start, end) in self.added.list.iter().filter(|(one, _, _)| *one == name) {
            visit(&self.added.text[*start..*end]);
        }
    }
}

impl HeaderSink for Rewrite<'_> {
    fn set(&mut self, name: &'static str, value: &str) {
        self.remove(name);
        self.added.push(Cow::Borrowed(name), value.as_bytes());
    }

    fn remove(&mut self, name: &str) {
        let bytes = self.head.bytes;
        self.take_out(|field| field.is(bytes, name));
        self.added.list.retain(|(one, _, _)| *one != name);
    }

    fn write(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.remove(name.as_str());
        self.add(name, value);
    }

    fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        let name = Cow::Owned(name.as_str().to_owned());
        self.added.push(name, value.as_bytes());
    }

    fn remove_alike(&mut self, name: &HeaderName) {
        let head = self.head;
        self.take_out(|field| {
            let present = field.name.bytes(head.bytes).to_ascii_lowercase();
            std::str::from_utf8(&present).is_ok_and(|one| is_alike(one, name.as_str()))
        });
        self.added
            .list
            .retain(|(one, _, _)| !is_alike(one, name.as_str()));
    }
}
