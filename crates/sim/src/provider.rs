//! Sellers of thinking, honest and otherwise.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::time::random;
use nexus_core::{Hash32, Msat, Npub};
use nexus_nostr::handler::{HandlerInfo, handler};
use nexus_nostr::job::{self, Feedback, Request, Status};
use nexus_nostr::{Head, Price};
use nexus_seal::Signer;
use nexus_vault::LocalSigner;
use nostr::event::{Event, UnsignedEvent};

use crate::dice::Dice;
use crate::plan::Fault;
use crate::shelves::OWN;
use crate::world::World;

/// How a seller treats one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Honest,
    Silent,
    Refuses,
    /// More than announced.
    Greedy,
    /// A second invoice, before or after the first is paid.
    AsksTwice,
    /// Takes the money and says nothing.
    Cheats,
    /// Delivers late.
    Slow,
    /// Answers with something that is no answer.
    Babbles,
}

const ODD: [Manner; 7] =
    [Manner::Silent, Manner::Refuses, Manner::Greedy, Manner::AsksTwice, Manner::Cheats, Manner::Slow, Manner::Babbles];

impl Manner {
    /// What it is counted under, but for the honest one.
    const fn name(self) -> &'static str {
        match self {
            Self::Honest => "provider is honest",
            Self::Silent => "provider is silent",
            Self::Refuses => "provider refuses",
            Self::Greedy => "provider is greedy",
            Self::AsksTwice => "provider asks twice",
            Self::Cheats => "provider cheats",
            Self::Slow => "provider is slow",
            Self::Babbles => "provider babbles",
        }
    }

    /// Names of all but the honest one.
    pub fn odd() -> impl Iterator<Item = &'static str> {
        ODD.iter().map(|manner| manner.name())
    }
}

pub struct Seller {
    pub world: Arc<World>,
    pub index: usize,
    pub signer: LocalSigner,
    pub price: Msat,
    pub dice: Arc<Dice>,
}

/// A seller with its own key and price.
pub fn seller(world: &Arc<World>, index: usize, dice: &Dice) -> Option<Seller> {
    let dice = Arc::new(dice.fork("seller"));
    let secret = [0x21 + u8::try_from(index).ok()?; 32];
    let signer = LocalSigner::from_secret(&secret, dice.clone()).ok()?;
    let price = Msat::sats(dice.between(5, 40));
    Some(Seller { world: world.clone(), index, signer, price, dice })
}

impl Seller {
    /// Announces itself and serves requests until the run ends.
    pub async fn run(self) {
        let seller = Arc::new(self);
        let mut requests = seller.world.shelves.requests(seller.signer.public_key());
        seller.announce();
        let mut known = Vec::new();
        while let Some(event) = requests.recv().await {
            // The same request on two relays, or published again after a crash, is one job.
            if known.contains(&event.id) {
                continue;
            }
            known.push(event.id);
            let seller = seller.clone();
            tokio::spawn(async move { seller.serve(event).await });
        }
    }

    fn announce(&self) {
        let info = HandlerInfo {
            identifier: "seller".into(),
            name: "seller".into(),
            about: String::new(),
            price: Price::PerRequest(self.price),
            models: Vec::new(),
            network: "regtest".into(),
            relays: vec![OWN.into()],
            encryption: true,
            hold: false,
        };
        let head = Head::new(self.signer.public_key(), self.world.now().secs());
        self.say(handler(head, &info));
    }

    fn say(&self, unsigned: UnsignedEvent) {
        if let Ok(event) = self.signer.sign_now(unsigned) {
            self.world.shelves.put(OWN, &Arc::new(event));
        }
    }

