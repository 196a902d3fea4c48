//! What the end-to-end scenarios are played with: the real programs on free ports, a real Redis
//! and a real PostgreSQL, an app to proxy to, a browser, the Manager's calls and a load.
//!
//! It refuses to reach into a program: everything is seen through its wires, its files and its
//! exit code. Nothing here waits a fixed time; it waits for a condition, with a deadline.

pub mod app;
pub mod browser;
pub mod churn;
pub mod consistency;
pub mod coordinator;
pub mod differential;
pub mod docker;
pub mod early;
pub mod eventually;
pub mod fleet;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod http1_cases;
pub mod http2_cases;
pub mod incumbent;
pub mod issuer;
pub mod lending;
pub mod load;
pub mod malformed;
pub mod opener;
pub mod paced;
pub mod ports;
pub mod postgres;
pub mod program;
pub mod raw;
pub mod recorder;
pub mod redis;
pub mod rig;
pub mod scale;
pub mod secrets;
pub mod socket;
pub mod tls;
pub mod worker;
