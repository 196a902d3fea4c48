//! Patchbay's domain model and what more than one of its programs needs.
//!
//! This crate knows neither Pingora, Redis nor PostgreSQL: it holds the nouns (circuits, routes,
//! workers), the wire forms they travel in, and the plumbing every program shares
//! (configuration, logging, metrics text, orderly shutdown).

pub mod circuit;
pub mod cli;
pub mod client_ips;
pub mod config;
pub mod event;
pub mod gateway;
pub mod grant;
pub mod health_check;
pub mod hop_by_hop;
pub mod id;
pub mod lifecycle;
pub mod permit;
pub mod request_id;
pub mod route;
pub mod route_report;
pub mod subdomain;
pub mod telemetry;
pub mod timestamp;
pub mod token;
pub mod tunnel;
pub mod use_report;
pub mod worker;
