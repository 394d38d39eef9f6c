//! Owners who are asked: they answer, twice, late, both ways, or not at all. And what must follow from it.

use std::collections::BTreeSet;
use std::time::Duration;

use nexus_core::approval::{Answer, ApprovalId, Ended};
use nexus_core::trigger::Trigger;
use nexus_core::{Npub, UnixMs};
use nexus_nostr::event;
use nexus_seal::Signer;
use nexus_seal::decision::{Pending, unsigned_decision};
use nexus_seal::event::timestamp;
use nexus_store::StoreError;
use nexus_store::approval::{self, Approval};
use nexus_store::inbox::NewItem;
use nexus_store::tick::{self, TickStatus};

use crate::agents::{self, Agent};
use crate::counts;
use crate::people::Front;
use crate::world::World;

impl Front {
    /// Looks now and then at what waits, and answers some of it, until the trouble is over.
    pub async fn decide(&self) {
        let mut known: Vec<(Npub, Approval)> = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(self.dice.between(1_000, 9_000))).await;
            if self.world.calm() {
                return;
            }
            for owned in &self.world.agents {
                let Ok(waiting) = approval::list(&self.store, owned.npub, false, UnixMs(0), 50).await else { continue };
                for one in waiting {
                    if known.iter().all(|(_, other)| other.id != one.id) {
                        self.world.count(counts::ASKED);
                        known.push((owned.npub, one));
                    }
                }
            }
            if known.is_empty() || self.dice.chance(400) {
                continue;
            }
            // Any of them: also what was answered before, and what is long over.
            let (npub, one) = self.dice.pick(&known).clone();
            let answer = if self.dice.chance(700) { Answer::Approved } else { Answer::Denied };
            self.answer_one(npub, &one, answer).await;
        }
    }

    async fn answer_one(&self, npub: Npub, one: &Approval, answer: Answer) {
        let Ok(owner) = agents::owner(self.dice.clone()) else { return };
        let now = self.world.now();
        // Guardians' clients that know NIP-SA only name the request.
        let by_request = one.request.is_some() && self.dice.chance(300);
        let request = one.request.filter(|_| by_request);
        let pending = Pending { agent: npub, id: one.id, digest: one.digest, request };
        let made = unsigned_decision(&owner.public_key(), &pending, answer, "", None, timestamp(now));
        let Some(signed) = made.ok().and_then(|unsigned| owner.sign_now(unsigned).ok()) else { return };
        self.world.count(match answer {
            _ if now >= one.expires_at => counts::TOO_LATE,
            Answer::Approved => counts::APPROVED,
            Answer::Denied => counts::DENIED,
        });
        self.world.trace.note(format_args!("owner: {} answers {}", self.world.label(&npub), answer.as_str()));
        let item = NewItem {
            npub,
            external_id: event::hash(&signed.id).to_string(),
            trigger: Trigger::Approval,
            sender: Some(owner.public_key()),
            received_at: now,
            payload: event::to_json(&signed).into_bytes(),
        };
        self.deliver(item.clone()).await;
        if self.dice.chance(300) {
            self.deliver(item).await;
        }
    }
}

/// What an owner approved is done once or has ended with a word; what was not approved is not done.
pub async fn check(world: &World, owned: &Agent) -> Result<(), StoreError> {
    let all = approval::list(&world.store, owned.npub, true, UnixMs(0), approval::MAX_PAGE).await?;
    let executed: BTreeSet<ApprovalId> = all.iter().filter(|one| one.state == "executed").map(|one| one.id).collect();
    let done = all.iter().filter(|one| one.ended == Some(Ended::Done)).count();
    let ticks = tick::list(&world.store, owned.npub, None, tick::MAX_PAGE).await?;
    let of_approvals =
        || ticks.iter().filter(|tick| tick.trigger == Trigger::Approval && tick.status == TickStatus::Completed);
    if of_approvals().count() != executed.len() {
        world.trace.violated(format_args!(
            "{}: {} approved actions were carried out by {} ticks",
            owned.name,
            executed.len(),
            of_approvals().count()
        ));
    }
    // Signed and stored: at a relay, or on its way there.
    let performed = |actions: &str| actions.contains("\"done\"") || actions.contains("\"queued: ");
    if done > of_approvals().filter(|tick| performed(&tick.actions)).count() {
        world.trace.violated(format_args!("{}: an approved action is done that no tick did", owned.name));
    }
    if of_approvals().any(|tick| tick.cost.as_u64() > 0) {
        world.trace.violated(format_args!("{}: an approved action bought a thought", owned.name));
    }
    for _ in &executed {
        world.count(counts::EXECUTED);
    }
    world.trace.note(format_args!("{}: {} asked, {} carried out", owned.name, all.len(), executed.len()));
    Ok(())
}

/// Whether something that was approved still waits to be carried out.
pub async fn waits(world: &World, npub: Npub) -> Result<bool, StoreError> {
    let open = approval::list(&world.store, npub, false, UnixMs(i64::MAX), 1).await?;
    Ok(!open.is_empty())
}
