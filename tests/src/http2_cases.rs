//! Cases of RFC 9113 and RFC 7541, a table: what a client sends, and what has to become of it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};

use crate::frames::code::{
    COMPRESSION_ERROR, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR,
    STREAM_CLOSED,
};
use crate::frames::flag::{ACK, END_HEADERS, END_STREAM, NONE, PADDED};
use crate::frames::kind::{
    CONTINUATION, DATA, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::frames::{Wire, block, frame, header, request};

/// What has to become of what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection ends, by a good-bye with one of these codes or without a word (§5.4.1).
    Connection(&'static [u32]),
    /// The stream ends by a reset with one of these codes or a refusal, or the connection does
    /// (§5.4.2).
    Stream(&'static [u32]),
    /// As a stream, or answered by 200 as if the wrong part had not been there.
    Dropped,
    /// It is answered by 200.
    Answered,
    /// It is passed over; the connection goes on.
    PassedOver,
}

/// One case, on a connection that has been opened in order.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where the rule stands, and what it is.
    pub name: &'static str,
    /// The frames.
    pub bytes: Vec<u8>,
    /// What has to become of it.
    pub verdict: Verdict,
}

use Verdict::{Answered, Connection, Dropped, PassedOver, Stream};

const WHOLE: u8 = END_STREAM | END_HEADERS;
const PROTOCOL: Verdict = Connection(&[PROTOCOL_ERROR]);
/// The `h2` library says less exactly what is wrong than it should, and ends all the same.
const SIZE: Verdict = Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
const COMPRESSION: Verdict = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
const MALFORMED: Verdict = Stream(&[PROTOCOL_ERROR]);

fn get() -> Vec<u8> {
    request("GET", "/fine")
}

/// Begins a request whose body is still to come.
fn begin(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "/open"))
}

