//! Bodies that take their time, in either direction.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Book;

/// Bytes of one chunk of a download.
const CHUNK: usize = 64 * 1024;

/// SHA-256 of bytes, in hex.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// What `/download/{count}` answers: bytes without a pattern of a power of two, so that a lost,
/// doubled or swapped buffer changes their digest.
pub fn download(count: usize) -> Vec<u8> {
    (0..count).map(byte_at).collect()
}

fn byte_at(position: usize) -> u8 {
    // The remainder is below 251, so nothing is cut.
    #[allow(clippy::cast_possible_truncation)]
    let byte = (position % 251) as u8;
    byte
}

/// Counts and digests a body of any length.
pub(super) async fn upload(body: Body) -> Json<Value> {
    let mut pieces = body.into_data_stream();
    let (mut count, mut digest) = (0, Sha256::new());
    let mut whole = true;
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => {
                count += piece.len();
                digest.update(&piece);
            }
            Err(_) => whole = false,
        }
    }
    Json(json!({"bytes": count, "sha256": hex(&digest.finalize()), "whole": whole}))
}

pub(super) async fn download_route(Path(count): Path<usize>) -> Response {
    let chunks = (0..count).step_by(CHUNK).map(move |start| {
        let end = (start + CHUNK).min(count);
        let chunk: Bytes = (start..end).map(byte_at).collect();
        Ok::<_, Infallible>(chunk)
    });
    let length = [(header::CONTENT_LENGTH, count)];
    (length, Body::from_stream(stream::iter(chunks))).into_response()
}

/// Lines of text, so many bytes of them, with a strong validator. Request headers called
/// `x-answer-NAME` are headers of the answer.
pub(super) async fn text(Path(count): Path<usize>, asked: HeaderMap) -> Response {
    let chunks = (0..count).step_by(CHUNK).map(move |start| {
        let end = (start + CHUNK).min(count);
        let chunk: Bytes = (start..end).map(letter_at).collect();
        Ok::<_, Infallible>(chunk)
    });
    let mut answer = Body::from_stream(stream::iter(chunks)).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, count.into());
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::ETAG, "\"v1\""),
        (header::ACCEPT_RANGES, "bytes"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in &asked {
        let name = name.as_str().strip_prefix("x-answer-");
        if let Some(name) = name.and_then(|name| HeaderName::try_from(name).ok()) {
            headers.insert(name, value.clone());
        }
    }
    answer
}

/// What `/text/{count}` answers.
pub fn text_of(count: usize) -> Vec<u8> {
    (0..count).map(letter_at).collect()
}

/// Text that has something to say now and then.
fn letter_at(position: usize) -> u8 {
    match position % 64 {
        63 => b'\n',
        place if place < 8 => b'a' + byte_at(position / 64 + place) % 26,
        place => b"the same words on every line again and again and so on and "[place - 8],
    }
}

/// `count` lines, each sent when the scenario releases a piece; chunked.
pub(super) async fn pieces(State(book): State<Book>, Path(count): Path<usize>) -> Response {
    let lines = released(book, count).map(|line| Ok::<_, Infallible>(format!("piece {line}\n")));
    Body::from_stream(lines).into_response()
}

/// `count` server-sent events, each sent when the scenario releases a piece.
pub(super) async fn events(
    State(book): State<Book>,
    Path(count): Path<usize>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(released(book, count).map(|line| Ok(Event::default().data(format!("event {line}")))))
}

fn released(book: Book, count: usize) -> impl Stream<Item = usize> {
    stream::iter(0..count).then(move |line| {
        let pieces = book.pieces.clone();
        async move {
            // The semaphore is never closed; were it, the piece would just come at once.
            if let Ok(permit) = pieces.acquire().await {
                permit.forget();
            }
            line
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
