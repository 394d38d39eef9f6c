//! What this worker's memory alone has of its agents: in attended custody what the owner is offered and delivers, in
//! bunker custody the keys that the owner's signer opened.
//!
//! Everything here belongs to one placement: an agent that leaves this worker, or comes back at another generation, is
//! locked.

use std::collections::HashMap;
use std::sync::Arc;

use nexus_core::{Generation, Hash32, MonoMs, Npub, UnixMs};
use nexus_seal::OwnerCommand;
use nexus_seal::command::COMMAND_SECS;
use nexus_seal::unlock::{self, Offered, Unlock};
use nexus_store::agent::Agent;
use nexus_store::wallet_request::{Answer, WalletRequest};
use nexus_vault::{AgentKeys, AgentSecrets, UnlockSlot};
use nostr::event::Event;

use crate::error::TurnError;
use crate::host::Host;
use crate::wallet;

/// Commands of one agent whose ids are kept; older ones fall out by their age.
const MAX_USED: usize = 64;

/// Agents that were opened here, and what their owners delivered.
#[derive(Default)]
pub(crate) struct Attended {
    seats: HashMap<Npub, Seat>,
    /// Placements at which the state was found to be in order, and until when that is believed: for good once all relays
    /// were heard, whatever they say later.
    anchored: HashMap<Npub, (Generation, Option<MonoMs>)>,
}

struct Seat {
    generation: Generation,
    slot: Option<(UnlockSlot, Event)>,
    /// Open until the agent is unplaced.
    secrets: Option<Arc<AgentSecrets>>,
    /// In bunker custody: what its signer opened once.
    keys: Option<AgentKeys>,
    used: Vec<(Hash32, i64)>,
}

impl Attended {
    /// What the owner delivered for this very placement.
    pub fn secrets(&self, npub: &Npub, generation: Generation) -> Option<Arc<AgentSecrets>> {
        self.seats.get(npub).filter(|seat| seat.generation == generation)?.secrets.clone()
    }

    /// What the agent's signer opened for this very placement.
    pub fn keys(&self, npub: &Npub, generation: Generation) -> Option<AgentKeys> {
        self.seats.get(npub).filter(|seat| seat.generation == generation)?.keys.clone()
    }

    pub fn keep_keys(&mut self, npub: Npub, generation: Generation, keys: &AgentKeys) {
        let seat = self.seat(npub, generation);
        if seat.keys.is_none() {
            seat.keys = Some(keys.clone());
        }
    }

    /// After the agent's view key changed.
    pub fn replace_keys(&mut self, npub: Npub, generation: Generation, keys: &AgentKeys) {
        self.seat(npub, generation).keys = Some(keys.clone());
    }

    /// Whether the state was compared with the agent's public word at this very placement.
    pub fn is_anchored(&self, npub: &Npub, generation: Generation, now: MonoMs) -> bool {
        let known = self.anchored.get(npub).filter(|(at, _)| *at == generation);
        known.is_some_and(|(_, until)| until.is_none_or(|until| now < until))
    }

    pub fn note_anchored(&mut self, npub: Npub, generation: Generation, until: Option<MonoMs>) {
        self.anchored.insert(npub, (generation, until));
    }

    /// Wipes what is known of an agent.
    pub fn forget(&mut self, npub: &Npub) {
        self.seats.remove(npub);
        self.anchored.remove(npub);
    }

    pub fn forget_all(&mut self) {
        self.seats.clear();
        self.anchored.clear();
    }

    fn seat(&mut self, npub: Npub, generation: Generation) -> &mut Seat {
        let fresh = || Seat { generation, slot: None, secrets: None, keys: None, used: Vec::new() };
        let seat = self.seats.entry(npub).or_insert_with(fresh);
        if seat.generation != generation {
            *seat = fresh();
        }
        seat
    }
}

impl Seat {
    fn was_used(&self, id: &Hash32) -> bool {
        self.used.iter().any(|(used, _)| used == id)
    }

    /// Notes the id of a command that was obeyed.
    fn note_used(&mut self, id: Hash32, created_at: i64, now: UnixMs) {
        self.used.retain(|(_, at)| at.saturating_add(COMMAND_SECS) >= now.secs());
        if self.used.len() < MAX_USED {
            self.used.push((id, created_at));
        }
    }
}

/// Answers what owners ask about the lock; gives back what is for the wallet.
pub(crate) async fn answer(
    host: &Host,
    agent: &Agent,
    requests: Vec<WalletRequest>,
) -> Result<Vec<WalletRequest>, TurnError> {
    let mut others = Vec::new();
    for request in requests {
        let said = match request.kind.as_str() {
            unlock::ASK_OFFER => offer(host, agent),
            unlock::ASK_UNLOCK => take(host, agent, &request.body),
            _ => {
                others.push(request);
                continue;
            }
        };
        let said = match said {
            Ok(offered) => Answer::Done(serde_json::to_string(&offered).unwrap_or_default()),
            Err(why) => Answer::Failed(why),
        };
        wallet::say(host, agent, &request.id, said).await?;
    }
    Ok(others)
}