fn case(name: &'static str, verdict: Verdict, frames: &[Vec<u8>]) -> Case {
    Case {
        name,
        bytes: frames.concat(),
        verdict,
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut all = ordinary();
    all.extend(settings_and_signs());
    all.extend(framing());
    all.extend(compression());
    all.extend(tables_of_headers());
    all.extend(states());
    all.extend(ends_of_streams());
    all.extend(frames_of_streams());
    all.extend(frames_of_connections());
    all.extend(malformed());
    all
}

#[rustfmt::skip] // A table.
fn ordinary() -> Vec<Case> {
    let head = |method: &str| request(method, "/fine");
    let sized = |length: &str| [head("POST"), header("content-length", length.as_bytes())].concat();
    let priority = |stream: u32, on: u32, weight: u8| frame(PRIORITY, NONE, stream, &[&on.to_be_bytes()[..], &[weight]].concat());
    let whole = || frame(HEADERS, WHOLE, 1, &get());
    let data = |flags, payload: &[u8]| frame(DATA, flags, 1, payload);
    vec![
        case("8.1: GET", Answered, &[whole()]),
        case("8.1: HEAD", Answered, &[frame(HEADERS, WHOLE, 1, &head("HEAD"))]),
        case("8.1: DELETE", Answered, &[frame(HEADERS, WHOLE, 1, &head("DELETE"))]),
        case("8.1: a method nobody has heard of", Answered, &[frame(HEADERS, WHOLE, 1, &head("FIND"))]),
        case("8.1: POST", Answered, &[begin(1), data(END_STREAM, b"hello")]),
        case("8.1: POST in pieces", Answered, &[begin(1), data(NONE, b"hel"), data(NONE, b"lo"), data(END_STREAM, b"!")]),
        case("8.1: POST ended by nothing", Answered, &[begin(1), data(NONE, b"hello"), data(END_STREAM, b"")]),
        case("8.1: POST of nothing", Answered, &[begin(1), data(END_STREAM, b"")]),
        case("8.1: POST with trailers", Answered, &[begin(1), data(NONE, b"hello"), frame(HEADERS, WHOLE, 1, &block(&[("x-sum", "1")]))]),
        case("8.1: trailers in two pieces", Answered, &[begin(1), data(NONE, b"x"), frame(HEADERS, END_STREAM, 1, &block(&[("x-a", "1")])), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-b", "2")]))]),
        case("8.1.1: as much as Content-Length", Answered, &[frame(HEADERS, END_HEADERS, 1, &sized("5")), data(NONE, b"hel"), data(END_STREAM, b"lo")]),
        case("8.1.1: padding does not count", Answered, &[frame(HEADERS, END_HEADERS, 1, &sized("1")), data(END_STREAM | PADDED, &[2, b'x', 0, 0])]),
        case("6.1: nothing but padding", Answered, &[begin(1), data(NONE | PADDED, &[3, 0, 0, 0]), data(END_STREAM, b"x")]),
        case("6.1: padded by nothing", Answered, &[begin(1), data(END_STREAM | PADDED, &[0, b'x'])]),
        case("6.3: the lightest priority", Answered, &[priority(1, 0, 0), whole()]),
        case("6.3: the heaviest priority", Answered, &[priority(1, 0, 255), whole()]),
        case("6.3: an exclusive priority", Answered, &[priority(1, 0x8000_0000, 15), whole()]),
        case("6.3: a priority on a stream to come", Answered, &[priority(1, 3, 15), whole()]),
        case("6.3: a priority of a request under way", Answered, &[begin(1), priority(1, 0, 7), data(END_STREAM, b"x")]),
        case("6.2: headers with padding and a priority", Answered, &[frame(HEADERS, WHOLE | PADDED | 0x20, 1, &[vec![2, 0, 0, 0, 0, 15], get(), vec![0; 2]].concat())]),
        case("6.10: a block in five pieces", Answered, &[
            vec![frame(HEADERS, END_STREAM, 1, &get())],
            (0..4).map(|_| frame(CONTINUATION, NONE, 1, &block(&[("x", "y")]))).collect(),
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
        ].concat()),
        case("6.10: a header cut in two", Answered, &[frame(HEADERS, END_STREAM, 1, &get()[..9]), frame(CONTINUATION, END_HEADERS, 1, &get()[9..])]),
        case("6.2: an empty frame of headers, continued", Answered, &[frame(HEADERS, END_STREAM, 1, &[]), frame(CONTINUATION, END_HEADERS, 1, &get())]),
        case("8.3.1: Host and the same authority", Answered, &[frame(HEADERS, WHOLE, 1, &[get(), header("host", b"h")].concat())]),
        case("8.2.2: TE of trailers", Answered, &[frame(HEADERS, WHOLE, 1, &[get(), header("te", b"trailers")].concat())]),
    ]
}

#[rustfmt::skip] // A table.
fn settings_and_signs() -> Vec<Case> {
    let settings = |all: &[(u16, u32)]| {
        let payload: Vec<u8> = all.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        frame(SETTINGS, NONE, 0, &payload)
    };
    let whole = || frame(HEADERS, WHOLE, 1, &get());
    let bye = |code: u32| frame(GOAWAY, NONE, 0, &[&0u32.to_be_bytes()[..], &code.to_be_bytes()].concat());
    let window = |stream: u32, by: u32| frame(WINDOW_UPDATE, NONE, stream, &by.to_be_bytes());
    let reset = |code: u32| frame(RST_STREAM, NONE, 1, &code.to_be_bytes());
    vec![
        case("6.5: no settings in a frame of settings", PassedOver, &[settings(&[])]),
        case("6.5: all settings at once", Answered, &[settings(&[(1, 4_096), (2, 0), (3, 100), (4, 65_535), (5, 16_384), (6, 100_000)]), whole()]),
        case("6.5.3: a setting twice in a frame", Answered, &[settings(&[(4, 0), (4, 65_535)]), whole()]),
        case("6.5: settings while a request is under way", Answered, &[begin(1), settings(&[(4, 70_000)]), frame(DATA, END_STREAM, 1, b"x")]),
        case("6.5.2: the largest window", Answered, &[settings(&[(4, 0x7fff_ffff)]), whole()]),
        case("6.5.2: the largest frames", Answered, &[settings(&[(5, (1 << 24) - 1)]), whole()]),
        case("6.5.2: no table of headers", Answered, &[settings(&[(1, 0)]), whole()]),
        case("6.9.2: a window below nothing, and more later", Answered, &[settings(&[(4, 0)]), whole(), settings(&[(4, 65_535)])]),
        case("6.9.2: a setting that makes a window too large", Connection(&[FLOW_CONTROL_ERROR]), &[begin(1), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])]),
        case("6.7: a ping within a request", Answered, &[begin(1), frame(PING, NONE, 0, &[7; 8]), frame(DATA, END_STREAM, 1, b"x")]),
        case("6.7: a ping that is too long", SIZE, &[frame(PING, NONE, 0, &[0; 9])]),
        case("6.9: a window that is too long", SIZE, &[frame(WINDOW_UPDATE, NONE, 0, &[0, 0, 0, 1, 0])]),
        case("6.9: more window for connection and stream", Answered, &[begin(1), window(0, 1_000), window(1, 1_000), frame(DATA, END_STREAM, 1, b"x")]),
        case("6.8: a good-bye during a request", Answered, &[begin(1), bye(0), frame(DATA, END_STREAM, 1, b"x")]),
        case("6.8: a good-bye that is too short", SIZE, &[frame(GOAWAY, NONE, 0, &[0; 7])]),
        case("7: a reset by an unknown code", PassedOver, &[begin(1), reset(0xff)]),
        case("7: a good-bye by an unknown code", Dropped, &[whole(), bye(0xff)]),
        case("6.4: a reset that is too long", SIZE, &[begin(1), frame(RST_STREAM, NONE, 1, &[0; 5])]),
        case("6.4: a reset of a request whose end was sent", PassedOver, &[whole(), reset(8)]),
        case("6.6: a promise on stream 0", PROTOCOL, &[frame(PUSH_PROMISE, END_HEADERS, 0, &[vec![0, 0, 0, 2], get()].concat())]),
        case("6.3: a priority that is too long", Stream(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), &[begin(1), frame(PRIORITY, NONE, 1, &[0; 6])]),
        case("6.2: headers too short for their priority", Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), &[frame(HEADERS, WHOLE | 0x20, 1, &[0; 4])]),
        case("6.2: headers too short for their padding", Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), &[frame(HEADERS, WHOLE | PADDED, 1, &[])]),
        case("6.1: data too short for their padding", Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), &[begin(1), frame(DATA, END_STREAM | PADDED, 1, &[])]),
    ]
}

