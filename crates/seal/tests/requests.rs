//! Signed requests: every rule broken once.

mod common;

use common::{Key, NOW};
use nexus_core::{Hash32, Npub};
use nexus_seal::event::{EventError, tag, timestamp, unsigned};
use nexus_seal::proof::{
    PROOF_KIND, ProofError, WINDOW_SECS, authorization_header, proof_header, unsigned_agent_proof, unsigned_request,
};
use nexus_seal::{Request, verify_agent_proof, verify_nip98};
use nostr::event::Tag;

const URL: &str = "https://nexus.example/v1/agents?x=1";
const BODY: &[u8] = br#"{"name":"ada"}"#;
const POST: Request<'_> = Request { method: "POST", url: URL, body: BODY };
const GET: Request<'_> = Request { method: "GET", url: URL, body: b"" };

/// A header of these tags, properly signed.
fn header(kind: u16, tags: Vec<Tag>, secs_off: i64) -> String {
    let key = Key::new(1);
    let stamp = timestamp(NOW.plus_ms(secs_off * 1_000));
    authorization_header(&key.sign(unsigned(&key.npub(), kind, stamp, tags, String::new())))
}

fn tags(url: &str, method: &str, payload: Option<&[u8]>) -> Vec<Tag> {
    let mut tags = vec![tag("u", [url]), tag("method", [method])];
    tags.extend(payload.map(|body| tag("payload", [Hash32::sha256(body).to_string().as_str()])));
    tags
}

#[test]
fn a_signed_request_names_its_sender() {
    let key = Key::new(1);
    for request in [&GET, &POST] {
        let event = key.sign(unsigned_request(&key.npub(), request, NOW));
        let verified = verify_nip98(&authorization_header(&event), request, NOW).unwrap();
        assert_eq!(verified.pubkey, key.npub());
        assert_eq!(verified.event_id, Hash32::from_bytes(event.id.to_bytes()));
        assert_eq!(verified.created_at, NOW.secs());
        // The scheme's name is case-insensitive (RFC 9110).
        let lower = authorization_header(&event).replacen("Nostr", "nostr", 1);
        verify_nip98(&lower, request, NOW).unwrap();
    }
}

#[test]
fn every_rule_of_nip98_is_kept() {
    let fine = || tags(URL, "POST", Some(BODY));
    let verify = |header: &str| verify_nip98(header, &POST, NOW).unwrap_err();
    verify_nip98(&header(PROOF_KIND, fine(), 0), &POST, NOW).unwrap();

    assert!(matches!(verify(&header(1, fine(), 0)), ProofError::Event(EventError::Kind { found: 1, .. })));
    for off in [WINDOW_SECS, -WINDOW_SECS] {
        verify_nip98(&header(PROOF_KIND, fine(), off), &POST, NOW).unwrap();
        let too_far = off + off.signum();
        assert_eq!(verify(&header(PROOF_KIND, fine(), too_far)), ProofError::Time { off_secs: -too_far });
    }
    for url in ["https://nexus.example/v1/agents", "https://evil.example/v1/agents?x=1", &format!("{URL}&y"), ""] {
        let found = verify(&header(PROOF_KIND, tags(url, "POST", Some(BODY)), 0));
        assert!(matches!(found, ProofError::Url { .. }), "{url}");
    }
    let method = verify(&header(PROOF_KIND, tags(URL, "GET", Some(BODY)), 0));
    assert_eq!(method, ProofError::Method { expected: "POST".into() });
    assert_eq!(verify(&header(PROOF_KIND, tags(URL, "POST", None), 0)), ProofError::PayloadMissing);
    assert_eq!(verify(&header(PROOF_KIND, tags(URL, "POST", Some(b"{}")), 0)), ProofError::Payload);
    // A hash of some body, on a request that has none.
    let extra = header(PROOF_KIND, tags(URL, "GET", Some(BODY)), 0);
    assert_eq!(verify_nip98(&extra, &GET, NOW).unwrap_err(), ProofError::Payload);
}

#[test]
fn a_doubled_tag_is_refused() {
    for name in ["u", "method", "payload"] {
        let mut doubled = tags(URL, "POST", Some(BODY));
        let same = doubled.iter().find(|tag| tag.kind() == name).unwrap().clone();
        doubled.push(same);
        let refused = verify_nip98(&header(PROOF_KIND, doubled, 0), &POST, NOW).unwrap_err();
        assert_eq!(refused, ProofError::Event(EventError::Tag(name)));
    }
}

#[test]
fn what_is_no_signed_event_is_refused() {
    let verify = |header: &str| verify_nip98(header, &POST, NOW).unwrap_err();
    let good = header(PROOF_KIND, tags(URL, "POST", Some(BODY)), 0);
    assert_eq!(verify(""), ProofError::Scheme);
    assert_eq!(verify("Bearer abc"), ProofError::Scheme);
    assert_eq!(verify("Nostré"), ProofError::Scheme);
    assert_eq!(verify("Nostr ?"), ProofError::Encoding);
    assert_eq!(verify("Nostr e30="), ProofError::Encoding);
    assert_eq!(verify(&format!("Nostr {}", "A".repeat(20_000))), ProofError::TooLarge);
    // Any change to the event: no header of another event passes.
    let encoded = good.strip_prefix("Nostr ").unwrap();
    for at in 0..encoded.len() {
        let mut changed = encoded.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = format!("Nostr {}", String::from_utf8(changed).unwrap());
        assert!(verify_nip98(&changed, &POST, NOW).is_err(), "byte {at}");
    }
}

#[test]
fn an_agents_proof_names_its_owner() {
    let (agent, owner, thief) = (Key::new(1), Key::new(2), Key::new(3));
    let (npub, owner_npub) = (agent.npub(), owner.npub());
    let proof = |signer: &Key, owner: &Npub| {
        proof_header(&signer.sign(unsigned_agent_proof(&signer.npub(), owner, &POST, NOW)))
    };
    let good = proof(&agent, &owner_npub);
    let verified = verify_agent_proof(&good, &POST, &npub, &owner_npub, NOW).unwrap();
    assert_eq!(verified.pubkey, npub);
    // Taken from the wire by another account.
    let taken = verify_agent_proof(&good, &POST, &npub, &thief.npub(), NOW).unwrap_err();
    assert!(matches!(taken, ProofError::Event(EventError::TagValue { tag: "p", .. })));
    // Made without the agent's key.
    let made = verify_agent_proof(&proof(&thief, &thief.npub()), &POST, &npub, &thief.npub(), NOW).unwrap_err();
    assert!(matches!(made, ProofError::Event(EventError::Author { .. })));
    // A plain NIP-98 of the agent is not an agreement to be owned.
    let plain = proof_header(&agent.sign(unsigned_request(&npub, &POST, NOW)));
    let plain = verify_agent_proof(&plain, &POST, &npub, &owner_npub, NOW).unwrap_err();
    assert_eq!(plain, ProofError::Event(EventError::Tag("p")));
    let late = verify_agent_proof(&good, &POST, &npub, &owner_npub, NOW.plus_ms(61_000)).unwrap_err();
    assert_eq!(late, ProofError::Time { off_secs: 61 });
    let other = Request { body: b"{}", ..POST };
    assert_eq!(verify_agent_proof(&good, &other, &npub, &owner_npub, NOW).unwrap_err(), ProofError::Payload);
}
