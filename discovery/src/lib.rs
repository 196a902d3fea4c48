//! Finds services in the labels of containers. It knows neither engine nor gateway: it says which
//! services there are, whoever runs it, a worker for its own machine or a coordinator for many.
//!
//! `labels` parses, `catalog` gathers what was found, `docker` watches. Events are hints, the list
//! of containers is the truth.

pub mod catalog;
pub mod docker;
pub mod labels;
mod section;

pub use catalog::{Catalog, Instance, Service};
pub use docker::{Docker, DockerError, DockerSettings};
pub use labels::{Container, Found, LabelError};
pub use section::DockerSection;
