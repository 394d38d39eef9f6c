//! Agents that move away and come back: while one lives elsewhere nobody here acts for it, whatever was under way.

use std::time::Duration;

use nexus_bus::{Bus, Wake};
use nexus_core::status::Desired;
use nexus_core::{Generation, Npub};
use nexus_store::agent::{self, Arrival, Departure, NewAgent};

use crate::counts;
use crate::people::Front;

/// Where agents live when they are not here.
const ELSEWHERE: &str = "https://elsewhere";

impl Front {
    /// As a move does it: the claim that wins fences this host; later one of the next epoch brings the agent back, with the
    /// state that it left with.
    pub async fn move_away_and_back(&self, index: usize) {
        let owned = &self.world.agents[index];
        let (npub, name) = (owned.npub, owned.name.clone());
        let Ok(Some(before)) = agent::sealed(&self.store, npub).await else { return };
        let away = format!("claim {}", self.dice.next());
        let departure = Departure { url: ELSEWHERE.into(), claim: away.clone(), held: before.claim.clone() };
        if agent::leave(&self.store, npub, departure, self.audit("agent.moved")).await.is_err() {
            // Its answer may be what was lost.
            let Ok(Some(now)) = agent::get(&self.store, npub).await else { return };
            if now.moved_to.is_none() {
                return;
            }
        }
        self.world.count(counts::LEFT);
        self.world.trace.note(format_args!("{name} lives elsewhere"));
        self.bus.publish(Wake::Agent { npub });
        self.bus.publish(Wake::Reconcile);
        tokio::time::sleep(Duration::from_millis(self.dice.between(10, 12_000))).await;
        self.stays_away(npub).await;
        let claim = format!("claim {}", self.dice.next());
        loop {
            let new = NewAgent {
                sealed: agent::Sealed {
                    claim: Some(claim.clone()),
                    policy: before.policy.clone(),
                    ..owned.new.sealed.clone()
                },
                created_at: self.world.now(),
                ..owned.new.clone()
            };
            let Ok(Some(state)) = agent::state(&self.store, npub).await else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let arrival = Arrival {
                agent: NewAgent { state: Some(state.blob), ..new },
                generation: Generation(1),
                next_tick_at: None,
                state_version: u32::try_from(state.version).unwrap_or(1),
                wallet: Vec::new(),
                spent: None,
                held: Some(away.clone()),
            };
            let came = agent::arrive(&self.store, arrival, None, None, self.audit("agent.import")).await.is_ok();
            let here = agent::get(&self.store, npub).await.ok().flatten().is_some_and(|agent| agent.moved_to.is_none());
            if came || here {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.world.count(counts::RETURNED);
        self.world.trace.note(format_args!("{name} lives here again"));
        self.wish(npub, Desired::Running, false).await;
    }

    /// Nothing here holds its key, and no tick of it is open.
    async fn stays_away(&self, npub: Npub) {
        let name = self.world.label(&npub);
        let sealed = agent::sealed(&self.world.store, npub).await.ok().flatten();
        if sealed.is_some_and(|sealed| sealed.sealed_key.is_some()) {
            self.world.trace.violated(format_args!("{name} lives elsewhere, and its key is here"));
        }
        if nexus_store::tick::open(&self.world.store, npub).await.ok().flatten().is_some() {
            self.world.trace.violated(format_args!("{name} lives elsewhere, and ticks here"));
        }
        let pending = nexus_store::publication::pending(&self.world.store, npub).await.unwrap_or_default();
        if !pending.is_empty() {
            self.world.trace.violated(format_args!("{name} lives elsewhere, and is to be published here"));
        }
    }
}
