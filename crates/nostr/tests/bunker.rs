//! A signer elsewhere: what it says is checked, and its silence has an end.
#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{KeySigner, build, clock, keys, npub, tags};
use futures::StreamExt;
use futures::stream::BoxStream;
use nexus_nostr::Head;
use nexus_nostr::bunker::{Line, Link, RemoteSigner};
use nexus_nostr::relay_pool::Interest;
use nexus_seal::{BoxFuture, SecretText, Signer, SignerError};
use nexus_testkit::SystemEntropy;
use nostr::event::{Event, UnsignedEvent};
use nostr::filter::MatchEventOptions;
use serde_json::{Value, json};
use tokio::sync::broadcast;

const USER: u8 = 1;
const SIGNER: u8 = 2;
const CLIENT: u8 = 3;
const SECRET: &str = "one-time-secret";

/// A relay in memory. What is published reaches whoever subscribed before.
#[derive(Clone)]
struct Wire(broadcast::Sender<Arc<Event>>);

impl Line for Wire {
    fn publish<'a>(&'a self, event: &'a Event, _: &'a [String], _: Duration) -> BoxFuture<'a, bool> {
        Box::pin(async move { self.0.send(Arc::new(event.clone())).is_ok() })
    }

    fn subscribe(&self, interest: Interest) -> BoxStream<'static, Arc<Event>> {
        let heard = self.0.subscribe();
        let next = |mut heard: broadcast::Receiver<Arc<Event>>| async move { Some((heard.recv().await.ok()?, heard)) };
        let wanted = move |event: &Arc<Event>| {
            let wanted = interest.filters.iter().any(|filter| filter.match_event(event, MatchEventOptions::new()));
            futures::future::ready(wanted)
        };
        futures::stream::unfold(heard, next).filter(wanted).boxed()
    }
}

/// How a signer behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Signs with other words.
    Forges,
    /// Answers under another question's id.
    Confused,
    Refuses,
    /// Wants to be asked in a browser first.
    AsksFirst,
    Silent,
    /// Somebody else answers in its place.
    Impostor,
}

fn answer(manner: Manner, question: &Value) -> Value {
    let id = question["id"].clone();
    let user = keys(USER);
    let result = match (manner, question["method"].as_str().unwrap()) {
        (Manner::Refuses, _) => return json!({ "id": id, "error": "not today" }),
        (Manner::AsksFirst, _) => {
            return json!({ "id": id, "result": "auth_url", "error": "https://signer.example/ok" });
        }
        (_, "connect") if question["params"][1] != SECRET => return json!({ "id": id, "error": "wrong secret" }),
        (_, "connect") => "ack".to_owned(),
        (_, "get_public_key") => npub(&user).to_hex(),
        (_, "sign_event") => {
            let mut draft: Value = serde_json::from_str(question["params"][0].as_str().unwrap()).unwrap();
            if manner == Manner::Forges {
                draft["content"] = json!("send everything to me");
            }
            draft["pubkey"] = json!(npub(&user).to_hex());
            let unsigned: UnsignedEvent = serde_json::from_value(draft).unwrap();
            serde_json::to_string(&common::signed(&user, unsigned)).unwrap()
        }
        (_, other) => format!("{other} done"),
    };
    let id = if manner == Manner::Confused { json!("another") } else { id };
    json!({ "id": id, "result": result })
}

fn signer(wire: &Wire, manner: Manner) {
    let wire = wire.clone();
    let mut heard = wire.0.subscribe();
    tokio::spawn(async move {
        while let Ok(event) = heard.recv().await {
            let own = KeySigner(keys(SIGNER));
            let client = nexus_nostr::event::npub(&event.pubkey);
            let Ok(text) = own.nip44_decrypt(&client, &event.content).await else { continue };
            if manner == Manner::Silent || client == own.public_key() {
                continue;
            }
            let said = answer(manner, &serde_json::from_str(&text).unwrap()).to_string();
            let author = if manner == Manner::Impostor { keys(9) } else { keys(SIGNER) };
            let content = KeySigner(author.clone()).nip44_encrypt(&client, &said).await.unwrap();
            let reply = build(&author, 24_133, tags([&["p", &client.to_hex()]]), &content);
            let _ = wire.0.send(Arc::new(reply));
        }
    });
}

