//! Messages, and when two engines have done the same: headers in any order, bodies without their
//! framing, what depends on the moment left out.

use std::borrow::Cow;

use super::script::Script;

/// One request or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) first_line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    whole: bool,
}

/// What bytes are.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A message of so many bytes.
    Whole(Message, usize),
    /// The beginning of one.
    Part(Message),
}

/// What came of a case at one side.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    pub(super) answers: Vec<Message>,
    pub(super) requests: Vec<Message>,
}

impl Message {
    /// A message that ends within its head.
    pub(super) fn broken(bytes: &[u8]) -> Self {
        Self {
            first_line: String::from_utf8_lossy(bytes).into_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            whole: false,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(one, _)| one == name);
        found.map(|(_, value)| value.as_str())
    }

    /// What has to be the same.
    fn essence(&self) -> Essence<'_> {
        let line = self.first_line.strip_prefix("HTTP/1.");
        let line = line.map_or(self.first_line.as_str(), |line| &line[1..]);
        let kept = |name: &str| {
            !matches!(
                name,
                "date" | "connection" | "transfer-encoding" | "content-length"
            )
        };
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| kept(name)).collect();
        headers.sort();
        let headers = headers
            .into_iter()
            .map(|(name, value)| match name.as_str() {
                // Made up where the client's own is missing.
                "x-backend-request-id" if value != "fuzz" => (name.as_str(), "*"),
                // The port of the door, where no host is named.
                "x-forwarded-port" if self.header("x-forwarded-host") == Some("") => {
                    (name.as_str(), "*")
                }
                name => (name, value.as_str()),
            });
        (line, headers.collect(), self.essential_body())
    }

    /// The body, without the id on a page of ours where that was made up. How much of a message
    /// arrives that is cut off is a matter of time.
    fn essential_body(&self) -> Cow<'_, [u8]> {
        if !self.whole {
            return Cow::Borrowed(&[]);
        }
        let id = self.header("x-backend-request-id");
        let made_up = id.filter(|id| !id.is_empty() && *id != "fuzz");
        match (made_up, std::str::from_utf8(&self.body)) {
            (Some(id), Ok(text)) if text.contains(id) => {
                Cow::Owned(text.replace(id, "*").into_bytes())
            }
            _ => Cow::Borrowed(&self.body),
        }
    }
}

/// Reads one message; `to_end` if it ends with the connection, which has ended.
pub(super) fn parse(bytes: &[u8], to_end: bool) -> Parsed {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Parsed::Part(Message::broken(bytes));
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut message = Message {
        first_line: lines.next().unwrap_or_default().to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        whole: true,
    };
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        message.headers.push((name, value.trim().to_owned()));
    }
    let rest = &bytes[end + 4..];
    let status = message.first_line.split(' ').nth(1).unwrap_or_default();
    let is_answer = message.first_line.starts_with("HTTP/");
    let bodiless = is_answer && (status.starts_with('1') || matches!(status, "204" | "304"));
    let length = message
        .header("content-length")
        .and_then(|n| n.parse::<usize>().ok());
    let taken = if bodiless {
        Some(0)
    } else if message.header("transfer-encoding").is_some() {
        unchunk(rest, &mut message.body)
    } else if let Some(length) = length {
        message
            .body
            .extend_from_slice(&rest[..length.min(rest.len())]);
        (rest.len() >= length).then_some(length)
    } else if is_answer {
        message.body.extend_from_slice(rest);
        to_end.then_some(rest.len())
    } else {
        Some(0)
    };
    match taken {
        Some(taken) => Parsed::Whole(message, end + 4 + taken),
        None => {
            message.whole = false;
            Parsed::Part(message)
        }
    }
}

/// Takes the framing off a body; `None` if it is not whole.
fn unchunk(bytes: &[u8], body: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = text.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        let end = at + size;
        if size > 0 {
            body.extend_from_slice(bytes.get(at..end)?);
        }
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
        if size == 0 {
            return Some(at);
        }
    }
}

/// Whether the last answer is not whole yet.
pub(super) fn waits(said: &[u8]) -> bool {
    let mut rest = said;
    while !rest.is_empty() {
        match parse(rest, false) {
            Parsed::Whole(_, length) => rest = &rest[length..],
            Parsed::Part(_) => return true,
        }
    }
    false
}

/// All answers in what was said before the connection ended.
pub(super) fn answers(said: &[u8]) -> Vec<Message> {
    let mut rest = said;
    let mut answers = Vec::new();
    while !rest.is_empty() {
        match parse(rest, true) {
            Parsed::Whole(message, length) => {
                answers.push(message);
                rest = &rest[length..];
            }
            Parsed::Part(message) => {
                answers.push(message);
                break;
            }
        }
    }
    answers
}

/// What is not the same, if anything. The other engine ends a connection on which it reads more
/// than a request, and even breaks the request off if that comes while the app has not answered
/// (Pingora without pipelining): where there are several, one side may have got further.
pub(super) fn difference(
    lane: &Answered,
    other: &Answered,
    several: bool,
    script: &Script,
) -> Option<&'static str> {
    let (ours, theirs) = (essences(&lane.answers), essences(&other.answers));
    if !same(&ours, &theirs, several) {
        return Some("the answers differ");
    }
    let requests = |side: &Answered| {
        // A request that did not arrive whole was given up; how far it got is a matter of time.
        let whole = side.requests.iter().filter(|request| request.whole);
        let mut requests: Vec<Message> = whole.cloned().collect();
        if script.breaks() {
            requests.dedup();
        }
        requests
    };
    let (ours, theirs) = (requests(lane), requests(other));
    if !same(&essences(&ours), &essences(&theirs), several) {
        return Some("the app got different requests");
    }
    None
}

type Essence<'a> = (&'a str, Vec<(&'a str, &'a str)>, Cow<'a, [u8]>);

fn essences(messages: &[Message]) -> Vec<Essence<'_>> {
    messages.iter().map(Message::essence).collect()
}

fn same(ours: &[Essence<'_>], theirs: &[Essence<'_>], several: bool) -> bool {
    let common = ours.len().min(theirs.len());
    ours[..common] == theirs[..common] && (ours.len() == theirs.len() || several)
}