#[rustfmt::skip] // A table.
fn tables_of_headers() -> Vec<Case> {
    let with = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[&get()[..], bytes].concat());
    let after = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[bytes, &get()[..]].concat());
    // `x: y`, literally, in the ways of RFC 7541 §6.2.
    let literal = |kind: u8| [kind, 1, b'x', 1, b'y'];
    vec![
        case("7541, 6.2.1: a literal that is remembered", Answered, &[with(&literal(0x40))]),
        case("7541, 6.2.2: a literal that is not", Answered, &[with(&literal(0x00))]),
        case("7541, 6.2.3: a literal that never is", Answered, &[with(&literal(0x10))]),
        case("7541, 6.2.1: a name of the table, remembered", Answered, &[with(&[0x7a, 1, b'y'])]),
        case("7541, 6.2.2: a name of the table, not remembered", Answered, &[with(&[0x0f, 0x2b, 1, b'y'])]),
        case("7541, 6.2.3: a name of the table, never remembered", Answered, &[with(&[0x1f, 0x2b, 1, b'y'])]),
        case("7541, 5.2: Huffman's code in a value", Answered, &[with(&[0x40, 1, b'x', 0x81, 0x1f])]),
        case("7541, 5.2: Huffman's code in name and value", Answered, &[with(&[0x40, 0x81, 0xf3, 0x81, 0x1f])]),
        case("7541, 2.3.2: what was remembered is used", Answered, &[with(&[&literal(0x40)[..], &[0xbe]].concat())]),
        case("7541, 2.3.2: a name that was remembered is used", Answered, &[with(&[&literal(0x40)[..], &[0x7e, 1, b'z']].concat())]),
        case("7541, 2.2: the table outlives a request", Answered, &[frame(HEADERS, END_HEADERS, 1, &[&get()[..], &literal(0x40)].concat()), frame(RST_STREAM, NONE, 1, &[0, 0, 0, 8]), frame(HEADERS, WHOLE, 3, &[&get()[..], &[0xbe]].concat())]),
        case("7541, 6.3: a smaller table", Answered, &[after(&[0x20])]),
        case("7541, 6.3: a table that is emptied and grows again", Answered, &[after(&[0x20, 0x3f, 0xe1, 0x1f])]),
        case("7541, 4.3: what an emptied table held", COMPRESSION, &[frame(HEADERS, END_HEADERS, 1, &[&get()[..], &literal(0x40)].concat()), frame(HEADERS, WHOLE, 3, &[&[0x20][..], &get(), &[0xbe]].concat())]),
        case("7541, 4.4: a header larger than the table empties it", COMPRESSION, &[frame(HEADERS, WHOLE, 1, &[&[0x3f, 0x01][..], &get(), &literal(0x40), &[0x40, 1, b'z', 40], &[b'y'; 40], &[0xbe]].concat())]),
        case("7541, 6.1: an index of 62 when nothing is remembered", COMPRESSION, &[with(&[0xbe])]),
    ]
}

