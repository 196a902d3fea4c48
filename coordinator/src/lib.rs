//! Patchbay's coordinator: it registers workers, opens and closes circuits, and tells the workers.

pub mod store;
