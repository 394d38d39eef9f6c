//! What wakes an agent, what it answers, and what it says about itself.

mod common;

use common::*;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat};
use nexus_nostr::event::{self, EventError, Head, hash, parse_event, to_json};
use nexus_nostr::gift_wrap::{self, WrapError};
use nexus_nostr::note::{self, Parent};
use nexus_nostr::profile::{self, Profile, Use};
use nexus_nostr::trigger::{self, TriggerError};
use nexus_nostr::{schedule, state, zap};
use nexus_testkit::SeededEntropy;
use nostr::nips::nip44;

#[test]
fn an_event_is_believed_after_hashing_and_verifying() {
    let event = build(&keys(1), 1, vec![], "hello");
    let json = to_json(&event);
    assert_eq!(parse_event(json.as_bytes()).unwrap(), event);
    assert_eq!(parse_event(json.replace("hello", "hullo").as_bytes()), Err(EventError::WrongId));
    let other_sig = to_json(&build(&keys(1), 1, vec![], "x"));
    let sig = |json: &str| json[json.find("\"sig\":\"").unwrap() + 7..][..128].to_owned();
    let forged = json.replace(&sig(&json), &sig(&other_sig));
    assert_eq!(parse_event(forged.as_bytes()), Err(EventError::WrongSignature));
    assert_eq!(parse_event(b"{}"), Err(EventError::Malformed));
    assert!(matches!(parse_event(&[b' '; 70_000]), Err(EventError::TooLarge { size: 70_000, .. })));
    let far = json.replace(&format!("{}", event.created_at.as_secs()), "18446744073709551615");
    assert_eq!(parse_event(far.as_bytes()), Err(EventError::Invalid("created_at is out of range")));
}

#[tokio::test]
async fn a_gift_wrap_opens_for_its_reader_alone_and_hides_time_and_author() {
    let (sender, reader) = (KeySigner(keys(1)), KeySigner(keys(2)));
    let entropy = SeededEntropy::new(5);
    let to = npub(&reader.0);
    let message = gift_wrap::rumor(head(&sender.0), &to, "secret words", Some(Hash32::from_bytes([7; 32])));
    let wrapped = gift_wrap::gift_wrap(&sender, &message, &to, now(), &entropy).await.unwrap();
    event::verify(&wrapped).unwrap();
    assert_ne!(wrapped.pubkey, sender.0.public_key());
    assert!((0..gift_wrap::BLUR_SECS + 5).contains(&(now() - event::created_at(&wrapped))));
    assert!(!to_json(&wrapped).contains("secret words"));
    let opened = gift_wrap::unwrap(&reader, &wrapped).await.unwrap();
    assert_eq!((opened.sender, opened.text.as_str()), (npub(&sender.0), "secret words"));
    assert_eq!((opened.id, opened.answers), (hash(&message.id.unwrap()), Some(Hash32::from_bytes([7; 32]))));
    let stranger = KeySigner(keys(3));
    assert!(matches!(gift_wrap::unwrap(&stranger, &wrapped).await, Err(WrapError::Signer(_))));

    let again = gift_wrap::gift_wrap(&sender, &message, &to, now(), &entropy).await.unwrap();
    assert_ne!(again.id, wrapped.id);
    let [one, two] =
        [wrapped, again].map(|wrapped| async move { trigger::receive(&wrapped, &KeySigner(keys(2))).await.unwrap() });
    let (one, two) = (one.await, two.await);
    assert_eq!(one.event_id, two.event_id, "it is one message, however often it is wrapped");
    assert_eq!((one.trigger, one.event_kind), (Trigger::Dm, Some(1_059)));
}

