//! What an exchange works in. A connection has it while it works and gives it back when it rests,
//! so that the connections of a thread share what few of them use at a time.

use std::sync::{Mutex, PoisonError};

use super::buffer::Buffer;
use super::head::Field;
use super::rewrite::Added;

/// Most of them kept for whoever works next.
const SPARE: usize = 64;

/// The memory of an exchange.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// From the client.
    pub(super) up: Buffer,
    /// The head of the request at hand.
    pub(super) head: Vec<u8>,
    /// From the app.
    pub(super) down: Buffer,
    /// To the app.
    pub(super) request: Vec<u8>,
    /// To the client.
    pub(super) out: Vec<u8>,
    pub(super) fields: Vec<Field>,
    pub(super) answer_fields: Vec<Field>,
    pub(super) added: Added,
}

/// Memory nobody works in.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<Vec<Memory>>);

impl Shelf {
    /// What was given back last, which is still in the processor's caches.
    pub(super) fn take(&self) -> Memory {
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.pop().unwrap_or_default()
    }

    /// Takes it back.
    pub(super) fn put(&self, mut memory: Memory) {
        memory.up.clear();
        memory.down.clear();
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shelf.len() < SPARE {
            shelf.push(memory);
        }
    }
}
