//! NIP-SA's budgets: whole sats, on a rail.

use nexus_core::Msat;
use nostr::event::{Event, Tag};

use crate::event::{self, EventError};

/// Most budgets of one event that are read.
const MAX_BUDGETS: usize = 16;

/// What a budget is paid with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rail {
    Lightning,
    /// A mint's URL.
    Cashu(String),
    /// `id@domain`.
    Fedimint(String),
    /// The `d` of a credit envelope (39242), whose own `max` is a hard cap.
    Envelope(String),
}

/// An amount on a rail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Written as whole sats, rounded down.
    pub amount: Msat,
    pub rail: Rail,
}

impl Budget {
    pub const fn lightning(amount: Msat) -> Self {
        Self { amount, rail: Rail::Lightning }
    }

    /// A tag of this name: `budget`, `budget_requested`.
    pub fn to_tag(&self, name: &str) -> Tag {
        let sats = self.amount.whole_sats().to_string();
        let (rail, reference) = match &self.rail {
            Rail::Lightning => ("lightning", None),
            Rail::Cashu(mint) => ("cashu", Some(mint)),
            Rail::Fedimint(federation) => ("fedimint", Some(federation)),
            Rail::Envelope(envelope) => ("envelope", Some(envelope)),
        };
        Tag::custom(name, [sats.as_str(), rail].into_iter().chain(reference.map(String::as_str)))
    }

    fn read_row(row: &[String]) -> Result<Self, EventError> {
        let bad = EventError::Invalid("a budget that is not `sats [lightning | cashu | fedimint | envelope, which]`");
        let amount = row.get(1).and_then(|text| read_sats(text)).ok_or_else(|| bad.clone())?;
        let reference = || row.get(3).filter(|text| !text.is_empty()).cloned().ok_or_else(|| bad.clone());
        let rail = match row.get(2).map(String::as_str) {
            None | Some("lightning") => Rail::Lightning,
            Some("cashu") => Rail::Cashu(reference()?),
            Some("fedimint") => Rail::Fedimint(reference()?),
            Some("envelope") => Rail::Envelope(reference()?),
            Some(_) => return Err(bad),
        };
        Ok(Self { amount, rail })
    }
}

/// The budgets under a tag's name. One that cannot be read makes all of them unreadable: a limit is never guessed.
pub fn read(event: &Event, name: &str) -> Result<Vec<Budget>, EventError> {
    let rows: Vec<_> = event::rows(event, name).take(MAX_BUDGETS + 1).collect();
    if rows.len() > MAX_BUDGETS {
        return Err(EventError::Invalid("too many budgets"));
    }
    rows.into_iter().map(Budget::read_row).collect()
}

/// Whole sats in decimal digits.
pub fn read_sats(text: &str) -> Option<Msat> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().and_then(Msat::from_sats)
}
