//! Relays as one process sees them: events are lost, refused, late, and answers go missing.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use nexus_core::{Hash32, Npub};
use nexus_nostr::relay_pool::{Fetched, Interest, PublishError};
use nexus_nostr::{Published, event, gift_wrap, kinds};
use nexus_seal::Signer;
use nexus_store::publication;
use nexus_worker::Relays;
use nostr::event::Event;

use crate::agents::{self, PEOPLE};
use crate::counts;
use crate::dice::Dice;
use crate::plan::Fault;
use crate::process::Process;
use crate::shelves::Put;
use crate::world::{World, lag};

pub struct SimRelays {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub dice: Arc<Dice>,
}

impl SimRelays {
    async fn put(&self, event: &Arc<Event>, relay: &str, limit: Duration) -> Result<(), PublishError> {
        self.process.pass().await;
        lag(&self.world, &self.dice, 30).await;
        self.process.pass().await;
        if self.world.fault(&self.dice, Fault::RelayRefused) {
            return Err(PublishError::Refused("simulated".into()));
        }
        self.check_journaled(event).await;
        if self.world.fault(&self.dice, Fault::RelayLost) {
            tokio::time::sleep(limit).await;
            self.process.pass().await;
            return Err(PublishError::Timeout);
        }
        if self.world.shelves.put(relay, event) == Put::New {
            self.note(event).await;
        }
        let answer = if self.world.fault(&self.dice, Fault::RelayAnswerLost) {
            tokio::time::sleep(limit).await;
            Err(PublishError::Timeout)
        } else {
            lag(&self.world, &self.dice, 30).await;
            Ok(())
        };
        self.process.pass().await;
        answer
    }

    /// What leaves must be on record: in the journal of a tick, or among the publications.
    async fn check_journaled(&self, event: &Event) {
        if event.kind.as_u16() == kinds::REMOTE_SIGNING {
            // A question to a signer: nothing of the agent's leaves with it.
            return;
        }
        let id = event::hash(&event.id);
        if self.world.seen().journaled.contains(&id) {
            return;
        }
        let mut recorded = false;
        for agent in &self.world.agents {
            recorded |= matches!(publication::get(&self.world.store, agent.npub, id).await, Ok(Some(_)));
        }
        if !recorded {
            let author = self.world.label(&event::npub(&event.pubkey));
            self.world.trace.violated(format_args!(
                "an event of kind {} by {author} leaves {} without a record",
                event.kind.as_u16(),
                self.process.name
            ));
        }
    }

    /// An answer to a note or message is counted: there must be one.
    async fn note(&self, event: &Event) {
        if event.kind.as_u16() == kinds::REMOTE_SIGNING {
            return;
        }
        let author = event::npub(&event.pubkey);
        let kind = event.kind.as_u16();
        if kind == kinds::GIFT_WRAP {
            return self.note_message(event).await;
        }
        self.world.trace.note(format_args!("{} kind {kind} is out", self.world.label(&author)));
        if kind == kinds::NOTE {
            for id in event::values(event, "e").filter_map(|id| id.parse().ok()) {
                self.answers(author, id, event::hash(&event.id), counts::ANSWERED);
            }
        }
    }

    /// Who answered what is inside; its receivers are people of this world.
    async fn note_message(&self, event: &Event) {
        for number in 0..PEOPLE {
            let Ok(person) = agents::person(number, self.dice.clone()) else { continue };
            if !event::mentioned(event, 4).contains(&person.public_key()) {
                continue;
            }
            let Ok(rumor) = gift_wrap::unwrap(&person, event).await else { continue };
            self.world.trace.note(format_args!("{} writes to a person", self.world.label(&rumor.sender)));
            if let Some(id) = rumor.answers {
                self.answers(rumor.sender, id, rumor.id, counts::ANSWERED_DM);
            }
        }
    }

    fn answers(&self, author: Npub, answered: Hash32, answer: Hash32, what: &'static str) {
        let several = {
            let mut seen = self.world.seen();
            let answers = seen.answers.entry((author, answered)).or_default();
            let new = answers.insert(answer);
            let several = answers.len() > 1;
            if new && !several {
                seen.counts.add(what);
            }
            several
        };
        if several {
            self.world.trace.violated(format_args!("{} acts twice on one note", self.world.label(&author)));
        }
    }
}

impl Relays for SimRelays {
    fn publish<'a>(&'a self, event: &'a Event, relays: &'a [String], limit: Duration) -> BoxFuture<'a, Vec<Published>> {
        async move {
            let event = Arc::new(event.clone());
            let each = relays.iter().map(|relay| {
                let event = event.clone();
                async move { Published { relay: relay.clone(), outcome: self.put(&event, relay, limit).await } }
            });
            futures::future::join_all(each).await
        }
        .boxed()
    }

    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>> {
        let hears = self.world.shelves.listen(interest.relays, interest.filters);
        let (world, process, dice) = (self.world.clone(), self.process.clone(), self.dice.clone());
        stream::unfold((hears, world, process, dice), |(mut hears, world, process, dice)| async move {
            loop {
                process.pass().await;
                let event = hears.recv().await?;
                process.pass().await;
                if world.fault(&dice, Fault::RelayMissed) {
                    continue;
                }
                if world.fault(&dice, Fault::RelayLate) {
                    tokio::time::sleep(Duration::from_millis(dice.between(100, 10_000))).await;
                } else {
                    lag(&world, &dice, 30).await;
                }
                process.pass().await;
                return Some((event, (hears, world, process, dice)));
            }
        })
        .boxed()
    }

    fn fetch(&self, interest: Interest, limit: Duration) -> BoxFuture<'_, Fetched> {
        async move {
            self.process.pass().await;
            lag(&self.world, &self.dice, 30).await;
            let lost = self.world.fault(&self.dice, Fault::RelayLost);
            if lost {
                tokio::time::sleep(limit).await;
            }
            self.process.pass().await;
            let asked = interest.relays.len();
            if lost {
                return Fetched { asked, ..Fetched::default() };
            }
            let events = self.world.shelves.stored(&interest.relays, &interest.filters);
            Fetched { events, answered: asked, asked }
        }
        .boxed()
    }
}
