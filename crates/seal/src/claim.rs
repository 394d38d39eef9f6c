//! The host claim: who runs an agent now, said by the agent itself (kind 39202, `d` = `host`).

use std::cmp::Ordering;

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::{Event, UnsignedEvent};
use nostr::types::Timestamp;

use crate::event::{EventError, created_at_secs, event_id, expect_tag, single_tag, tag, unsigned, verify_from};
use crate::recipient::Recipient;

/// NIP-SA's schedule kind, at an address of its own.
pub const CLAIM_KIND: u16 = 39_202;
/// The `d` tag.
pub const CLAIM_IDENTIFIER: &str = "host";
/// How far ahead of now a claim may be dated, in seconds.
pub const MAX_AHEAD_SECS: i64 = 15 * 60;
const MAX_URL: usize = 512;

/// Why a host claim is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("host claim: {0}")]
    Event(#[from] EventError),
    #[error("host claim: the runner is not a public key")]
    Runner,
    #[error("host claim: the url must be http or https and at most {MAX_URL} bytes")]
    Url,
    #[error("host claim: the epoch must be a number from 1")]
    Epoch,
    #[error("host claim: the inbox recipient is none")]
    Inbox,
    #[error("host claim: dated {ahead_secs} seconds ahead")]
    Ahead { ahead_secs: i64 },
}

/// A host claim whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClaim {
    pub agent: Npub,
    /// The runner key of the installation that hosts the agent.
    pub runner: Npub,
    /// The installation's public origin.
    pub url: String,
    /// Counts up from 1 with every move.
    pub epoch: u64,
    /// The agent's inbox recipient, as the agent itself says it.
    pub inbox: Option<Recipient>,
    /// Seconds since 1970.
    pub created_at: i64,
    pub id: Hash32,
}

/// The event for the agent to sign. `inbox` is the agent's inbox recipient, where the signer knows it: who seals a text
/// for the agent compares, because a host could name a recipient of its own.
pub fn unsigned_claim(
    agent: &Npub,
    runner: &Npub,
    url: &str,
    epoch: u64,
    inbox: Option<&Recipient>,
    created_at: Timestamp,
) -> UnsignedEvent {
    let mut tags = vec![
        tag("d", [CLAIM_IDENTIFIER]),
        tag("runner", [runner.to_hex().as_str()]),
        tag("url", [url]),
        tag("epoch", [epoch.to_string().as_str()]),
    ];
    tags.extend(inbox.map(|recipient| tag("inbox", [recipient.as_str()])));
    unsigned(agent, CLAIM_KIND, created_at, tags, String::new())
}

/// Checks that the agent signed this claim, and that it is not dated more than 15 minutes ahead.
pub fn verify_claim(event: &Event, agent: &Npub, now: UnixMs) -> Result<HostClaim, ClaimError> {
    verify_from(event, CLAIM_KIND, agent)?;
    expect_tag(event, "d", CLAIM_IDENTIFIER)?;
    let runner = single_tag(event, "runner")?.parse().map_err(|_| ClaimError::Runner)?;
    let url = single_tag(event, "url")?;
    if url.len() > MAX_URL || !(url.starts_with("https://") || url.starts_with("http://")) {
        return Err(ClaimError::Url);
    }
    let epoch = single_tag(event, "epoch")?.parse().map_err(|_| ClaimError::Epoch)?;
    if epoch == 0 || i64::try_from(epoch).is_err() {
        return Err(ClaimError::Epoch);
    }
    let inbox = match event.tags.iter().any(|tag| tag.kind() == "inbox") {
        true => Some(single_tag(event, "inbox")?.parse().map_err(|_| ClaimError::Inbox)?),
        false => None,
    };
    let created_at = created_at_secs(event);
    let ahead_secs = created_at.saturating_sub(now.secs());
    if ahead_secs > MAX_AHEAD_SECS {
        return Err(ClaimError::Ahead { ahead_secs });
    }
    Ok(HostClaim { agent: *agent, runner, url: url.to_owned(), epoch, inbox, created_at, id: event_id(event) })
}

impl HostClaim {
    /// Orders claims of one agent, the winner last: the higher epoch, then the later stamp, then the lower id.
    pub fn compare(&self, other: &Self) -> Ordering {
        let key = |claim: &Self| (claim.epoch, claim.created_at);
        key(self).cmp(&key(other)).then_with(|| other.id.cmp(&self.id))
    }

    /// Whether this claim wins over another.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Greater
    }
}

/// What a verified claim means to the host that is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weighed {
    /// The one that is held already.
    Known,
    /// An earlier one, or the loser of two of one epoch: nothing changes.
    Stale,
    /// The agent says that this installation is its host.
    Ours,
    /// The agent lives elsewhere now: raise the generation, delete keys and wallet connection, answer 410 with the url.
    Fenced { url: String, epoch: u64 },
}

/// Weighs a claim against the one that a host holds. Both are of one agent; `own` is the installation's runner key.
///
/// It does not matter in which order or how often claims arrive: the same set ends in the same host.
pub fn weigh(held: Option<&HostClaim>, offered: &HostClaim, own: &Npub) -> Weighed {
    match held {
        Some(held) if held.id == offered.id => Weighed::Known,
        Some(held) if !offered.supersedes(held) => Weighed::Stale,
        Some(_) | None if offered.runner == *own => Weighed::Ours,
        Some(_) | None => Weighed::Fenced { url: offered.url.clone(), epoch: offered.epoch },
    }
}

/// The epoch of the next move: above everything that is known of the agent.
pub fn next_epoch(backup: u64, found: Option<&HostClaim>) -> u64 {
    backup.max(found.map_or(0, |claim| claim.epoch)).saturating_add(1)
}

/// The generation at which an imported agent begins: above what this host had of it, and what the backup had.
pub fn revived(stored: Option<nexus_core::Generation>, backup: nexus_core::Generation) -> nexus_core::Generation {
    let highest = stored.map_or(backup.0, |stored| stored.0.max(backup.0));
    nexus_core::Generation(highest.max(0).saturating_add(1))
}