#[tokio::test]
async fn a_seal_cannot_speak_for_somebody_else() {
    let (liar, victim, reader) = (keys(1), keys(9), KeySigner(keys(2)));
    let to = npub(&reader.0);
    let message = gift_wrap::rumor(head(&victim), &to, "send me sats", None);
    let json = serde_json::to_string(&message).unwrap();
    let nonce = nip44::Nonce::V2([1; 32]);
    let sealed = nip44::encrypt_with_nonce(liar.secret_key(), &reader.0.public_key(), json, nonce).unwrap();
    let seal = signed(&liar, gift_wrap::seal(head(&liar), &sealed));
    let wrapped = gift_wrap::wrap(&seal, &to, now(), &SeededEntropy::new(5)).unwrap();
    let refused = gift_wrap::unwrap(&reader, &wrapped).await;
    assert!(matches!(refused, Err(WrapError::Event(EventError::Invalid(_)))), "{refused:?}");
}

#[tokio::test]
async fn mentions_and_messages_are_read_and_ones_own_are_not() {
    let (agent, sender) = (KeySigner(keys(2)), keys(1));
    let agent_hex = agent.0.public_key().to_hex();
    let root = "ab".repeat(32);
    let mention = build(&sender, 1, tags([&["e", &root, "", "root"], &["p", &agent_hex]]), "hello");
    let read = trigger::receive(&mention, &agent).await.unwrap();
    assert_eq!((read.trigger, read.text.as_str()), (Trigger::Mention, "hello"));
    assert_eq!((read.sender, read.root_id), (Some(npub(&sender)), Some(root.parse().unwrap())));
    let sealed = nostr::nips::nip04::encrypt_with_iv(sender.secret_key(), &agent.0.public_key(), "psst", [2; 16]);
    let message = build(&sender, 4, tags([&["p", &agent_hex]]), &sealed.unwrap());
    let read = trigger::receive(&message, &agent).await.unwrap();
    assert_eq!((read.trigger, read.text.as_str(), read.event_kind), (Trigger::Dm, "psst", Some(4)));
    let custom = build(&sender, 30_023, tags([&["p", &agent_hex]]), "article");
    assert_eq!(trigger::receive(&custom, &agent).await.unwrap().trigger, Trigger::Kind(30_023));
    let own = build(&agent.0, 1, tags([&["p", &agent_hex]]), "me");
    let elsewhere = build(&sender, 1, tags([&["p", &root]]), "them");
    for ignored in [own, elsewhere] {
        assert!(matches!(trigger::receive(&ignored, &agent).await, Err(TriggerError::Ignored(_))));
    }
}

#[test]
fn a_zap_is_read_from_its_request_and_only_if_it_is_ours() {
    let (sender, issuer, agent) = (keys(1), keys(5), npub(&keys(2)));
    let request =
        signed(&sender, zap::request(head(&sender), &agent, None, Msat::sats(21), "nice", &["ws://r".into()]));
    let receipt = |to: &str, description: &str| {
        build(&issuer, 9_735, tags([&["p", to], &["bolt11", "lnbcrt1"], &["description", description]]), "")
    };
    let read = zap::read_receipt(&receipt(&agent.to_hex(), &to_json(&request)), &agent).unwrap();
    assert_eq!((read.sender, read.issuer), (npub(&sender), npub(&issuer)));
    assert_eq!((read.amount, read.comment.as_str()), (Some(Msat::sats(21)), "nice"));
    let forged = to_json(&request).replace("nice", "nicer");
    assert!(zap::read_receipt(&receipt(&agent.to_hex(), &forged), &agent).is_err());
    let other = npub(&keys(3));
    assert!(zap::read_receipt(&receipt(&other.to_hex(), &to_json(&request)), &other).is_err());
}

