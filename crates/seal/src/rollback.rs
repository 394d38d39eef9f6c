//! What an owner is told of a state that looks older, and how it is accepted.

use nexus_core::Npub;
use nexus_core::rollback::Accepted;
use serde::{Deserialize, Serialize};

/// Kinds of what control asks the agent's worker for.
pub const ASK_ROLLBACK: &str = "rollback";
pub const ASK_ACCEPT: &str = "accept_rollback";

/// What stands against the stored state: `GET /v1/agents/{npub}/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// What an acceptance has to say, to the byte of its JSON values; none when nothing is to be accepted, or no state
    /// is there.
    pub accept: Option<Accepted>,
    /// In words; none when the state is in order.
    pub text: Option<String>,
}

/// The path of both calls: what the owner's command is signed for.
pub fn path(agent: &Npub) -> String {
    format!("/v1/agents/{agent}/rollback")
}