#[rustfmt::skip] // A table.
fn ends_of_streams() -> Vec<Case> {
    let closed = Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]);
    let whole = || frame(HEADERS, WHOLE, 1, &get());
    let reset = || frame(RST_STREAM, NONE, 1, &8u32.to_be_bytes());
    let on = |stream: u32, depends: u32| frame(PRIORITY, NONE, stream, &[&depends.to_be_bytes()[..], &[15]].concat());
    vec![
        case("5.1: a priority after the end of a request", Answered, &[whole(), on(1, 0)]),
        case("5.1: a priority after a reset", PassedOver, &[begin(1), reset(), on(1, 0)]),
        case("5.1: a reset after a reset", PassedOver, &[begin(1), reset(), reset()]),
        case("5.1: a window after a reset", PassedOver, &[begin(1), reset(), frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])]),
        case("5.1: a continuation after a reset", Stream(&[PROTOCOL_ERROR, STREAM_CLOSED]), &[begin(1), reset(), frame(CONTINUATION, END_HEADERS, 1, &get())]),
        case("5.1: a request after another's reset", Answered, &[begin(1), reset(), frame(HEADERS, WHOLE, 3, &get())]),
        case("5.1: data after trailers", closed, &[begin(1), frame(HEADERS, WHOLE, 1, &block(&[("x", "y")])), frame(DATA, END_STREAM, 1, b"x")]),
        case("5.1: trailers after trailers", closed, &[begin(1), frame(HEADERS, WHOLE, 1, &block(&[("x", "y")])), frame(HEADERS, WHOLE, 1, &block(&[("x", "y")]))]),
        case("5.1: data on a stream that was left out", closed, &[frame(HEADERS, WHOLE, 5, &get()), frame(DATA, END_STREAM, 3, b"x")]),
        case("5.1.1: the same number twice", closed, &[whole(), whole()]),
        case("5.3.1: headers that depend on themselves", Dropped, &[frame(HEADERS, WHOLE | 0x20, 1, &[vec![0, 0, 0, 1, 15], get()].concat())]),
        case("5.3.1: a priority that depends on itself", Dropped, &[on(1, 1), whole()]),
        case("5.1.1: the largest number", Answered, &[frame(HEADERS, WHOLE, 0x7fff_ffff, &get())]),
        case("8.1: headers again, and no end", MALFORMED, &[begin(1), frame(HEADERS, END_HEADERS, 1, &request("POST", "/open")), frame(DATA, END_STREAM, 1, b"x")]),
    ]
}

#[rustfmt::skip] // A table.
fn framing() -> Vec<Case> {
    let long = vec![0; 16_385];
    let many = header("x", &vec![b'y'; 17_000]);
    vec![
        case("4.1: frames of unknown types are passed over", PassedOver, &[frame(0xfa, 0xff, 0, b"what"), frame(0xfb, 0, 3, b"ever")]),
        case("4.1: unknown flags are passed over", PassedOver, &[frame(PING, 0xfe, 0, &[1; 8])]),
        case("4.1: the reserved bit is passed over", Answered, &[frame(HEADERS, WHOLE, 0x8000_0001, &get())]),
        case("4.2: a frame of the largest size", PassedOver, &[begin(1), frame(DATA, NONE, 1, &long[1..])]),
        case("4.2: a frame of data that is too long", Stream(&[FRAME_SIZE_ERROR]), &[begin(1), frame(DATA, END_STREAM, 1, &long)]),
        case("4.2: a frame of headers that is too long", SIZE, &[frame(HEADERS, WHOLE, 1, &[get(), many].concat())]),
        case("4.3: another frame within a block", PROTOCOL, &[frame(HEADERS, END_STREAM, 1, &get()), frame(PING, NONE, 0, &[0; 8])]),
        case("4.3: another stream within a block", PROTOCOL, &[frame(HEADERS, END_STREAM, 1, &get()), frame(HEADERS, WHOLE, 3, &get())]),
        case("4.3: another stream continues a block", PROTOCOL, &[frame(HEADERS, END_STREAM, 1, &get()), frame(CONTINUATION, END_HEADERS, 3, &[])]),
        case("5.5: an unknown frame within a block", PROTOCOL, &[frame(HEADERS, END_STREAM, 1, &get()), frame(0xfa, 0, 1, b"what")]),
        case("6.10: a block in three pieces", Answered, &[frame(HEADERS, END_STREAM, 1, &get()), frame(CONTINUATION, NONE, 1, &block(&[("x", "y")])), frame(CONTINUATION, END_HEADERS, 1, &[])]),
        case("6.2: padded headers", Answered, &[frame(HEADERS, WHOLE | PADDED, 1, &[vec![4], get(), vec![0; 4]].concat())]),
        case("6.2: headers with a priority", Answered, &[frame(HEADERS, WHOLE | 0x20, 1, &[vec![0, 0, 0, 0, 15], get()].concat())]),
    ]
}

