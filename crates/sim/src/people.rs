//! Those who write to agents, and their owners.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{Bus, Wake};
use nexus_core::policy::Limits;
use nexus_core::status::Desired;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, Npub};
use nexus_nostr::{Head, event, gift_wrap, note};
use nexus_seal::{Signer, seal_to_recipient_armored};
use nexus_store::inbox::{self, NewItem, Put};
use nexus_store::wallet_request::{self, Answer, WalletRequest};
use nexus_store::{Audit, Store, agent};
use nostr::event::Tag;

use crate::agents;
use crate::bus::SimBus;
use crate::counts;
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
                0 | 1 if !sent.is_empty() => {
                    self.world.count(counts::REPEATED);
                    self.dice.pick(&sent).clone()
                }
                2 if self.dice.chance(500) => match self.webhook(agent).await {
                    Some(item) => item,
                    None => continue,
                },
                2 => self.manual(agent),
                3..=5 => match self.message(agent).await {
                    Some(item) => item,
                    None => continue,
                },
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

    /// As control takes one that is signed: sealed to the agent, under the sender's id.
    async fn webhook(&self, npub: Npub) -> Option<NewItem> {
        let sealed = agent::sealed(&self.world.store, npub).await.ok().flatten()?;
        let recipient = sealed.inbox_recipient?.parse().ok()?;
        let text = format!("webhook \"ci\": build {:010}", self.dice.next() % 1_000_000);
        let armored = seal_to_recipient_armored(&recipient, text.as_bytes()).ok()?;
        Some(NewItem {
            npub,
            external_id: format!("hook:{}", self.dice.next()),
            trigger: Trigger::Webhook,
            sender: None,
            received_at: self.world.now(),
            payload: armored.into_bytes(),
        })
    }

    pub(crate) fn mention(&self, npub: Npub) -> Option<NewItem> {
        let person = agents::person(self.dice.next(), self.dice.clone()).ok()?;
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

    /// A private message, as NIP-17 wraps it.
    async fn message(&self, npub: Npub) -> Option<NewItem> {
        let person = agents::person(self.dice.next(), self.dice.clone()).ok()?;
        let now = self.world.now().secs();
        let text = format!("between us {}", self.dice.next());
        let rumor = gift_wrap::rumor(Head::new(person.public_key(), now), &npub, &text, None);
        let wrapped = gift_wrap::gift_wrap(&person, &rumor, &npub, now, &*self.dice).await.ok()?;
        Some(NewItem {
            npub,
            external_id: event::hash(&wrapped.id).to_string(),
            trigger: Trigger::Dm,
            sender: None,
            received_at: self.world.now(),
            payload: event::to_json(&wrapped).into_bytes(),
        })
    }

    pub async fn deliver(&self, item: NewItem) {
        let name = self.world.label(&item.npub);
        for _ in 0..TRIES {
            match inbox::put(&self.store, item.clone()).await {
                Ok(put @ (Put::Stored | Put::Duplicate)) => {
                    self.world.trace.note(format_args!("{name} is told: {} {put:?}", item.trigger));
                    self.world.seen().acknowledged.insert((item.npub, item.external_id.clone()));
                    self.world.count(match item.trigger {
                        Trigger::Dm => counts::DM,
                        Trigger::Manual => counts::MANUAL,
                        Trigger::Webhook => counts::WEBHOOK,
                        Trigger::Approval => counts::ANSWERS,
                        _ => counts::MENTION,
                    });
                    self.bus.publish(Wake::Agent { npub: item.npub });
                    return;
                }
                Ok(Put::Full | Put::NoAgent) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Starts, stops, funds, empties and changes policies until the trouble is over.
    pub async fn own(&self) {
        let mut version = 1;
        loop {
            tokio::time::sleep(Duration::from_millis(self.dice.between(4_000, 30_000))).await;
            if self.world.calm() {
                return;
            }
            let index = usize::try_from(self.dice.next() % 64).unwrap_or(0) % self.world.agents.len();
            let npub = self.world.agents[index].npub;
            match self.dice.between(0, 6) {
                6 => self.move_away_and_back(index).await,
                5 => self.withdraw(npub).await,
                4 => self.fund(npub, Duration::from_secs(15)).await,
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
        self.world.count(match (desired, now) {
            (Desired::Running, _) => counts::STARTED,
            (Desired::Stopped, true) => counts::STOPPED_NOW,
            (Desired::Stopped, false) => counts::STOPPED,
        });
        self.bus.publish(Wake::Agent { npub });
        self.bus.publish(Wake::Reconcile);
    }

    /// As `agent fund` does it: asks the agent's wallet for an invoice, and pays it.
    pub async fn fund(&self, npub: Npub, patience: Duration) {
        let name = self.world.label(&npub);
        let id = Hash32::from_bytes(nexus_core::time::random(&*self.dice)).to_string();
        let amount = Msat::sats(self.dice.between(5_000, 20_000));
        let now = self.world.now();
        let request = WalletRequest {
            id: id.clone(),
            npub,
            kind: "invoice".into(),
            body: serde_json::json!({ "amount_msat": amount, "expiry_secs": 600 }).to_string(),
            created_at: now,
            expires_at: now.plus_ms(60_000),
            answer: None,
        };
        if wallet_request::put(&self.store, request, None).await.is_err() {
            return self.world.trace.note(format_args!("owner: {name} could not be asked for an invoice"));
        }
        self.bus.publish(Wake::Agent { npub });
        let answered = tokio::time::timeout(patience, self.answer(npub, &id)).await;
        let Ok(Some(hash)) = answered else {
            return self.world.trace.note(format_args!("owner: {name} gave no invoice"));
        };
        tokio::time::sleep(Duration::from_millis(self.dice.between(1, 4_000))).await;
        let paid = self.world.ledger.pay_in(hash, self.world.now());
        self.world.trace.note(format_args!("owner: {name} funded with {amount}: {paid}"));
        if paid {
            self.world.count(counts::FUNDED);
        }
    }

    /// The hash of the invoice that an agent's wallet made; none if it could not.
    async fn answer(&self, npub: Npub, id: &str) -> Option<Hash32> {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match wallet_request::get(&self.store, npub, id).await {
                Ok(Some(WalletRequest { answer: Some(Answer::Done(body)), .. })) => {
                    let body: serde_json::Value = serde_json::from_str(&body).ok()?;
                    return body["payment_hash"].as_str()?.parse().ok();
                }
                Ok(Some(WalletRequest { answer: None, .. })) | Err(_) => {}
                Ok(Some(WalletRequest { answer: Some(Answer::Failed(_)), .. }) | None) => return None,
            }
        }
    }

    /// The same limits under a new version: what is to be held to does not change under the check.
    async fn change_policy(&self, index: usize, version: u64) {
        let owned = &self.world.agents[index];
        let limits: Limits = owned.limits.clone();
        let Ok(owner) = agents::owner(self.dice.clone()) else { return };
        let policy = agents::policy(owned.npub, version, limits, owned.custody, owned.rent.clone());
        let Ok(stored) = agents::signed_policy(&owner, &policy, self.world.now()) else { return };
        let done = agent::set_policy(&self.store, owned.npub, stored, self.audit("agent.policy")).await.is_ok();
        self.world.count(counts::POLICY);
        self.world.trace.note(format_args!("owner: {} policy {version}: {done}", self.world.label(&owned.npub)));
        self.bus.publish(Wake::Agent { npub: owned.npub });
    }

    pub(crate) fn audit(&self, action: &str) -> Audit {
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
