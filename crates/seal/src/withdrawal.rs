//! Money out of an agent's wallet, by its owner's command.

use nexus_core::{Hash32, Msat, Npub};
use serde::{Deserialize, Serialize};

/// The kind of what control asks the agent's worker for.
pub const ASK_WITHDRAW: &str = "withdraw";

/// The body of `POST /v1/agents/{npub}/withdrawals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    /// What the invoice has to ask for, so that nobody is shown one amount and pays another.
    pub amount_sats: u64,
    /// BOLT 11.
    pub invoice: String,
}

/// What became of it, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub payment_hash: Hash32,
    /// As in payments.
    pub state: String,
    pub fee: Msat,
    /// Of a failed one: why nothing was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The path that the owner's command is signed for.
pub fn path(agent: &Npub) -> String {
    format!("/v1/agents/{agent}/withdrawals")
}
