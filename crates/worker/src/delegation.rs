//! Delegations to the agent (NIP-SA, kind 39260): which are honoured, and how far. A parent's word opens nothing that the owner
//! did not sign for, and what is done under it costs no more than it says.

use nexus_core::budget::Window;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_nostr::delegation::{Delegation, read_delegation};
use nexus_nostr::kinds;
use nostr::event::Event;

use crate::filter::Taken;
use crate::unlock::Opened;

/// The delegation that a message is, if it is one.
pub(crate) fn read(event: &Event) -> Option<Result<Delegation, &'static str>> {
    (event.kind.as_u16() == kinds::DELEGATION).then(|| read_delegation(event).map_err(|_| "not_readable"))
}

/// The one that a tick is for. It is taken alone.
pub(crate) fn of(taken: &[Taken]) -> Option<Delegation> {
    taken.first().and_then(|taken| taken.event.as_ref()).and_then(read).and_then(Result::ok)
}

/// Whether a delegation is honoured: it is to this agent, of a parent and for a skill that its owner signed for, and goes on.
/// Asks nobody.
pub(crate) fn check(opened: &Opened, event: &Event, now: UnixMs) -> Result<(), &'static str> {
    let Some(read) = read(event) else { return Ok(()) };
    let delegation = read?;
    if delegation.sub_agent != opened.npub {
        return Err("delegation_of_others");
    }
    let scopes = opened.policy().and_then(|policy| policy.delegations.get(&delegation.parent));
    if !scopes.is_some_and(|scopes| scopes.contains(&delegation.scope)) {
        return Err("delegation_not_accepted");
    }
    if now.secs() >= delegation.expires_at {
        return Err("delegation_ended");
    }
    if delegation.max_amount.is_none_or(|most| most == Msat::ZERO) {
        return Err("delegation_without_budget");
    }
    Ok(())
}

/// What is spent under it, over its whole life: a later version of it has the same count.
pub(crate) fn window(delegation: &Delegation) -> Window {
    Window::Delegation(Hash32::sha256(format!("{}:{}", delegation.parent, delegation.id).as_bytes()))
}

/// What it says to the agent.
pub(crate) fn said(delegation: &Delegation) -> String {
    let sats = delegation.max_amount.unwrap_or_default().whole_sats();
    let until = UnixMs::from_secs(delegation.expires_at).0 / 1_000;
    format!(
        "delegated to you: skill {}, capabilities [{}], up to {sats} sats, until {until} (seconds since 1970). {}",
        delegation.scope,
        delegation.capabilities.join(", "),
        delegation.text
    )
}