/// The key to seal to: the one that was offered before, as long as it is good.
fn offer(host: &Host, agent: &Agent) -> Result<Offered, String> {
    let now = host.now();
    let mut attended = host.attended();
    let seat = attended.seat(agent.npub, agent.generation);
    if seat.secrets.is_some() {
        return Ok(Offered { unlocked: true, offer: None });
    }
    if let Some((_, event)) = seat.slot.as_ref().filter(|(slot, _)| slot.is_open(now)) {
        return Ok(Offered { unlocked: false, offer: Some(event.clone()) });
    }
    let (pool, entropy) = (&host.config.pool, host.entropy.clone());
    let (slot, event) = UnlockSlot::open(&host.pool, pool, &agent.npub, agent.generation, now, entropy)
        .map_err(|error| error.to_string())?;
    seat.slot = Some((slot, event.clone()));
    Ok(Offered { unlocked: false, offer: Some(event) })
}

/// The owner's payload. Only what the sender signed for, and only once.
fn take(host: &Host, agent: &Agent, body: &str) -> Result<Offered, String> {
    let now = host.now();
    let command: OwnerCommand = serde_json::from_str(body).map_err(|_| "not an owner's command".to_owned())?;
    let verified =
        command.verify("POST", &unlock::path(&agent.npub), &agent.npub, now).map_err(|error| error.to_string())?;
    let Unlock { sealed } = serde_json::from_str(&command.body).map_err(|_| "not an unlock's body".to_owned())?;
    let mut attended = host.attended();
    let seat = attended.seat(agent.npub, agent.generation);
    if seat.was_used(&verified.id) {
        return Err("this command was used before".to_owned());
    }
    if seat.secrets.is_some() {
        return Err("it is unlocked already".to_owned());
    }
    let Some((slot, _)) = &mut seat.slot else {
        return Err("this worker has offered no key: ask for the offer again".to_owned());
    };
    let secrets = slot.take(&sealed, &verified.by, now, host.entropy.clone()).map_err(|error| error.to_string())?;
    seat.secrets = Some(Arc::new(secrets));
    seat.slot = None;
    seat.note_used(verified.id, verified.created_at, now);
    tracing::info!(npub = %agent.npub.short(), "unlocked by its owner");
    Ok(Offered { unlocked: true, offer: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Npub = Npub::from_bytes([1; 32]);

    #[test]
    fn what_was_obeyed_is_known_for_as_long_as_it_could_be_repeated() {
        let mut attended = Attended::default();
        let seat = attended.seat(ALICE, Generation(1));
        let (first, second) = (Hash32::from_bytes([2; 32]), Hash32::from_bytes([3; 32]));
        seat.note_used(first, 10_000, UnixMs::from_secs(10_000));
        seat.note_used(second, 10_000, UnixMs::from_secs(10_000 + COMMAND_SECS));
        assert!(seat.was_used(&first) && seat.was_used(&second));
        seat.note_used(second, 20_000, UnixMs::from_secs(20_000));
        assert!(!seat.was_used(&first), "too old to be obeyed at all");
    }

    #[test]
    fn another_placement_knows_nothing_of_the_one_before() {
        let mut attended = Attended::default();
        let id = Hash32::from_bytes([2; 32]);
        attended.seat(ALICE, Generation(1)).note_used(id, 0, UnixMs::from_secs(0));
        assert!(!attended.seat(ALICE, Generation(2)).was_used(&id));
        assert!(attended.secrets(&ALICE, Generation(2)).is_none());
        attended.forget(&ALICE);
        assert!(attended.seats.is_empty());
    }

    #[test]
    fn what_only_some_relays_confirmed_is_asked_again() {
        let mut attended = Attended::default();
        attended.note_anchored(ALICE, Generation(1), Some(MonoMs(100)));
        assert!(attended.is_anchored(&ALICE, Generation(1), MonoMs(99)));
        assert!(!attended.is_anchored(&ALICE, Generation(1), MonoMs(100)));
        attended.note_anchored(ALICE, Generation(1), None);
        assert!(attended.is_anchored(&ALICE, Generation(1), MonoMs(u64::MAX)));
        assert!(!attended.is_anchored(&ALICE, Generation(2), MonoMs(0)), "another placement asks for itself");
        attended.forget(&ALICE);
        assert!(!attended.is_anchored(&ALICE, Generation(1), MonoMs(0)));
    }
}
