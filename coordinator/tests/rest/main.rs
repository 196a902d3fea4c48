//! The REST API as its callers see it: the router over an in-memory store, and workers that listen
//! to its event stream.

mod desk;
mod opening;
mod shapes;
mod stream;
mod workers;
