//! Delegations (39260): a parent agent lets a sub-agent use a skill, up to an amount, until a time.
//!
//! Reading one is not believing it: [`Delegation::honours`] is the pure check that stands in front of every use. It
//! needs the sub-agent's manifest to be looked at as well, which is the caller's part.

use nexus_core::{Hash32, Msat, Npub};
use nostr::event::{Event, UnsignedEvent};

use crate::budget;
use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// Most capabilities of one that are read.
const MAX_CAPABILITIES: usize = 64;

/// What is delegated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Its `d`: ours are UUIDs.
    pub id: String,
    pub parent: Npub,
    pub sub_agent: Npub,
    /// The address of the sub-agent's manifest, `33400:<key>:<slug>`.
    pub manifest: Option<String>,
    /// `<skill id>:<version>`.
    pub scope: String,
    pub credit: Option<String>,
    /// Over its whole life, in whole sats. None: nothing may be spent.
    pub max_amount: Option<Msat>,
    pub capabilities: Vec<String>,
    pub parent_session: Option<String>,
    /// The guardian's 39213.
    pub approval: Option<Hash32>,
    /// Seconds since 1970: it ends here.
    pub expires_at: i64,
    /// What the sub-agent is told, in the parent's words.
    pub text: String,
}

/// Kind 39260, to be signed by the parent.
pub fn delegation(created_at: i64, delegation: &Delegation) -> UnsignedEvent {
    let mut tags = vec![tag(["d", &delegation.id]), tag(["p", &delegation.sub_agent.to_hex()])];
    tags.extend(delegation.manifest.as_ref().map(|address| tag(["a", address])));
    tags.push(tag(["scope", "skill", &delegation.scope]));
    tags.extend(delegation.credit.as_ref().map(|credit| tag(["credit", credit])));
    tags.extend(delegation.max_amount.map(|max| tag(["max_amount", &max.whole_sats().to_string()])));
    tags.extend(delegation.capabilities.iter().map(|capability| tag(["capability", capability])));
    tags.extend(delegation.parent_session.as_ref().map(|session| tag(["parent_session", session])));
    tags.extend(delegation.approval.map(|id| tag(["guardian_approval_ref", &id.to_string()])));
    tags.push(tag(["exp", &delegation.expires_at.to_string()]));
    Head::new(delegation.parent, created_at).unsigned(kinds::DELEGATION, tags, delegation.text.as_str())
}

/// Reads a delegation. One without `exp`, scope or sub-agent is none; nor is one whose limit cannot be read.
pub fn read_delegation(event: &Event) -> Result<Delegation, EventError> {
    event::expect_kind(event, kinds::DELEGATION)?;
    let text = |name| event::first(event, name).map(str::to_owned);
    let single = |name, missing, twice| match event::rows(event, name).count() {
        0 => Err(EventError::Invalid(missing)),
        1 => Ok(()),
        _ => Err(EventError::Invalid(twice)),
    };
    single("exp", "a delegation without an end", "a delegation with two ends")?;
    single("p", "a delegation to nobody", "a delegation to several")?;
    single("scope", "a delegation without a scope", "a delegation with two scopes")?;
    if event::rows(event, "max_amount").count() > 1 {
        return Err(EventError::Invalid("a delegation with two limits"));
    }
    let scope = event::rows(event, "scope").next().and_then(|row| match row.get(1).map(String::as_str) {
        Some("skill") => row.get(2).cloned(),
        _ => None,
    });
    let max_amount = match event::first(event, "max_amount") {
        Some(sats) => Some(budget::read_sats(sats).ok_or(EventError::Invalid("a limit that is no amount of sats"))?),
        None => None,
    };
    let expires_at = text("exp").and_then(|at| at.parse().ok());
    Ok(Delegation {
        id: text("d").unwrap_or_default(),
        parent: event::npub(&event.pubkey),
        sub_agent: event::mentioned(event, 1).pop().ok_or(EventError::Invalid("a delegation to nobody"))?,
        manifest: text("a"),
        scope: scope.filter(|scope| !scope.is_empty()).ok_or(EventError::Invalid("a scope that is no skill"))?,
        credit: text("credit"),
        max_amount,
        capabilities: event::values(event, "capability").take(MAX_CAPABILITIES).map(str::to_owned).collect(),
        parent_session: text("parent_session"),
        approval: event::first(event, "guardian_approval_ref").and_then(|hex| hex.parse().ok()),
        expires_at: expires_at.ok_or(EventError::Invalid("an end that is no time"))?,
        text: event.content.clone(),
    })
}

/// Something that a sub-agent wants to do under a delegation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use<'a> {
    /// The parent that the sub-agent works for.
    pub parent: Npub,
    pub sub_agent: Npub,
    pub scope: &'a str,
    /// None where the use needs no named capability.
    pub capability: Option<&'a str>,
    pub amount: Msat,
    /// What this delegation has spent so far, settled and in flight.
    pub spent: Msat,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why a delegation does not cover a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCovered {
    #[error("the delegation is from or to another agent")]
    Party,
    #[error("the delegation has ended")]
    Expired,
    #[error("the delegation is for another skill or version")]
    Scope,
    #[error("the delegation does not name this capability")]
    Capability,
    #[error("the delegation's max_amount leaves no room for this")]
    Amount,
}

impl Delegation {
    /// Whether the delegation covers this use. Capabilities left out mean none; an amount left out means nothing.
    pub fn honours(&self, wanted: &Use<'_>) -> Result<(), NotCovered> {
        if self.parent != wanted.parent || self.sub_agent != wanted.sub_agent {
            return Err(NotCovered::Party);
        }
        if wanted.now >= self.expires_at {
            return Err(NotCovered::Expired);
        }
        if self.scope != wanted.scope {
            return Err(NotCovered::Scope);
        }
        if wanted.capability.is_some_and(|name| !self.capabilities.iter().any(|known| known == name)) {
            return Err(NotCovered::Capability);
        }
        let total = wanted.spent.checked_add(wanted.amount).ok_or(NotCovered::Amount)?;
        let fits = wanted.amount == Msat::ZERO || total <= self.max_amount.unwrap_or(Msat::ZERO);
        if fits { Ok(()) } else { Err(NotCovered::Amount) }
    }
}