#[rustfmt::skip] // A table.
fn compression() -> Vec<Case> {
    let with = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[&get()[..], bytes].concat());
    let indexed = [
        vec![0x82, 0x86],
        header(":path", b"/fine"),
        header(":authority", b"h"),
    ]
    .concat();
    vec![
        case("7541, 6.1: names of the static table", Answered, &[frame(HEADERS, WHOLE, 1, &indexed)]),
        case("7541, 6.1: index 0", COMPRESSION, &[with(&[0x80])]),
        case("7541, 2.3.3: an index beyond the tables", COMPRESSION, &[with(&[0xc6])]),
        case("7541, 2.3.3: a name beyond the tables", COMPRESSION, &[with(&[0x7f, 0x07, 1, b'y'])]),
        case("7541, 5.1: an integer beyond all bounds", COMPRESSION, &[with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])]),
        case("7541, 5.2: a string longer than its block", COMPRESSION, &[with(&[0, 1, b'x', 0x7e, b'y'])]),
        case("7541, 5.2: a code padded by more than seven bits", COMPRESSION, &[with(&[0, 1, b'x', 0x83, 0x1f, 0xff, 0xff])]),
        case("7541, 5.2: a code padded by zeros", COMPRESSION, &[with(&[0, 1, b'x', 0x81, 0x18])]),
        case("7541, 5.2: a code that holds its own end", COMPRESSION, &[with(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff])]),
        case("7541, 4.2: a table that is resized within a block", COMPRESSION, &[with(&[0x20])]),
        case("7541, 6.3: a table larger than allowed", COMPRESSION, &[frame(HEADERS, WHOLE, 1, &[vec![0x3f, 0xe2, 0x1f], get()].concat())]),
        case("4.3: a block that ends within a header", COMPRESSION, &[with(&[0x40, 5, b'x'])]),
    ]
}

#[rustfmt::skip] // A table.
fn states() -> Vec<Case> {
    let closed = Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]);
    let whole = || frame(HEADERS, WHOLE, 1, &get());
    let reset = |stream| frame(RST_STREAM, NONE, stream, &8u32.to_be_bytes());
    vec![
        case("5.1: data on an idle stream", PROTOCOL, &[frame(DATA, END_STREAM, 1, b"x")]),
        case("5.1: a reset of an idle stream", PROTOCOL, &[reset(1)]),
        case("5.1: a window for an idle stream", PROTOCOL, &[frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])]),
        case("5.1: a continuation of an idle stream", PROTOCOL, &[frame(CONTINUATION, END_HEADERS, 1, &get())]),
        case("5.1: data after the end of a request", closed, &[whole(), frame(DATA, END_STREAM, 1, b"x")]),
        case("5.1: headers after the end of a request", closed, &[whole(), frame(HEADERS, WHOLE, 1, &get())]),
        case("5.1: a continuation after the end of a request", Stream(&[PROTOCOL_ERROR, STREAM_CLOSED]), &[whole(), frame(CONTINUATION, END_HEADERS, 1, &get())]),
        case("5.1: data after a reset", closed, &[begin(1), reset(1), frame(DATA, END_STREAM, 1, b"x")]),
        case("5.1: headers after a reset", closed, &[begin(1), reset(1), frame(HEADERS, WHOLE, 1, &get())]),
        case("5.1: a window after the end of a request", Answered, &[whole(), frame(WINDOW_UPDATE, NONE, 1, &[0, 0, 0, 1])]),
        case("5.1.1: a stream with an even number", PROTOCOL, &[frame(HEADERS, WHOLE, 2, &get())]),
        case("5.1.1: a number lower than the last", Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]), &[frame(HEADERS, WHOLE, 5, &get()), frame(HEADERS, WHOLE, 3, &get())]),
        case("5.1.1: numbers may be left out", Answered, &[frame(HEADERS, WHOLE, 1_001, &get())]),
    ]
}

