//! gRPC-Web bridged to gRPC (the gRPC project's PROTOCOL-WEB): browsers cannot read trailers, so
//! the app's become a last piece of the body. With the `-text` kind everything is base64 besides.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::conduct::Grpc;

/// Marks a piece of the body as trailers.
const TRAILERS: u8 = 0x80;

/// The bridge of one request.
#[derive(Debug, Default)]
pub(super) enum Bridge {
    /// It needs none.
    #[default]
    None,
    /// Bytes as they are.
    Binary,
    /// Base64, and what is left of a group of four of the request's.
    Text(BytesMut),
}

impl Bridge {
    /// The bridge that a request of this kind needs.
    pub(super) fn of(grpc: Option<Grpc>) -> Self {
        match grpc {
            Some(Grpc::Web) => Self::Binary,
            Some(Grpc::WebText) => Self::Text(BytesMut::new()),
            Some(Grpc::Native) | None => Self::None,
        }
    }

    /// Makes the head that of a gRPC request.
    pub(super) fn request(&self, request: &mut RequestHeader) -> Result<()> {
        if matches!(self, Self::None) {
            return Ok(());
        }
        request.insert_header("content-type", "application/grpc+proto")?;
        if matches!(self, Self::Text(_)) {
            request.remove_header("content-length");
        }
        request.insert_header("te", "trailers")?;
        // The end of a gRPC request is told by a frame of data (PROTOCOL-HTTP2, "EOS").
        request.set_send_end_stream(false);
        Ok(())
    }

    /// A piece of the request's body.
    pub(super) fn request_body(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<()> {
        let Self::Text(left) = self else {
            return Ok(());
        };
        if let Some(piece) = body.take() {
            left.extend_from_slice(&piece);
        }
        let whole = left.len() / 4 * 4;
        if end && whole != left.len() {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the body is not base64");
        }
        let mut decoded = Vec::with_capacity(whole / 4 * 3);
        // Clients may pad every message: each group stands for itself.
        for group in left.split_to(whole).chunks_exact(4) {
            if BASE64.decode_vec(group, &mut decoded).is_err() {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "the body is not base64");
            }
        }
        *body = (!decoded.is_empty() || end).then(|| decoded.into());
        Ok(())
    }

    /// Makes the answer's head that of a gRPC-Web answer.
    pub(super) fn answer(&mut self, answer: &mut ResponseHeader) -> Result<()> {
        if matches!(self, Self::None) {
            return Ok(());
        }
        let content_type = answer.headers.get("content-type");
        let is_grpc =
            content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            // An answer of something else, which passes as it is.
            *self = Self::None;
            return Ok(());
        }
        let content_type = match self {
            Self::Text(_) => "application/grpc-web-text+proto",
            _ => "application/grpc-web+proto",
        };
        answer.insert_header("content-type", content_type)?;
        answer.remove_header("content-length");
        answer.insert_header("transfer-encoding", "chunked")?;
        answer.insert_header("access-control-expose-headers", "grpc-status, grpc-message")
    }

    /// A piece of the answer's body.
    pub(super) fn answer_body(&self, body: &mut Option<Bytes>) {
        if let (Self::Text(_), Some(piece)) = (self, body.as_mut())
            && !piece.is_empty()
        {
            *piece = BASE64.encode(&piece).into();
        }
    }

    /// The app's trailers as a piece of the body.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Option<Bytes> {
        if matches!(self, Self::None) {
            return None;
        }
        let mut text = Vec::new();
        for (name, value) in trailers {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        let mut piece = vec![TRAILERS];
        // Trailers are bounded by the header list HTTP/2 allows.
        piece.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        piece.extend_from_slice(&text);
        let mut piece = Some(Bytes::from(piece));
        self.answer_body(&mut piece);
        piece
    }
}
