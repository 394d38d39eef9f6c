//! Who sells thinking: announcements of providers (NIP-89), looked up now and then, and what is known of them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use nexus_core::policy::{Policy, judge_quote};
use nexus_core::{AccountId, MonoMs, Msat, Npub, score};
use nexus_nostr::handler::{discovery_filters, newest, read_offer};
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::{Offer, Price};

use crate::error::TurnError;
use crate::experience::{Memory, Trusted};
use crate::host::Host;

/// Tokens that a request with a price per token is assumed to take, prompt and answer together.
const ASSUMED_TOKENS: u64 = 4_000;
const LOOKUP: Duration = Duration::from_secs(3);

/// Sets of relays whose offers are kept at once.
const MAX_KEPT: usize = 256;

/// When each set of relays was asked last, and what they had: one agent's relays say nothing to another agent.
type Lookups = HashMap<Vec<String>, (MonoMs, Vec<Offer>)>;

#[derive(Default)]
pub(crate) struct Market {
    seen: Mutex<Lookups>,
    memory: Memory,
}

/// An offer as one agent sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub offer: Offer,
    /// What a request is expected to cost, routing fee excluded.
    pub quote: Msat,
    pub encrypted: bool,
}

/// What to hold for routing beside an amount before there is an invoice to ask about: 1 %, at least 2 sats.
pub(crate) fn fee_allowance(amount: Msat) -> Msat {
    Msat::try_from(amount.as_u64() / 100).unwrap_or(Msat::ZERO).max(Msat::sats(2))
}

/// The most that is held for routing beside an amount, whatever a wallet quotes: 1 % and 10 sats, so that small payments find a
/// way through a real network, and a mint has its own fee.
pub(crate) fn fee_limit(amount: Msat) -> Msat {
    Msat::try_from(amount.as_u64() / 100).unwrap_or(Msat::ZERO).saturating_add(Msat::sats(10))
}

fn quote(price: Option<Price>) -> Msat {
    match price {
        None => Msat::ZERO,
        Some(Price::PerRequest(msat)) => msat,
        Some(Price::PerThousandTokens(msat)) => {
            msat.as_u64().checked_mul(ASSUMED_TOKENS / 1_000).and_then(|m| Msat::try_from(m).ok()).unwrap_or(Msat::MAX)
        }
    }
}

impl Market {
    /// What is known of providers, for one agent's choice.
    pub async fn trusted(&self, host: &Host, account: AccountId, npub: Npub) -> Result<Trusted, TurnError> {
        self.memory.trusted(host, account, npub).await
    }

    /// An agent of this account met with something.
    pub fn forget(&self, account: AccountId) {
        self.memory.forget(account);
    }

    /// Today's offers. Asks relays when the last answer is old; an empty answer is asked again soon.
    pub async fn offers(&self, host: &Host, relays: &[String], fresh: bool) -> Vec<Offer> {
        let now = host.mono();
        let known = self.seen.lock().ok().and_then(|seen| seen.get(relays).cloned());
        if let Some((at, offers)) = &known {
            let age = now.since(*at);
            let limit = if offers.is_empty() { 1_000 } else { host.config.market_ms };
            if age < limit && !(fresh && age > 2_000) {
                return offers.clone();
            }
        }
        let interest = Interest { relays: relays.to_vec(), filters: discovery_filters(), auth: Vec::new() };
        let events = host.relays.fetch(interest, LOOKUP).await.events;
        let offers = newest(events.iter().filter_map(|event| read_offer(event).ok()));
        if let Ok(mut seen) = self.seen.lock() {
            if seen.len() >= MAX_KEPT && !seen.contains_key(relays) {
                let oldest = seen.iter().min_by_key(|(_, (at, _))| *at).map(|(relays, _)| relays.clone());
                oldest.map(|oldest| seen.remove(&oldest));
            }
            seen.insert(relays.to_vec(), (now, offers.clone()));
        }
        offers
    }

    /// The price of the cheapest offer that the policy would take, fee allowance included; none if none is known.
    pub async fn cheapest(&self, host: &Host, relays: &[String], policy: &Policy, network: &str) -> Option<Msat> {
        let offers = self.offers(host, relays, false).await;
        candidates(offers, policy, network)
            .into_iter()
            .filter_map(|candidate| {
                let cost = candidate.quote.saturating_add(fee_allowance(candidate.quote));
                let provider = &candidate.offer.provider;
                judge_quote(policy, provider, cost, candidate.encrypted, Msat::ZERO, Msat::MAX).is_ok().then_some(cost)
            })
            .min()
    }
}

/// Offers on our network that the policy's lists allow, each once.
fn candidates(offers: Vec<Offer>, policy: &Policy, network: &str) -> Vec<Candidate> {
    let wanted = policy.compute.model.as_deref();
    offers
        .into_iter()
        .filter(|offer| policy.allows_provider(&offer.provider))
        .filter(|offer| offer.network.as_deref().is_none_or(|theirs| same_network(theirs, network)))
        .filter(|offer| wanted.is_none_or(|model| offer.models.iter().any(|theirs| theirs == model)))
        .map(|offer| {
            let encrypted = offer.encryption != Some(false);
            Candidate { quote: quote(offer.price), encrypted, offer }
        })
        .filter(|candidate| candidate.encrypted || policy.compute.allow_clear)
        .collect()
}