#[rustfmt::skip] // A table.
fn frames_of_streams() -> Vec<Case> {
    let window = |stream: u32, by: u32| frame(WINDOW_UPDATE, NONE, stream, &by.to_be_bytes());
    vec![
        case("6.1: data on stream 0", PROTOCOL, &[frame(DATA, END_STREAM, 0, b"x")]),
        case("6.1: data padded by more than there is", PROTOCOL, &[begin(1), frame(DATA, END_STREAM | PADDED, 1, &[5, 1, 2, 3, 4])]),
        case("6.1: padded data", Answered, &[begin(1), frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0])]),
        case("6.2: headers on stream 0", PROTOCOL, &[frame(HEADERS, WHOLE, 0, &get())]),
        case("6.2: headers padded by more than there is", PROTOCOL, &[frame(HEADERS, WHOLE | PADDED, 1, &[200, 1, 2, 3])]),
        case("6.3: a priority on stream 0", PROTOCOL, &[frame(PRIORITY, NONE, 0, &[0, 0, 0, 0, 1])]),
        case("6.3: a priority that is too short", Stream(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), &[begin(1), frame(PRIORITY, NONE, 1, &[0, 0, 0, 0])]),
        case("6.3: a priority of an idle stream", PassedOver, &[frame(PRIORITY, NONE, 7, &[0, 0, 0, 0, 1])]),
        case("6.4: a reset on stream 0", PROTOCOL, &[frame(RST_STREAM, NONE, 0, &[0; 4])]),
        case("6.4: a reset that is too short", SIZE, &[begin(1), frame(RST_STREAM, NONE, 1, &[0; 3])]),
        case("6.6: a promise by a client", PROTOCOL, &[begin(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[vec![0, 0, 0, 2], get()].concat())]),
        case("6.9: a window of nothing for a stream", MALFORMED, &[begin(1), window(1, 0)]),
        case("6.9: a window that is too short", SIZE, &[frame(WINDOW_UPDATE, NONE, 0, &[0, 0, 1])]),
        case("6.9.1: a window too large for a stream", Stream(&[FLOW_CONTROL_ERROR]), &[begin(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)]),
        case("6.10: a continuation on stream 0", PROTOCOL, &[frame(CONTINUATION, END_HEADERS, 0, &get())]),
        case("6.10: a continuation after a whole block", Stream(&[PROTOCOL_ERROR, STREAM_CLOSED]), &[begin(1), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))]),
        case("6.10: a continuation after data", Stream(&[PROTOCOL_ERROR, STREAM_CLOSED]), &[begin(1), frame(DATA, NONE, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")]))]),
    ]
}

#[rustfmt::skip] // A table.
fn frames_of_connections() -> Vec<Case> {
    let setting = |name: u16, value: u32| {
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, NONE, 0, &payload)
    };
    let endless: Vec<Vec<u8>> = std::iter::once(frame(HEADERS, END_STREAM, 1, &get()))
        .chain(
            (0..2_000).map(|_| frame(CONTINUATION, NONE, 1, &block(&[("x", &"y".repeat(1_000))]))),
        )
        .collect();
    let rapid: Vec<Vec<u8>> = (0..2_000u32)
        .flat_map(|n| {
            [
                frame(HEADERS, WHOLE, 2 * n + 1, &get()),
                frame(RST_STREAM, NONE, 2 * n + 1, &8u32.to_be_bytes()),
            ]
        })
        .collect();
    vec![
        case("6.5: an acknowledgement with something in it", SIZE, &[frame(SETTINGS, ACK, 0, &[0; 6])]),
        case("6.5: settings on a stream", PROTOCOL, &[frame(SETTINGS, NONE, 1, &[])]),
        case("6.5: half a setting", SIZE, &[frame(SETTINGS, NONE, 0, &[0, 3, 0])]),
        case("6.5.2: a push that is neither on nor off", PROTOCOL, &[setting(2, 2)]),
        case("6.5.2: a window beyond all bounds", Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]), &[setting(4, 0x8000_0000)]),
        case("6.5.2: frames smaller than the least", PROTOCOL, &[setting(5, 16_383)]),
        case("6.5.2: frames larger than the most", PROTOCOL, &[setting(5, 1 << 24)]),
        case("6.5.2: an unknown setting", PassedOver, &[setting(0xff, 1)]),
        case("6.7: a ping on a stream", PROTOCOL, &[frame(PING, NONE, 1, &[0; 8])]),
        case("6.7: a ping that is too short", SIZE, &[frame(PING, NONE, 0, &[0; 6])]),
        case("6.7: an answer to a ping nobody sent", PassedOver, &[frame(PING, ACK, 0, &[9; 8])]),
        case("6.8: a good-bye on a stream", PROTOCOL, &[frame(GOAWAY, NONE, 1, &[0; 8])]),
        case("6.9: a window of nothing for the connection", PROTOCOL, &[frame(WINDOW_UPDATE, NONE, 0, &[0; 4])]),
        case("6.9.1: a window too large for the connection", Connection(&[FLOW_CONTROL_ERROR]), &[frame(WINDOW_UPDATE, NONE, 0, &0x7fff_ffffu32.to_be_bytes())]),
        case("10.5: a block without an end", Connection(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR]), &endless),
        case("10.5: requests reset at once, without an end", Connection(&[ENHANCE_YOUR_CALM]), &rapid),
    ]
}

