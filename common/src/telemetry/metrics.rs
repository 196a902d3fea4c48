//! Prometheus text. Each program owns one registry; nothing is global.

use prometheus::{Registry, TextEncoder};

/// `Content-Type` of the exposition (contract/metrics.md §1).
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// Everything registered, in the text exposition format 0.0.4.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
        log::error!("metrics could not be rendered: {error}");
    }
    text
}
