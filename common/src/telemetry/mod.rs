//! Logs and metrics in the forms all programs share.

pub mod log_line;
pub mod metrics;