#[rustfmt::skip] // A table.
fn malformed() -> Vec<Case> {
    const METHOD: (&str, &str) = (":method", "GET");
    const SCHEME: (&str, &str) = (":scheme", "http");
    const PATH: (&str, &str) = (":path", "/malformed");
    const AUTHORITY: (&str, &str) = (":authority", "h");
    let head = |headers: &[(&str, &str)]| frame(HEADERS, WHOLE, 1, &block(headers));
    let with = |name: &str, value: &str| {
        frame(
            HEADERS,
            WHOLE,
            1,
            &block(&[METHOD, SCHEME, PATH, AUTHORITY, (name, value)]),
        )
    };
    let post = |length: &str| {
        let headers = [
            (":method", "POST"),
            SCHEME,
            PATH,
            AUTHORITY,
            ("content-length", length),
        ];
        frame(HEADERS, END_HEADERS, 1, &block(&headers))
    };
    let trailers = |headers: &[(&str, &str)], flags| frame(HEADERS, flags, 1, &block(headers));
    vec![
        case("8.2.1: a name in capitals", MALFORMED, &[with("X-Name", "y")]),
        case("8.2.1: a space in a name", MALFORMED, &[with("x y", "z")]),
        case("8.2.1: a colon in a name", MALFORMED, &[with("x:y", "z")]),
        case("8.2.1: an empty name", MALFORMED, &[with("", "z")]),
        case("8.2.1: a control in a name", MALFORMED, &[with("x\x01", "z")]),
        case("8.2.1: a NUL in a value", MALFORMED, &[with("x", "a\0b")]),
        case("8.2.1: a CR in a value", MALFORMED, &[with("x", "a\rb")]),
        case("8.2.1: a LF in a value", MALFORMED, &[with("x", "a\nb")]),
        case("8.2.2: Connection", MALFORMED, &[with("connection", "keep-alive")]),
        case("8.2.2: Transfer-Encoding", MALFORMED, &[with("transfer-encoding", "chunked")]),
        case("8.2.2: Keep-Alive", MALFORMED, &[with("keep-alive", "1")]),
        case("8.2.2: Proxy-Connection", MALFORMED, &[with("proxy-connection", "close")]),
        case("8.2.2: Upgrade", MALFORMED, &[with("upgrade", "websocket")]),
        case("8.2.2: TE of something else than trailers", MALFORMED, &[with("te", "gzip")]),
        case("8.3: an unknown pseudo-header", MALFORMED, &[with(":unknown", "y")]),
        case("8.3: a pseudo-header of answers", MALFORMED, &[head(&[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")])]),
        case("8.3: a pseudo-header after a header", MALFORMED, &[head(&[METHOD, SCHEME, ("x", "y"), PATH, AUTHORITY])]),
        case("8.3: a pseudo-header in trailers", Dropped, &[post("1"), frame(DATA, NONE, 1, b"x"), trailers(&[METHOD], WHOLE)]),
        case("8.3.1: no method", MALFORMED, &[head(&[SCHEME, PATH, AUTHORITY])]),
        case("8.3.1: no scheme", MALFORMED, &[head(&[METHOD, PATH, AUTHORITY])]),
        case("8.3.1: no path", MALFORMED, &[head(&[METHOD, SCHEME, AUTHORITY])]),
        case("8.3.1: an empty path", MALFORMED, &[head(&[METHOD, SCHEME, (":path", ""), AUTHORITY])]),
        case("8.3.1: two methods", MALFORMED, &[head(&[METHOD, METHOD, SCHEME, PATH, AUTHORITY])]),
        case("8.3.1: two schemes", MALFORMED, &[head(&[METHOD, SCHEME, SCHEME, PATH, AUTHORITY])]),
        case("8.3.1: two paths", MALFORMED, &[head(&[METHOD, SCHEME, PATH, PATH, AUTHORITY])]),
        case("8.3.1: two authorities", MALFORMED, &[head(&[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY])]),
        case("8.3.1: an authority and another Host", MALFORMED, &[with("host", "other")]),
        case("8.3.1: an authority with user information", MALFORMED, &[head(&[METHOD, SCHEME, PATH, (":authority", "u@h")])]),
        case("8.3.1: a path with a space", MALFORMED, &[head(&[METHOD, SCHEME, (":path", "/malformed x"), AUTHORITY])]),
        case("8.3.1: a path with a line end", MALFORMED, &[head(&[METHOD, SCHEME, (":path", "/malformed HTTP/1.1\r\nX: y"), AUTHORITY])]),
        case("8.3.1: a method with a space", MALFORMED, &[head(&[(":method", "GET /malformed HTTP/1.1"), SCHEME, PATH, AUTHORITY])]),
        case("8.1: trailers that do not end the stream", MALFORMED, &[begin(1), trailers(&[("x", "y")], END_HEADERS)]),
        case("8.1.1: less than Content-Length", MALFORMED, &[post("5"), frame(DATA, END_STREAM, 1, b"x")]),
        case("8.1.1: more than Content-Length", MALFORMED, &[post("1"), frame(DATA, END_STREAM, 1, b"hello")]),
        case("8.1.1: more than Content-Length in pieces", MALFORMED, &[post("1"), frame(DATA, NONE, 1, b"x"), frame(DATA, END_STREAM, 1, b"x")]),
        case("8.1.1: a Content-Length that is none", MALFORMED, &[with("content-length", "+5")]),
    ]
}

/// Plays a case and says what is wrong with what came of it.
///
/// # Errors
/// What is wrong.
pub async fn hold(case: &Case, address: SocketAddr) -> Result<()> {
    const MARK: [u8; 8] = *b"patchbay";
    let mut wire = Wire::open(address).await?;
    wire.write(&case.bytes).await?;
    let mut goes_on = false;
    if case.verdict != Answered {
        wire.write(&frame(PING, NONE, 0, &MARK)).await?;
    }
    loop {
        let frame = wire
            .read()
            .await
            .with_context(|| format!("goes on: {goes_on}"))?;
        let Some(frame) = frame else {
            ensure!(
                matches!(case.verdict, Connection(_) | Stream(_) | Dropped),
                "the connection ends"
            );
            return Ok(());
        };
        match (frame.kind, case.verdict) {
            (GOAWAY, Connection(codes) | Stream(codes)) => {
                let code = frame.code().context("no code")?;
                ensure!(codes.contains(&code), "good-bye by {code}");
                return Ok(());
            }
            (GOAWAY, _) => bail!("good-bye: {frame:?}"),
            (PING, verdict) if frame.flags & ACK != 0 && frame.payload == MARK => match verdict {
                PassedOver => return Ok(()),
                Connection(_) => bail!("the connection goes on"),
                _ => goes_on = true,
            },
            (RST_STREAM, Stream(codes)) => {
                let code = frame.code().context("no code")?;
                ensure!(codes.contains(&code), "reset by {code}");
                return Ok(());
            }
            (RST_STREAM, Answered) => bail!("reset: {frame:?}"),
            (RST_STREAM | HEADERS, Dropped) => return Ok(()),
            (HEADERS, Answered) => {
                // A smaller table of headers is acknowledged first (RFC 7541 §4.2).
                let status = frame.payload.iter().find(|byte| **byte != 0x20);
                ensure!(status == Some(&0x88), "answered by {frame:?}");
                return Ok(());
            }
            // 400 of the static table.
            (HEADERS, Stream(_)) if frame.payload.first() == Some(&0x8c) => return Ok(()),
            _ => {}
        }
    }
}