fn same_network(theirs: &str, ours: &str) -> bool {
    theirs == ours || (theirs == "mainnet" && ours == "bitcoin")
}

/// Picks the best offer for a job: never tried in this tick, acceptable to policy and funds; then by experience, in bands, of
/// which the last is below the floor; then by price; then whoever takes the money only with the result.
#[expect(clippy::too_many_arguments, reason = "the facts that a choice rests on")]
pub(crate) fn choose(
    offers: Vec<Offer>,
    policy: &Policy,
    network: &str,
    tried: &[Npub],
    trusted: &Trusted,
    tick_spent: Msat,
    balance: Msat,
    me: &Npub,
) -> Option<Candidate> {
    let mut fitting: Vec<(u8, Msat, Candidate)> = candidates(offers, policy, network)
        .into_iter()
        .filter(|candidate| !tried.contains(&candidate.offer.provider) && candidate.offer.provider != *me)
        .filter(|candidate| {
            let cost = candidate.quote.saturating_add(fee_allowance(candidate.quote));
            judge_quote(policy, &candidate.offer.provider, cost, candidate.encrypted, tick_spent, balance).is_ok()
        })
        .map(|candidate| {
            let trust = trusted.get(&candidate.offer.provider).copied().unwrap_or(100);
            (score::band(trust), candidate.quote, candidate)
        })
        .collect();
    fitting.sort_by_key(|(band, quote, candidate)| (*band, *quote, !candidate.offer.hold, candidate.offer.provider));
    fitting.into_iter().next().map(|(_, _, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::Hash32;
    use nexus_nostr::job::Dialect;

    const ME: Npub = Npub::from_bytes([9; 32]);

    fn offer(n: u8, msat: u64, encryption: Option<bool>) -> Offer {
        Offer {
            provider: Npub::from_bytes([n; 32]),
            event_id: Hash32::ZERO,
            created_at: 0,
            identifier: String::new(),
            name: String::new(),
            about: String::new(),
            price: Some(Price::PerRequest(Msat::new(msat))),
            models: vec![],
            network: Some("regtest".into()),
            relays: vec![],
            encryption,
            hold: false,
            dialect: Dialect::Standard,
        }
    }

    fn pick(offers: Vec<Offer>, tried: &[Npub], trusted: &[(u8, u32)]) -> Option<u8> {
        let policy = Policy::default_for(ME);
        let trusted = trusted.iter().map(|(n, trust)| (Npub::from_bytes([*n; 32]), *trust)).collect();
        choose(offers, &policy, "regtest", tried, &trusted, Msat::ZERO, Msat::sats(5_000), &ME)
            .map(|candidate| candidate.offer.provider.as_bytes()[0])
    }

    #[test]
    fn the_cheapest_trusted_seller_who_keeps_secrets_is_chosen() {
        let offers = || vec![offer(1, 9_000, None), offer(2, 5_000, Some(true)), offer(3, 1_000, Some(false))];
        assert_eq!(pick(offers(), &[], &[]), Some(2));
        assert_eq!(pick(offers(), &[Npub::from_bytes([2; 32])], &[]), Some(1));
        assert_eq!(pick(offers(), &[], &[(2, 79)]), Some(1));
        assert_eq!(pick(offers(), &[], &[(2, 80)]), Some(2), "a refusal now and then does not count");
        assert_eq!(pick(vec![offer(1, 499_000, None)], &[], &[]), None, "above the threshold with its fee");
        let mut elsewhere = offer(1, 1, None);
        elsewhere.network = Some("mainnet".into());
        assert_eq!(pick(vec![elsewhere], &[], &[]), None);
    }

    #[test]
    fn one_below_the_floor_is_asked_only_when_there_is_no_other() {
        let offers = || vec![offer(1, 90_000, None), offer(2, 1_000, None)];
        assert_eq!(pick(offers(), &[], &[(2, score::FLOOR - 1)]), Some(1), "whatever it asks");
        assert_eq!(pick(vec![offer(2, 1_000, None)], &[], &[(2, 0)]), Some(2));
        assert_eq!(pick(offers(), &[], &[(1, score::FLOOR), (2, score::FLOOR)]), Some(2));
    }

    #[test]
    fn who_holds_is_preferred_at_an_equal_price() {
        let holds = |offer: Offer| Offer { hold: true, ..offer };
        assert_eq!(pick(vec![offer(1, 5_000, None), holds(offer(2, 5_000, None))], &[], &[]), Some(2));
        assert_eq!(pick(vec![offer(1, 4_999, None), holds(offer(2, 5_000, None))], &[], &[]), Some(1));
        assert_eq!(pick(vec![offer(1, 5_000, None), holds(offer(2, 5_000, None))], &[], &[(2, 50)]), Some(1));
    }
}
