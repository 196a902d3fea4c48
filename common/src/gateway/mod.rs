//! Services of the gateway and the routes to them, as they are written: in a worker's
//! `[gateway]` section, in the body of `PUT /api/services/{name}`, in container labels.
//!
//! `service` and `route` are the shapes and what may be wrong with them, `path`, `host` and `rule`
//! what a route asks of a request, `published` the form in which a coordinator hands services to
//! its workers. This room refuses to know what a worker makes of it (`plan` there) and what a
//! coordinator keeps (`store` there).

pub mod host;
pub mod path;
mod published;
mod route;
mod rule;
mod service;
#[cfg(test)]
mod tests;

pub use host::HostPattern;
pub use path::PathPattern;
pub use published::{CHANNEL, Definition, MAX_INSTANCES, MAX_ROUTES, Origin, Published, is_name};
pub use route::{MOST_RETRIES, Redirect, Respond, Route, Texts};
pub use rule::{Conditions, HeaderCondition, Rule, Tie};
pub use service::{Balance, Breaker, Health, Instance, Protocol, Service, Sticky};

/// Takes note of a mistake: the key it is at, and what is wrong.
pub type Note<'a> = dyn FnMut(&str, String) + 'a;

/// Whether a field need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
