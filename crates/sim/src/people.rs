//! Those who write to agents, and their owners.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{Bus, Wake};
use nexus_core::policy::Limits;
use nexus_core::status::Desired;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Npub};
use nexus_nostr::{Head, event, note};
use nexus_seal::Signer;
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::{Audit, Store, agent};
use nexus_vault::LocalSigner;
use nostr::event::Tag;

use crate::agents;
use crate::bus::SimBus;
use crate::dice::Dice;
use crate::world::World;

/// Writes of one trigger at most, before the writer gives up without an acknowledgement.
const TRIES: usize = 4;

/// The relay and the API, as far as they are needed here: they store triggers and wishes.
pub struct Front {
    pub world: Arc<World>,
    pub store: Store,
    pub bus: SimBus,
    pub dice: Arc<Dice>,
}

impl Front {
    /// Writes to agents now and then until the trouble is over.
    pub async fn write(&self) {
        let mut sent: Vec<NewItem> = Vec::new();
        loop {
            let mean = self.world.plan.messages_ms;
            tokio::time::sleep(Duration::from_millis(self.dice.between(mean / 4, mean * 2))).await;
            if self.world.calm() {
                return;
            }
            let agent = self.dice.pick(&self.world.agents).npub;
            let item = match self.dice.between(0, 9) {
                // The same message again: it was not acknowledged, or came over another relay.
                0 | 1 if !sent.is_empty() => self.dice.pick(&sent).clone(),
                2 => self.manual(agent),
                _ => match self.mention(agent) {
                    Some(item) => item,
                    None => continue,
                },
            };
            sent.push(item.clone());
            self.deliver(item).await;
        }
    }

    fn manual(&self, npub: Npub) -> NewItem {
        NewItem {
            npub,
            external_id: Hash32::from_bytes(nexus_core::time::random(&*self.dice)).to_string(),
            trigger: Trigger::Manual,
            sender: None,
            received_at: self.world.now(),
            payload: Vec::new(),
        }
    }

    fn mention(&self, npub: Npub) -> Option<NewItem> {
        let secret = [0x41 + u8::try_from(self.dice.between(0, 3)).unwrap_or(0); 32];
        let person = LocalSigner::from_secret(&secret, self.dice.clone()).ok()?;
        let head = Head::new(person.public_key(), self.world.now().secs());
        let text = format!("hello {}", self.dice.next());
        let mut unsigned = note::post(head, &text);
        unsigned.tags.push(Tag::custom("p", [npub.to_hex().as_str()]));
        unsigned.id = None;
        let written = person.sign_now(unsigned).ok()?;
        Some(NewItem {
            npub,
            external_id: event::hash(&written.id).to_string(),
            trigger: Trigger::Mention,
            sender: Some(person.public_key()),
            received_at: self.world.now(),
            payload: event::to_json(&written).into_bytes(),
        })
    }

    async fn deliver(&self, item: NewItem) {
        let name = self.world.label(&item.npub);
        for _ in 0..TRIES {
            match inbox::put(&self.store, item.clone()).await {
                Ok(put @ (Put::Stored | Put::Duplicate)) => {
                    self.world.trace.note(format_args!("{name} is told: {} {put:?}", item.trigger));
                    self.world.seen().acknowledged.insert((item.npub, item.external_id.clone()));
                    self.bus.publish(Wake::Agent { npub: item.npub });
                    return;
                }
                Ok(Put::Full | Put::NoAgent) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Starts, stops and changes policies until the trouble is over.
    pub async fn own(&self) {
        let mut version = 1;
        loop {
            tokio::time::sleep(Duration::from_millis(self.dice.between(4_000, 30_000))).await;
            if self.world.calm() {
                return;
            }
            let index = usize::try_from(self.dice.next() % 64).unwrap_or(0) % self.world.agents.len();
            let npub = self.world.agents[index].npub;
            match self.dice.between(0, 3) {
                0 | 1 => {
                    self.wish(npub, Desired::Stopped, self.dice.chance(500)).await;
                    tokio::time::sleep(Duration::from_millis(self.dice.between(100, 10_000))).await;
                    self.wish(npub, Desired::Running, false).await;
                }
                _ => {
                    version += 1;
                    self.change_policy(index, version).await;
                }
            }
        }
    }

    pub async fn wish(&self, npub: Npub, desired: Desired, now: bool) {
        let audit = self.audit("agent.desired");
        let answer = agent::set_desired(&self.store, npub, desired, now, None, audit).await;
        let said = if answer.is_ok() { "done" } else { "not known" };
        self.world.trace.note(format_args!(
            "owner: {} {} now={now}: {said}",
            self.world.label(&npub),
            desired.as_str()
        ));
        self.bus.publish(Wake::Agent { npub });
        self.bus.publish(Wake::Reconcile);
    }

    /// The same limits under a new version: what is to be held to does not change under the check.
    async fn change_policy(&self, index: usize, version: u64) {
        let owned = &self.world.agents[index];
        let limits: Limits = owned.limits.clone();
        let Ok(owner) = agents::owner(self.dice.clone()) else { return };
        let policy = agents::policy(owned.npub, version, limits);
        let Ok(stored) = agents::signed_policy(&owner, &policy, self.world.now()) else { return };
        let done = agent::set_policy(&self.store, owned.npub, stored, self.audit("agent.policy")).await.is_ok();
        self.world.trace.note(format_args!("owner: {} policy {version}: {done}", self.world.label(&owned.npub)));
        self.bus.publish(Wake::Agent { npub: owned.npub });
    }

    fn audit(&self, action: &str) -> Audit {
        Audit {
            at: self.world.now(),
            account: Some(agents::ACCOUNT),
            actor: "owner".into(),
            action: action.into(),
            target: String::new(),
            detail: "{}".into(),
        }
    }
}
