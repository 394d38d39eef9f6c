//! An owner's signer elsewhere (NIP-46), for an agent whose key never comes here. It goes away and comes back: meanwhile the
//! agent waits, with a tick open or without.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::Npub;
use nexus_nostr::{Head, event, kinds};
use nexus_seal::event::tag;
use nexus_seal::{SecretText, Signer};
use nexus_vault::LocalSigner;
use nostr::event::{Event, Kind, UnsignedEvent};
use nostr::filter::Filter;
use serde_json::{Value, json};

use crate::counts;
use crate::dice::Dice;
use crate::shelves::OWN;
use crate::world::World;

/// The signer's own key, and the one that it knows the host by.
const OWN_SECRET: [u8; 32] = [0x61; 32];
const CLIENT_SECRET: [u8; 32] = [0x62; 32];

pub struct Remote {
    world: Arc<World>,
    dice: Arc<Dice>,
    own: LocalSigner,
    /// The agent's.
    user: LocalSigner,
}

struct Question {
    id: String,
    method: String,
    params: Vec<String>,
}

impl Question {
    fn read(text: &str) -> Option<Self> {
        let said: Value = serde_json::from_str(text).ok()?;
        let words = |value: &Value| value.as_str().map(str::to_owned);
        let params = said["params"].as_array().into_iter().flatten().filter_map(words).collect();
        Some(Self { id: words(&said["id"])?, method: words(&said["method"])?, params })
    }
}

/// The signer's public key.
pub fn public_key(dice: Arc<Dice>) -> Result<Npub, crate::run::Fault> {
    Ok(LocalSigner::from_secret(&OWN_SECRET, dice)?.public_key())
}

pub fn client_secret() -> SecretText {
    SecretText::new(hex::encode(CLIENT_SECRET))
}

impl Remote {
    pub fn new(world: &Arc<World>, dice: &Dice, user: &[u8]) -> Result<Self, crate::run::Fault> {
        let dice = Arc::new(dice.fork("signer"));
        let own = LocalSigner::from_secret(&OWN_SECRET, dice.clone())?;
        let user = LocalSigner::from_secret(user, dice.clone())?;
        Ok(Self { world: world.clone(), dice, own, user })
    }

    /// Answers until the run ends, but for the times when it is away. What is asked meanwhile is lost.
    pub async fn run(self) {
        let filter =
            Filter::new().kind(Kind::from_u16(kinds::REMOTE_SIGNING)).pubkey(event::public_key(&self.own.public_key()));
        let mut asked = self.world.shelves.listen(vec![OWN.into()], vec![filter]);
        loop {
            let here = Duration::from_millis(self.dice.between(3_000, 30_000));
            let serving = async {
                while let Some(event) = asked.recv().await {
                    tokio::time::sleep(Duration::from_millis(self.dice.between(1, 20))).await;
                    if let Some(reply) = self.answer(&event).await {
                        self.world.shelves.put(OWN, &Arc::new(reply));
                    }
                }
            };
            if self.world.calm() {
                return serving.await;
            }
            let _ = tokio::time::timeout(here, serving).await;
            if self.world.calm() {
                continue;
            }
            self.world.trace.note("a signer goes away");
            self.world.count(counts::SIGNER_AWAY);
            tokio::time::sleep(Duration::from_millis(self.dice.between(500, 25_000))).await;
            while asked.try_recv().is_ok() {}
            self.world.trace.note("a signer is back");
        }
    }

    async fn answer(&self, event: &Event) -> Option<Event> {
        let client = event::npub(&event.pubkey);
        let text = self.own.nip44_decrypt(&client, &event.content).await.ok()?;
        let question = Question::read(&text)?;
        let said = match self.does(&question).await {
            Some(result) => json!({ "id": question.id, "result": result }),
            None => json!({ "id": question.id, "error": "cannot do that" }),
        };
        let content = self.own.nip44_encrypt(&client, &said.to_string()).await.ok()?;
        let tags = vec![tag("p", [client.to_hex().as_str()])];
        let head = Head::new(self.own.public_key(), self.world.now().secs());
        self.own.sign_now(head.unsigned(kinds::REMOTE_SIGNING, tags, content)).ok()
    }

    async fn does(&self, question: &Question) -> Option<String> {
        let param = |at: usize| question.params.get(at).map(String::as_str);
        let peer = || param(0)?.parse::<Npub>().ok();
        match question.method.as_str() {
            "get_public_key" => Some(self.user.public_key().to_hex()),
            "ping" => Some("pong".into()),
            "sign_event" => {
                let mut draft: Value = serde_json::from_str(param(0)?).ok()?;
                draft["pubkey"] = json!(self.user.public_key().to_hex());
                let unsigned: UnsignedEvent = serde_json::from_value(draft).ok()?;
                Some(event::to_json(&self.user.sign_now(unsigned).ok()?))
            }
            "nip44_encrypt" => self.user.nip44_encrypt(&peer()?, param(1)?).await.ok(),
            "nip44_decrypt" => self.user.nip44_decrypt(&peer()?, param(1)?).await.ok(),
            "nip04_encrypt" => self.user.nip04_encrypt(&peer()?, param(1)?).await.ok(),
            "nip04_decrypt" => self.user.nip04_decrypt(&peer()?, param(1)?).await.ok(),
            _ => None,
        }
    }
}
