//! NIP-90 both ways: ours, and the dialects that real providers speak.

#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

mod common;

use common::*;
use nexus_core::Msat;
use nexus_nostr::event::{Head, hash};
use nexus_nostr::handler::{self, HandlerInfo, Price, newest, read_offer};
use nexus_nostr::job::{self, Dialect, Feedback, Job, JobError, Readable, Status, UpdateBody};
use nostr::event::Event;

fn a_job() -> Job {
    let mut job = Job { prompt: "What is new?".into(), bid: Some(Msat::sats(5)), ..Job::default() };
    job.params.set("max-tokens", "64");
    job.params.set("model", "demo");
    job.relays = vec!["ws://relay".into()];
    job
}

async fn request(encrypted: bool) -> (Event, job::Request) {
    let (customer, provider) = (KeySigner(keys(1)), KeySigner(keys(2)));
    let provider_key = npub(&provider.0);
    let unsigned = if encrypted {
        job::request_to(&customer, now(), &provider_key, &a_job()).await.unwrap()
    } else {
        job::clear_request(head(&customer.0), Some(&provider_key), &a_job(), Dialect::Standard)
    };
    let event = signed(&customer.0, unsigned);
    let request = job::receive(&event, &provider).await.unwrap();
    (event, request)
}

#[tokio::test]
async fn a_request_arrives_whole_and_an_encrypted_one_shows_nothing() {
    for encrypted in [true, false] {
        let (event, request) = request(encrypted).await;
        assert_eq!(request.prompt(), "What is new?");
        assert_eq!((request.params.max_tokens(), request.params.model()), (Some(64), Some("demo")));
        assert_eq!((request.bid, request.encrypted), (Some(Msat::sats(5)), encrypted));
        assert_eq!((request.customer, request.provider), (npub(&keys(1)), Some(npub(&keys(2)))));
        assert_eq!(request.relays, ["ws://relay"]);
        let json = nexus_nostr::event::to_json(&event);
        assert_eq!(json.contains("What is new?"), !encrypted);
        assert_eq!(json.contains("max_tokens"), !encrypted);
    }
}

#[tokio::test]
async fn answers_arrive_in_the_form_of_the_request() {
    let (customer, provider) = (KeySigner(keys(1)), KeySigner(keys(2)));
    for encrypted in [true, false] {
        let (_, request) = request(encrypted).await;
        let feedbacks = [
            Feedback::payment_required(Msat::new(10_500), "lnbcrt105n1pxyz".into()),
            Feedback::new(Status::Processing),
            Feedback::partial("half of it"),
            Feedback::error("no model"),
            Feedback::new(Status::Success),
        ];
        for feedback in feedbacks {
            let unsigned = job::feedback_to(&provider, now(), &request, &feedback).await.unwrap();
            let event = signed(&provider.0, unsigned);
            let update = job::receive_update(&event, request.id, &npub(&provider.0), &customer).await.unwrap();
            let UpdateBody::Feedback(read) = update.body else { panic!() };
            assert_eq!(
                (&read.status, read.amount, &read.bolt11),
                (&feedback.status, feedback.amount, &feedback.bolt11)
            );
            assert!(read.content == feedback.content || (encrypted && read.content == feedback.text));
            assert_eq!(
                nexus_nostr::event::to_json(&event).contains("half of it"),
                !encrypted && !read.content.is_empty() && read.status == Status::Partial
            );
        }
        let paid_later = Some((Msat::sats(3), "lnbcrt30n1pabc"));
        let unsigned = job::result_to(&provider, now(), &request, "the answer", paid_later).await.unwrap();
        let event = signed(&provider.0, unsigned);
        assert_eq!(event.content == "the answer", !encrypted);
        let update = job::receive_update(&event, request.id, &npub(&provider.0), &customer).await.unwrap();
        let quote = update.body.quote().unwrap();
        assert_eq!((quote.amount, quote.bolt11.as_deref()), (Some(Msat::sats(3)), Some("lnbcrt30n1pabc")));
        let UpdateBody::Result(result) = update.body else { panic!() };
        assert_eq!(result.content, "the answer");
    }
}

