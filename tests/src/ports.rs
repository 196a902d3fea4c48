//! Ports nobody else uses: blocks below the range the system hands out on its own, each guarded
//! by a lock file so that test processes running side by side never share one.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, bail};

/// The lowest port used.
const FIRST: u16 = 12_000;
/// Ports from here on are the system's for outgoing connections (Linux's default).
const END: u16 = 32_700;
/// Ports under one lock.
const BLOCK: u16 = 16;

/// A run of neighbouring ports, ours until dropped.
#[derive(Debug)]
pub struct Ports {
    range: Range<u16>,
    _locks: Vec<File>,
}

impl Ports {
    /// Finds `count` neighbouring ports that are free now and keeps others from taking them.
    ///
    /// # Errors
    /// If there are none, or lock files cannot be made.
    pub fn reserve(count: u16) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join("patchbay-scenario-ports");
        std::fs::create_dir_all(&folder).context("a folder for lock files")?;
        let blocks = (END - FIRST) / BLOCK;
        let needed = count.div_ceil(BLOCK);
        // Processes start at different places, so that they seldom try the same locks.
        let offset = u16::try_from(std::process::id() % u32::from(blocks))?;
        for turn in 0..blocks {
            let block = (offset + turn) % blocks;
            if block + needed > blocks {
                continue;
            }
            let Some(locks) = lock_all(&folder, block..block + needed)? else {
                continue;
            };
            let first = FIRST + block * BLOCK;
            let range = first..first + count;
            if range.clone().all(is_free) {
                return Ok(Self {
                    range,
                    _locks: locks,
                });
            }
        }
        bail!("no {count} neighbouring free ports between {FIRST} and {END}")
    }

    /// The first of them.
    pub fn first(&self) -> u16 {
        self.range.start
    }

    /// The last of them.
    pub fn last(&self) -> u16 {
        self.range.end - 1
    }

    /// All of them.
    pub fn all(&self) -> Range<u16> {
        self.range.clone()
    }
}

fn lock_all(folder: &Path, blocks: Range<u16>) -> anyhow::Result<Option<Vec<File>>> {
    let mut locks = Vec::new();
    for block in blocks {
        let path = folder.join(block.to_string());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        locks.push(file);
    }
    Ok(Some(locks))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}
