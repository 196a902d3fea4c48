//! Server-sent events as they come in pieces: a parser that holds one event at a time
//! (the WHATWG HTML standard, "Interpreting an event stream").

/// Longest event, in bytes of its lines.
const MAX_EVENT: usize = 64 << 20;

/// One event.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Event {
    /// Its type; empty if the sender named none.
    pub(super) name: String,
    /// Its data lines, joined.
    pub(super) data: String,
    /// Its own id. Unlike in browsers an earlier event's id does not carry over.
    pub(super) id: Option<String>,
}

/// An event grew beyond all measure.
#[derive(Debug, thiserror::Error)]
#[error("an event of more than {MAX_EVENT} bytes")]
pub(super) struct TooLong;

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    after_return: bool,
    event: Event,
    size: usize,
    started: bool,
}

impl Parser {
    /// Takes the next bytes; calls `give` with each event they complete.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut give: impl FnMut(Event),
    ) -> Result<(), TooLong> {
        for &byte in bytes {
            let second_half = byte == b'\n' && std::mem::take(&mut self.after_return);
            if second_half {
                continue;
            }
            self.after_return = byte == b'\r';
            if byte == b'\r' || byte == b'\n' {
                self.end_line(&mut give);
                continue;
            }
            self.size += 1;
            if self.size > MAX_EVENT {
                return Err(TooLong);
            }
            self.line.push(byte);
        }
        Ok(())
    }

    fn end_line(&mut self, give: &mut impl FnMut(Event)) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            self.size = 0;
            if std::mem::take(&mut self.started) {
                give(event);
            }
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.size = self.size.saturating_sub(line.len()),
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
        self.started |= !field.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in pieces {
            parser.feed(piece, |event| events.push(event)).unwrap();
        }
        events
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> Event {
        Event {
            name: name.into(),
            data: data.into(),
            id: id.map(Into::into),
        }
    }

    #[test]
    fn reads_events_in_whatever_pieces_they_come() {
        let text = b": hi\n\nevent: hello\nid: 7\ndata: {\"a\":1}\n\nretry: 5\r\ndata:x\r\ndata: y\r\n\r\n";
        let expected = vec![
            event("hello", "{\"a\":1}", Some("7")),
            event("", "x\ny", None),
        ];
        assert_eq!(parse(&[text]), expected);
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(parse(&single), expected);
    }

    #[test]
    fn an_event_without_its_end_is_not_given() {
        assert!(parse(&[b"event: hello\ndata: 1\n"]).is_empty());
    }

    #[test]
    fn comments_for_ever_are_no_long_event() {
        let mut parser = Parser::default();
        for _ in 0..100 {
            parser.feed(b": keep-alive\n", |_| {}).unwrap();
        }
        assert_eq!(parser.size, 0);
    }

    #[test]
    fn a_long_event_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; MAX_EVENT];
        assert!(parser.feed(&piece, |_| {}).is_ok());
        assert!(parser.feed(b"x", |_| {}).is_err());
    }
}
