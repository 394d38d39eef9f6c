//! The owner-signed policy as an event.

use nexus_core::policy::{InvalidPolicy, MAX_POLICY_BYTES, Policy};
use nexus_core::{Hash32, Npub};
use nostr::event::{Event, UnsignedEvent};
use nostr::types::Timestamp;

use crate::event::{EventError, event_id, expect_tag, tag, unsigned, verify_from};

/// NIP-78 application data: one per `d`.
pub const POLICY_KIND: u16 = 30_078;

/// Why a policy is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("policy: {0}")]
    Event(#[from] EventError),
    #[error("policy: {0}")]
    Document(#[from] InvalidPolicy),
    #[error("the policy is for {found}, not for {expected}")]
    Agent { expected: Npub, found: Npub },
    #[error("policy version {found} is older than version {seen}, which was seen before")]
    Older { seen: u64, found: u64 },
    #[error("another policy of version {version} was seen before: raise the version")]
    Replaced { version: u64 },
}

/// A policy whose owner's signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    pub policy: Policy,
    /// The event's id: the digest that a worker keeps beside the version.
    pub digest: Hash32,
}

/// The `d` tag of an agent's policy.
pub fn policy_identifier(agent: &Npub) -> String {
    format!("nexus-policy:{agent}")
}

/// The event for the owner to sign.
pub fn unsigned_policy(owner: &Npub, policy: &Policy, created_at: Timestamp) -> Result<UnsignedEvent, PolicyError> {
    policy.validate()?;
    let malformed = |error: serde_json::Error| InvalidPolicy::Malformed(error.to_string());
    let content = serde_json::to_string(policy).map_err(malformed)?;
    if content.len() > MAX_POLICY_BYTES {
        return Err(InvalidPolicy::Malformed(format!("more than {MAX_POLICY_BYTES} bytes")).into());
    }
    let tags = vec![tag("d", [policy_identifier(&policy.agent).as_str()]), tag("p", [policy.agent.to_hex().as_str()])];
    Ok(unsigned(owner, POLICY_KIND, created_at, tags, content))
}

/// Checks that the owner signed this event, that it is a policy, and that it is this agent's.
pub fn verify_policy(event: &Event, owner: &Npub, agent: &Npub) -> Result<SignedPolicy, PolicyError> {
    verify_from(event, POLICY_KIND, owner)?;
    let policy = Policy::parse(&event.content)?;
    if policy.agent != *agent {
        return Err(PolicyError::Agent { expected: *agent, found: policy.agent });
    }
    expect_tag(event, "d", &policy_identifier(agent))?;
    Ok(SignedPolicy { policy, digest: event_id(event) })
}

impl SignedPolicy {
    /// Whether this policy may be obeyed by a worker that has seen `seen_version` with `seen_digest`, and whose runtime
    /// envelope wants at least `min_version`.
    pub fn follows(&self, seen_version: u64, seen_digest: Option<Hash32>, min_version: u64) -> Result<(), PolicyError> {
        let (found, seen) = (self.policy.version, seen_version.max(min_version));
        if found < seen {
            return Err(PolicyError::Older { seen, found });
        }
        let same_version = found == seen_version;
        if same_version && seen_digest.is_some_and(|digest| digest != self.digest) {
            return Err(PolicyError::Replaced { version: found });
        }
        Ok(())
    }
}