#[tokio::test]
async fn only_the_provider_that_was_asked_speaks_and_only_about_this_job() {
    let (_, request) = request(false).await;
    let asked = npub(&keys(2));
    let result = |by: &nostr::key::Keys| signed(by, job::build_result(head(by), &request, "x", None));
    assert!(job::read_update(&result(&keys(2)), request.id, &asked).is_ok());
    assert!(job::read_update(&result(&keys(3)), request.id, &asked).is_err(), "another author");
    let other = hash(&build(&keys(1), 5_050, vec![], "x").id);
    assert!(job::read_update(&result(&keys(2)), other, &asked).is_err(), "another job");
    let note = build(&keys(2), 1, tags([&["e", &request.id.to_string()]]), "x");
    assert!(job::read_update(&note, request.id, &asked).is_err(), "another kind");
}

#[tokio::test]
async fn requests_of_old_clients_are_read() {
    let (customer, provider) = (keys(1), KeySigner(keys(2)));
    let hidden = r#"[["i","old style","prompt"],["param","top-k","4"]]"#;
    let sealed = nostr::nips::nip04::encrypt_with_iv(customer.secret_key(), &provider.0.public_key(), hidden, [1; 16]);
    let provider_hex = provider.0.public_key().to_hex();
    let event = build(&customer, 5_050, tags([&["p", &provider_hex], &["encrypted"]]), &sealed.unwrap());
    let request = job::receive(&event, &provider).await.unwrap();
    assert_eq!((request.prompt().as_str(), request.params.get("top_k")), ("old style", Some("4")));
    // OpenAgents: the prompt is the content, and there is no input at all.
    let event = build(&customer, 5_050, tags([&["p", &provider_hex], &["param", "max_tokens", "9"]]), "in the content");
    let request = job::receive(&event, &provider).await.unwrap();
    assert_eq!(request.prompt(), "in the content");
    assert!(job::receive(&build(&customer, 5_050, vec![], ""), &provider).await.is_err());
    let foreign = build(&customer, 5_050, tags([&["i", "x", "carrier-pigeon"]]), "");
    assert!(matches!(job::read_request(&foreign), Err(JobError::Invalid(_))));
}

