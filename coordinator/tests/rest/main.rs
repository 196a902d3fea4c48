//! The REST API as its callers see it: the router over an in-memory store, and workers that listen
//! to its event stream.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says that something is wrong by panicking, its tools included"
)]

mod audit;
mod desk;
mod endpoints;
mod openapi;
mod opening;
mod shapes;
mod slots;
mod stream;
mod workers;