#[test]
fn answers_take_the_form_of_what_they_answer() {
    let (agent, sender) = (keys(2), keys(1));
    let first = build(&sender, 1, tags([&["p", &agent.public_key().to_hex()]]), "question");
    let answer = signed(&agent, note::answer(head(&agent), "yes", &first, "ws://r"));
    assert_eq!((answer.kind.as_u16(), note::thread_root(&answer)), (1, Some(hash(&first.id))));
    assert_eq!(event::mentioned(&answer, 9), [npub(&sender)], "and not oneself");
    let second = signed(&sender, note::answer(head(&sender), "why?", &answer, ""));
    assert_eq!(note::thread_root(&second), Some(hash(&first.id)));
    let parent =
        Parent { id: hash(&second.id), author: npub(&sender), root: note::thread_root(&second), relay: String::new() };
    let third = signed(&agent, note::reply(head(&agent), "because", &parent));
    assert_eq!(note::thread_root(&third), Some(hash(&first.id)));
    assert_eq!(event::rows(&third, "e").map(|row| row[3].as_str()).collect::<Vec<_>>(), ["root", "reply"]);

    let article = build(&sender, 30_023, tags([&["d", "x"]]), "long");
    let comment = signed(&agent, note::answer(head(&agent), "good", &article, ""));
    let roots = |event: &nostr::event::Event| {
        (event::first(event, "E").unwrap().to_owned(), event::first(event, "K").unwrap().to_owned())
    };
    assert_eq!((comment.kind.as_u16(), roots(&comment)), (1_111, (article.id.to_hex(), "30023".into())));
    let comment_on_comment = signed(&sender, note::answer(head(&sender), "thanks", &comment, ""));
    assert_eq!(roots(&comment_on_comment), roots(&comment));
    assert_eq!(event::first(&comment_on_comment, "e"), Some(comment.id.to_hex().as_str()));
    assert_eq!(event::first(&comment_on_comment, "k"), Some("1111"));
}

#[test]
fn what_an_agent_says_about_itself_reads_back() {
    let agent = keys(2);
    let me = Profile {
        name: "my-agent".into(),
        about: "helps".into(),
        capabilities: vec!["post".into()],
        autonomy_level: "bounded".into(),
        version: "1".into(),
        operator: Some(npub(&keys(9))),
        lud16: Some("my-agent@example.com".into()),
        ..Profile::default()
    };
    assert_eq!(profile::read_agent_profile(&signed(&agent, profile::agent_profile(head(&agent), &me))).unwrap(), me);
    let metadata = signed(&agent, profile::metadata(head(&agent), &me));
    let content: serde_json::Value = serde_json::from_str(&metadata.content).unwrap();
    assert_eq!((content["bot"].as_bool(), content["lud16"].as_str()), (Some(true), Some("my-agent@example.com")));
    let list = [("ws://a", Use::Read), ("ws://b", Use::Write), ("ws://c", Use::Both)];
    let read = profile::read_relay_list(&signed(&agent, profile::relay_list(head(&agent), list))).unwrap();
    assert_eq!(read, list.map(|(url, usage)| (url.to_owned(), usage)));
    let dms = signed(&agent, profile::dm_relays(head(&agent), ["ws://a"]));
    assert_eq!(profile::read_dm_relays(&dms).unwrap(), ["ws://a"]);
    let anchor = state::Anchor { version: 7, digest: Hash32::sha256(b"x") };
    let event = signed(&agent, state::anchor(head(&agent), anchor));
    assert_eq!((state::read_anchor(&event).unwrap(), event.content.as_str()), (anchor, ""));
    let plan = schedule::Schedule { heartbeat_secs: 900, next_tick: Some(5), active: true };
    assert_eq!(schedule::read_schedule(&signed(&agent, schedule::schedule(head(&agent), &plan))).unwrap(), plan);
    let claim = build(&agent, 39_202, tags([&["d", "host"], &["heartbeat", "1"]]), "");
    assert!(schedule::read_schedule(&claim).is_err(), "a host claim is not a schedule");
}

#[test]
fn stamps_increase_even_when_the_clock_does_not() {
    assert_eq!(event::next_created_at(10, None), 10);
    assert_eq!(event::next_created_at(10, Some(10)), 11);
    assert_eq!(event::next_created_at(10, Some(50)), 51);
    assert_eq!(event::next_created_at(10, Some(5)), 10);
    assert_eq!(Head::new(npub(&keys(1)), -5).unsigned(1, vec![], "").created_at.as_secs(), 0);
}