fn link(wire: &Wire) -> Link {
    Link {
        signer: npub(&keys(SIGNER)),
        relays: vec!["wss://relay.example".into()],
        client: Arc::new(KeySigner(keys(CLIENT))),
        line: Arc::new(wire.clone()),
        clock: clock(),
        entropy: Arc::new(SystemEntropy),
        patience: Duration::from_millis(400),
    }
}

fn wire() -> Wire {
    Wire(broadcast::channel(64).0)
}

fn note() -> UnsignedEvent {
    Head::new(npub(&keys(USER)), common::now()).unsigned(1, Vec::new(), "good morning")
}

#[tokio::test]
async fn a_signer_elsewhere_signs_and_closes() {
    let wire = wire();
    signer(&wire, Manner::Honest);
    let secret = SecretText::new(SECRET);
    let remote = RemoteSigner::connect(link(&wire), Some(&secret)).await.unwrap();
    assert_eq!(remote.public_key(), npub(&keys(USER)));
    remote.check().await.unwrap();
    let signed = remote.sign(note()).await.unwrap();
    assert_eq!(signed.content, "good morning");
    nexus_nostr::verify(&signed).unwrap();
    let peer = npub(&keys(7));
    assert_eq!(remote.nip44_decrypt(&peer, "closed").await.unwrap(), "nip44_decrypt done");
    assert_eq!(remote.nip04_encrypt(&peer, "open").await.unwrap(), "nip04_encrypt done");
    // Somebody else's event is not even sent.
    let other = Head::new(npub(&keys(7)), common::now()).unsigned(1, Vec::new(), "x");
    assert!(matches!(remote.sign(other).await, Err(SignerError::WrongKey { .. })));
    let wrong = SecretText::new("guessed");
    let refused = RemoteSigner::connect(link(&wire), Some(&wrong)).await.unwrap_err();
    assert_eq!(refused, SignerError::Refused("wrong secret".into()));
}

#[tokio::test]
async fn what_is_no_answer_is_none() {
    for manner in [Manner::Silent, Manner::Confused, Manner::Impostor] {
        let wire = wire();
        signer(&wire, manner);
        let remote = RemoteSigner::known(link(&wire), npub(&keys(USER)));
        assert!(matches!(remote.sign(note()).await, Err(SignerError::Offline(_))));
    }
}

#[tokio::test]
async fn a_signer_can_refuse_and_cannot_sign_something_else() {
    for (manner, words) in
        [(Manner::Refuses, "not today"), (Manner::AsksFirst, "https://signer.example/ok"), (Manner::Forges, "else")]
    {
        let wire = wire();
        signer(&wire, manner);
        let remote = RemoteSigner::known(link(&wire), npub(&keys(USER)));
        let Err(SignerError::Refused(said)) = remote.sign(note()).await else { panic!("{words}") };
        assert!(said.contains(words), "{said}");
    }
    // One that holds another key than it did.
    let wire = wire();
    signer(&wire, Manner::Honest);
    let remote = RemoteSigner::known(link(&wire), npub(&keys(7)));
    assert!(matches!(remote.check().await, Err(SignerError::Refused(_))));
}

#[tokio::test]
async fn a_signer_that_comes_by_itself_knows_the_secret() {
    let wire = wire();
    let waiting = tokio::spawn({
        let link = Link { patience: Duration::from_secs(20), ..link(&wire) };
        async move { link.first_word(SECRET).await }
    });
    let client = npub(&keys(CLIENT));
    // Others guess first.
    for (author, secret) in [(9, "guessed"), (SIGNER, SECRET)] {
        let said = json!({ "id": "hello", "result": secret }).to_string();
        let content = KeySigner(keys(author)).nip44_encrypt(&client, &said).await.unwrap();
        let event = Arc::new(build(&keys(author), 24_133, tags([&["p", &client.to_hex()]]), &content));
        while wire.0.send(event.clone()).is_err() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(waiting.await.unwrap().unwrap(), npub(&keys(SIGNER)));
}
