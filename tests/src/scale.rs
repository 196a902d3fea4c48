//! How large a scenario is, and what the worker costs meanwhile. Among the tests the scenarios that
//! show figures are small; with `PATCHBAY_FULL=1` they are as large as what is promised.

use anyhow::{Context as _, Result};

/// Whether scenarios are played at their full size.
pub fn full() -> bool {
    std::env::var("PATCHBAY_FULL").as_deref() == Ok("1")
}

/// One number for the tests, another for the full size.
pub fn sized<T>(among_tests: T, at_full_size: T) -> T {
    if full() { at_full_size } else { among_tests }
}

/// Lets this process have as many sockets as the system allows.
///
/// # Errors
/// If that is fewer than `needed`.
pub fn allow_sockets(needed: u64) -> Result<()> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    anyhow::ensure!(limit >= needed, "{limit} descriptors are too few");
    Ok(())
}

/// Bytes of a process that are in memory.
///
/// # Errors
/// If it is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_ascii_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kib << 10)
}

/// Descriptors a process has open.
///
/// # Errors
/// If it is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