    async fn serve(&self, event: Arc<Event>) {
        let Ok(request) = job::receive(&event, &self.signer).await else { return };
        let odd = self.world.fault(&self.dice, Fault::ProviderOdd);
        let manner = if odd { *self.dice.pick(&ODD) } else { Manner::Honest };
        if odd {
            self.world.count(manner.name());
        }
        let customer = self.world.label(&request.customer);
        self.world.trace.note(format_args!("p{} serves {customer}: {manner:?}", self.index));
        self.pause(5, 400).await;
        match manner {
            Manner::Silent => return,
            Manner::Refuses => return self.feedback(&request, &Feedback::error("no")).await,
            Manner::Honest | Manner::Greedy | Manner::AsksTwice | Manner::Cheats | Manner::Slow | Manner::Babbles => {}
        }
        let amount = if manner == Manner::Greedy { self.price.saturating_add(Msat::sats(500)) } else { self.price };
        let Some(paid) = self.bill(&request, amount).await else { return };
        let second = if manner == Manner::AsksTwice && self.dice.chance(500) {
            self.bill(&request, self.price).await
        } else {
            None
        };
        let second = async {
            match second {
                Some(second) => second.notified().await,
                None => std::future::pending().await,
            }
        };
        let patience = Duration::from_millis(400_000);
        tokio::select! {
            biased;
            () = paid.notified() => {}
            () = second => {}
            () = tokio::time::sleep(patience) => return,
        }
        self.world.trace.note(format_args!("p{} is paid by {customer}", self.index));
        match manner {
            Manner::AsksTwice => drop(self.bill(&request, self.price).await),
            Manner::Cheats => return,
            Manner::Slow => self.pause(8_000, 40_000).await,
            Manner::Honest | Manner::Silent | Manner::Refuses | Manner::Greedy | Manner::Babbles => {}
        }
        self.feedback(&request, &Feedback::new(Status::Processing)).await;
        self.pause(5, 1_500).await;
        let answer = if manner == Manner::Babbles { "I would rather not".into() } else { answer(&request, &self.dice) };
        let at = self.world.now().secs();
        if let Ok(unsigned) = job::result_to(&self.signer, at, &request, &answer, None).await {
            self.say(unsigned);
        }
    }

    async fn pause(&self, low: u64, high: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.between(low, high))).await;
    }

    async fn feedback(&self, request: &Request, feedback: &Feedback) {
        let at = self.world.now().secs();
        if let Ok(unsigned) = job::feedback_to(&self.signer, at, request, feedback).await {
            self.say(unsigned);
        }
    }

    async fn bill(&self, request: &Request, amount: Msat) -> Option<Arc<tokio::sync::Notify>> {
        let preimage = Hash32::from_bytes(random(&*self.dice));
        let secs = self.dice.between(75, 150);
        let (bolt11, hash, paid) = self.world.ledger.invoice(request.id, preimage, amount, self.world.now(), secs)?;
        let name = {
            let mut seen = self.world.seen();
            let name = format!("invoice {} of p{}", seen.names.len(), self.index);
            seen.names.insert(hash, name.clone());
            name
        };
        self.world.trace.note(format_args!("{name}: {amount} in {secs} s"));
        self.feedback(request, &Feedback::payment_required(amount, bolt11)).await;
        Some(paid)
    }
}

/// Answers every message of the prompt, and now and then does something more.
fn answer(request: &Request, dice: &Dice) -> String {
    let prompt = nexus_core::prompt::parse(&request.prompt()).unwrap_or_default();
    let mut actions: Vec<_> = prompt
        .messages
        .iter()
        .filter(|message| matches!(message.kind.as_str(), "mention" | "dm"))
        .map(|message| serde_json::json!({ "type": "reply", "to": message.label, "text": "yes" }))
        .collect();
    if dice.chance(150) {
        actions.push(serde_json::json!({ "type": "post", "text": "a thought" }));
    }
    if dice.chance(150) {
        actions.push(serde_json::json!({ "type": "add_memory", "text": "something" }));
    }
    if !prompt.condense.is_empty() && dice.chance(500) {
        // Now and then over more than was asked for, which would forget what nobody read.
        let covers = prompt.condense.len() + usize::from(dice.chance(200));
        actions.push(serde_json::json!({ "type": "summarise_memory", "covers": covers, "text": "a summary" }));
    }
    if dice.chance(200)
        && let Ok(stranger) = crate::agents::person(0, Arc::new(dice.fork("stranger")))
    {
        // Its owner is asked first.
        let to = stranger.public_key();
        actions.push(serde_json::json!({ "type": "dm", "to": to, "text": format!("news {}", dice.next()) }));
    }
    if dice.chance(100) {
        let to = Npub::from_bytes([3; 32]);
        actions.push(serde_json::json!({ "type": "zap", "to": to, "amount_msat": 1_000 }));
    }
    serde_json::json!({ "actions": actions }).to_string()
}
