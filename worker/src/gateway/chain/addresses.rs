//! Which client addresses may come.

use ipnet::IpNet;

use super::Step;
use crate::gateway::refusal::GatewayRefusal;
use crate::stage::Client;

/// Networks that may come, and networks that may not.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Only these, if there are any.
    pub allow: Vec<IpNet>,
    /// Never these.
    pub deny: Vec<IpNet>,
}

impl Addresses {
    pub(super) fn run(&self, client: &Client) -> Result<Option<Step>, GatewayRefusal> {
        let ip = client.address.ip().to_canonical();
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        if within(&self.deny) || !self.allow.is_empty() && !within(&self.allow) {
            return Err(GatewayRefusal::Address);
        }
        Ok(None)
    }
}