#[tokio::test]
async fn answers_of_other_dialects_are_read() {
    let (_, request) = request(false).await;
    let (provider, id) = (keys(2), request.id.to_string());
    let read = |event: &Event| match job::read_update(event, request.id, &npub(&provider)).unwrap() {
        Readable::Clear(update) => update.body,
        Readable::Sealed(_) => panic!("sealed"),
    };
    // OpenAgents: a unit where the invoice belongs, the invoice in the content.
    let status = ["status", "payment-required"];
    let openagents = tags([&["e", &id], &status, &["amount", "10000", "msats"]]);
    let quote = read(&build(&provider, 7_000, openagents, "lnbcrt100n1pdialect")).quote().unwrap();
    assert_eq!((quote.amount, quote.bolt11.as_deref()), (Some(Msat::new(10_000)), Some("lnbcrt100n1pdialect")));
    // An amount alone is a quote without an invoice; words in the content are none.
    let quote = read(&build(&provider, 7_000, tags([&["e", &id], &status, &["amount", "7"]]), "please zap me"))
        .quote()
        .unwrap();
    assert_eq!((quote.amount, quote.bolt11), (Some(Msat::new(7)), None));
    let huge = tags([&["e", &id], &status, &["amount", "99999999999999999999"]]);
    assert_eq!(read(&build(&provider, 7_000, huge, "")).quote(), None);
    let UpdateBody::Feedback(odd) =
        read(&build(&provider, 7_000, tags([&["e", &id], &["status", "chain-scheduled"]]), ""))
    else {
        panic!()
    };
    assert_eq!(odd.status, Status::Other("chain-scheduled".into()));
    assert!(job::read_update(&build(&provider, 7_000, tags([&["e", &id]]), ""), request.id, &npub(&provider)).is_err());
    // nostr-dvm: the whole feedback, status included, as tags inside the ciphertext.
    let customer = keys(1);
    let hidden = format!(r#"[["status","payment-required"],["amount","2000","lnbcrt20n1phidden"],["e","{id}"]]"#);
    let nonce = nostr::nips::nip44::Nonce::V2([1; 32]);
    let sealed = nostr::nips::nip44::encrypt_with_nonce(provider.secret_key(), &customer.public_key(), hidden, nonce);
    let event = build(&provider, 7_000, tags([&["e", &id], &["encrypted"]]), &sealed.unwrap());
    let update = job::receive_update(&event, request.id, &npub(&provider), &KeySigner(customer)).await.unwrap();
    let quote = update.body.quote().unwrap();
    assert_eq!((quote.amount, quote.bolt11.as_deref()), (Some(Msat::sats(2)), Some("lnbcrt20n1phidden")));
}

#[test]
fn an_offer_says_what_it_costs_in_millisats_whatever_unit_it_names() {
    let provider = keys(2);
    let info = HandlerInfo {
        identifier: "nexus".into(),
        name: "Demo".into(),
        about: "says so".into(),
        price: Price::PerThousandTokens(Msat::new(1_500)),
        models: vec!["demo".into()],
        network: "regtest".into(),
        relays: vec!["ws://relay".into()],
        encryption: true,
        hold: true,
    };
    let offer = read_offer(&signed(&provider, handler::handler(head(&provider), &info))).unwrap();
    assert_eq!((offer.price, offer.encryption, offer.hold), (Some(info.price), Some(true), true));
    assert_eq!((offer.identifier.as_str(), offer.about.as_str()), ("nexus", "says so"));
    assert_eq!((offer.dialect, offer.network.as_deref()), (Dialect::Standard, Some("regtest")));

    // OpenAgents: neither `d` nor `k`.
    let dialect = tags([
        &["handler", "compute_provider"],
        &["capability", "text-generation"],
        &["price", "1000", "per-request", "sats"],
        &["network", "regtest"],
    ]);
    let offer = read_offer(&build(&provider, 31_990, dialect, r#"{"name":"pylon","description":"d"}"#)).unwrap();
    assert_eq!((offer.price, offer.dialect), (Some(Price::PerRequest(Msat::new(1_000))), Dialect::OpenAgents));
    assert_eq!((offer.about.as_str(), offer.hold), ("d", false));

    let dvm = build(&provider, 31_990, tags([&["d", "x"], &["k", "5050"]]), r#"{"name":"dvm","amount":"free"}"#);
    assert_eq!(read_offer(&dvm).unwrap().price, Some(Price::PerRequest(Msat::ZERO)));
    let silent = build(&provider, 31_990, tags([&["d", "x"], &["k", "5050"]]), "not json");
    assert_eq!(read_offer(&silent).unwrap().price, None);
    assert!(read_offer(&build(&provider, 31_990, tags([&["d", "x"], &["k", "5100"]]), "{}")).is_err());
}

#[test]
fn the_newest_offer_of_a_provider_counts() {
    let provider = keys(2);
    let at = |at: i64, price: &str| {
        let tags = tags([&["d", "x"], &["k", "5050"], &["price", price]]);
        read_offer(&signed(&provider, Head::new(npub(&provider), at).unsigned(31_990, tags, "{}"))).unwrap()
    };
    let found = newest([at(10, "1"), at(30, "3"), at(20, "2")]);
    assert_eq!(found.iter().map(|offer| offer.created_at).collect::<Vec<_>>(), [30]);
}
