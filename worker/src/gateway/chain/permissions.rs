//! Permissions a route asks for.

use crate::gateway::refusal::GatewayRefusal;

/// Permissions a subject has to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required {
    /// All of these.
    pub all: Vec<String>,
    /// And one of these, if there are any.
    pub any: Vec<String>,
}

impl Required {
    /// Whether `held` is enough.
    ///
    /// # Errors
    /// [`GatewayRefusal::Permission`].
    pub fn check<'a>(
        &self,
        held: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), GatewayRefusal> {
        let holds = |wanted: &String| held.clone().any(|one| one == wanted);
        if let Some(missing) = self.all.iter().find(|wanted| !holds(wanted)) {
            return Err(GatewayRefusal::Permission(missing.clone()));
        }
        if !self.any.is_empty() && !self.any.iter().any(holds) {
            return Err(GatewayRefusal::Permission(format!(
                "one of {}",
                self.any.join(", ")
            )));
        }
        Ok(())
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.any.is_empty()
    }
}
