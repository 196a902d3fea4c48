//! The load rig's programs live in `src/bin`: the origin every proxy of `scripts/bench` leads to,
//! and a bare Pingora proxy to measure Patchbay against. This library holds what they share.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Reads `--name ADDRESS` pairs of a command line.
///
/// # Errors
/// A sentence that names the argument at fault.
pub fn addresses(
    arguments: impl IntoIterator<Item = String>,
) -> Result<HashMap<String, SocketAddr>, String> {
    let mut arguments = arguments.into_iter();
    let mut found = HashMap::new();
    while let Some(flag) = arguments.next() {
        let name = flag
            .strip_prefix("--")
            .ok_or_else(|| format!("{flag}: write --NAME ADDRESS:PORT"))?;
        let value = arguments
            .next()
            .ok_or_else(|| format!("{flag}: needs an address"))?;
        let address = value
            .parse()
            .map_err(|_| format!("{flag} {value}: write it as 127.0.0.1:8080"))?;
        found.insert(name.to_owned(), address);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn reads_pairs_and_names_what_is_wrong() {
        let given = ["--listen", "127.0.0.1:1", "--upstream", "[::1]:2"].map(str::to_owned);
        let found = addresses(given).unwrap();
        assert_eq!(found["listen"].port(), 1);
        assert_eq!(found["upstream"].port(), 2);
        let given = ["--listen", "nowhere"].map(str::to_owned);
        assert!(addresses(given).unwrap_err().contains("nowhere"));
        let given = ["--listen".to_owned()];
        assert!(addresses(given).unwrap_err().contains("--listen"));
    }
}
