//! What a model's answer comes to, counted while it streams by: the time to its first token, the
//! time between two, and how many there are. Answers are server-sent events as OpenAI's API has
//! them (`chat.completion.chunk`, `text_completion`); others are passed over. Nothing is held back:
//! at most one line is kept, and that only while it is incomplete.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::table::{Tally, TokenTally};

/// Longest line that is looked at; of a longer one nothing is known.
const MAX_LINE: usize = 256 << 10;

/// Follows one answer.
#[derive(Debug)]
pub struct Tokens {
    tally: Arc<Tally>,
    begun: Instant,
    last: Option<Instant>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    too_long: bool,
    /// Tokens counted so far: one for each piece of text.
    counted: u64,
    /// Tokens as the model counts them, where it tells.
    told: u64,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    completion_tokens: u64,
}

impl Choice<'_> {
    fn says_something(&self) -> bool {
        let filled = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|t| !t.is_empty());
        let delta = |delta: &Delta<'_>| {
            filled(&delta.content) || filled(&delta.reasoning_content) || delta.tool_calls.is_some()
        };
        filled(&self.text) || self.delta.as_ref().is_some_and(delta)
    }
}

impl Tokens {
    /// Follows an answer to a request that began at `begun`.
    pub fn new(tally: &Arc<Tally>, begun: Instant) -> Self {
        tally.tokens().stream();
        Self {
            tally: Arc::clone(tally),
            begun,
            last: None,
            line: Vec::new(),
            too_long: false,
            counted: 0,
            told: 0,
        }
    }

    /// A piece of the answer's body passes.
    pub fn see(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (here, rest) = piece.split_at(end);
            piece = &rest[1..];
            if self.too_long {
                self.too_long = false;
            } else if self.line.is_empty() {
                self.line(here);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(here);
                self.line(&line);
                line.clear();
                self.line = line;
            }
        }
        if self.too_long || self.line.len() + piece.len() > MAX_LINE {
            self.too_long = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        // `[DONE]` is no JSON either.
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            return;
        };
        if let Some(usage) = chunk.usage {
            self.told = self.told.max(usage.completion_tokens);
        }
        if !chunk.choices.iter().any(Choice::says_something) {
            return;
        }
        let now = Instant::now();
        let tally = self.tally.tokens();
        match self.last.replace(now) {
            None => tally.first(now - self.begun),
            Some(last) => tally.next(now - last),
        }
        self.counted += 1;
        tally.add(1);
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        let tally: &TokenTally = self.tally.tokens();
        tally.add(self.told.saturating_sub(self.counted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        : ping\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n\
        data:{\"choices\":[{\"text\":\"lo \\\"you\\\"\"}]}\r\n\r\n\
        data: {\"choices\":[{\"delta\":{\"content\":null,\"tool_calls\":[{}]}}]}\n\n\
        event: other\ndata: not JSON\n\n\
        data: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn tokens_are_counted_however_the_stream_is_cut() {
        for cut in [1, 2, 5, 64, STREAM.len()] {
            let tally = Arc::new(Tally::default());
            let mut tokens = Tokens::new(&tally, Instant::now());
            for piece in STREAM.as_bytes().chunks(cut) {
                tokens.see(piece);
            }
            assert_eq!((tokens.counted, tokens.told), (3, 7), "cut at {cut}");
            drop(tokens);
            let counts = tally.tokens().counts();
            assert_eq!((counts.streams, counts.tokens), (1, 7));
            assert_eq!((counts.first.count, counts.gap.count), (1, 2));
        }
    }

    #[test]
    fn what_is_kept_of_a_line_is_bounded() {
        let tally = Arc::new(Tally::default());
        let mut tokens = Tokens::new(&tally, Instant::now());
        for _ in 0..100 {
            tokens.see(&[b'x'; 10_000]);
            assert!(tokens.line.capacity() <= 2 * MAX_LINE);
        }
        tokens.see(b"\ndata: {\"choices\":[{\"text\":\"a\"}]}\n");
        assert_eq!(tokens.counted, 1);
    }
}
