//! What owners, agents and operators sign, and what someone else makes of it.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use common::{Key, NOW};
use nexus_core::policy::{Limits, Policy};
use nexus_core::{Hash32, Msat, Npub};
use nexus_seal::claim::{ClaimError, HostClaim, MAX_AHEAD_SECS, unsigned_claim, verify_claim};
use nexus_seal::event::{EventError, timestamp};
use nexus_seal::policy::{PolicyError, unsigned_policy};
use nexus_seal::pool::{POOL_FORMAT, PoolError, fingerprint, unsigned_pool, unsigned_successor};
use nexus_seal::{PoolDocument, Recipient, SignedPool, verify_policy};
use nostr::event::Event;
use proptest::prelude::*;

/// The event with another content, its id and signature left as they were.
fn with_content(event: &Event, content: &str) -> Event {
    let mut json = serde_json::to_value(event).unwrap();
    json["content"] = content.into();
    serde_json::from_value(json).unwrap()
}

fn policy_event(owner: &Key, policy: &Policy) -> Event {
    owner.sign(unsigned_policy(&owner.npub(), policy, timestamp(NOW)).unwrap())
}

#[test]
fn a_policy_is_obeyed_from_its_owner_only() {
    let (owner, thief) = (Key::new(1), Key::new(2));
    let (agent, other) = (Key::new(3).npub(), Key::new(4).npub());
    let policy = Policy::default_for(agent);
    let event = policy_event(&owner, &policy);
    let signed = verify_policy(&event, &owner.npub(), &agent).unwrap();
    assert_eq!(signed.policy, policy);

    // Limits raised in the row.
    let rich = Policy { limits: Limits { day_msat: Msat::sats(21_000_000), ..Limits::default() }, ..policy.clone() };
    let raised = with_content(&event, &serde_json::to_string(&rich).unwrap());
    let refused = verify_policy(&raised, &owner.npub(), &agent).unwrap_err();
    assert_eq!(refused, PolicyError::Event(EventError::Id));
    // Signed by someone else, with the owner's name or without.
    let stolen = policy_event(&thief, &rich);
    let author = EventError::Author { expected: owner.npub(), found: thief.npub() };
    assert_eq!(verify_policy(&stolen, &owner.npub(), &agent).unwrap_err(), PolicyError::Event(author));
    let mut json = serde_json::to_value(&stolen).unwrap();
    json["pubkey"] = owner.npub().to_hex().into();
    let posed: Event = serde_json::from_value(json).unwrap();
    assert!(verify_policy(&posed, &owner.npub(), &agent).is_err());
    // Another agent's, from the same owner.
    let others = policy_event(&owner, &Policy::default_for(other));
    let refused = verify_policy(&others, &owner.npub(), &agent).unwrap_err();
    assert_eq!(refused, PolicyError::Agent { expected: agent, found: other });
}

#[test]
fn an_older_policy_is_refused() {
    let owner = Key::new(1);
    let agent = Key::new(3).npub();
    let signed = |version| {
        let policy = Policy { version, ..Policy::default_for(agent) };
        verify_policy(&policy_event(&owner, &policy), &owner.npub(), &agent).unwrap()
    };
    let (one, two) = (signed(1), signed(2));
    one.follows(0, None, 1).unwrap();
    two.follows(1, Some(one.digest), 1).unwrap();
    two.follows(2, Some(two.digest), 1).unwrap();
    let older = PolicyError::Older { seen: 2, found: 1 };
    assert_eq!(one.follows(2, Some(two.digest), 1).unwrap_err(), older);
    // A worker that has seen nothing yet still knows the runtime envelope's minimum.
    assert_eq!(one.follows(0, None, 2).unwrap_err(), older);
    // Two policies of one version.
    let digest = Some(Hash32::from_bytes([5; 32]));
    assert_eq!(two.follows(2, digest, 1).unwrap_err(), PolicyError::Replaced { version: 2 });
}

struct Pool {
    root: Key,
    chain: Vec<Event>,
}

fn recipient(number: u8) -> Recipient {
    // Public keys of age's test suite would do; any X25519 point is one.
    let bytes = [number; 32];
    let hrp = bech32::Hrp::parse("age").unwrap();
    bech32::encode::<bech32::Bech32>(hrp, &bytes).unwrap().parse().unwrap()
}

fn pool(root: u8, id: &str, to: u8) -> Pool {
    let root = Key::new(root);
    let document = PoolDocument {
        format: POOL_FORMAT,
        pool_id: id.into(),
        recipients: vec![recipient(to)],
        signer: None,
        valid_from: NOW.secs(),
        previous: None,
    };
    let first = root.sign(unsigned_pool(&root.npub(), &document, timestamp(NOW)).unwrap());
    Pool { root, chain: vec![first] }
}

impl Pool {
    fn rotate(&mut self, to: u8, after_secs: i64) {
        let now = NOW.plus_ms(after_secs * 1_000);
        let before = nexus_seal::pool::verify_pool(self.chain.last().unwrap()).unwrap();
        self.chain.push(self.root.sign(unsigned_successor(&before, vec![recipient(to)], None, now).unwrap()));
    }
}

#[test]
fn a_client_follows_only_the_pinned_chain() {
    let mut ours = pool(1, "main", 10);
    let first = SignedPool::first_use(&ours.chain, NOW).unwrap();
    assert_eq!(first.recipient(), &recipient(10));
    let pin = first.pin();
    assert_eq!(pin.follow(&ours.chain, NOW).unwrap(), first);

    ours.rotate(11, 60);
    ours.rotate(12, 120);
    let later = NOW.plus_ms(120_000);
    let newest = pin.follow(&ours.chain, later).unwrap();
    assert_eq!(newest.recipient(), &recipient(12));
    // A document is not used before its time.
    assert_eq!(pin.follow(&ours.chain, NOW.plus_ms(60_000)).unwrap().recipient(), &recipient(11));
    // Nor is an older one, once a newer is pinned.
    assert_eq!(newest.pin().follow(&ours.chain[..2], later).unwrap_err(), PoolError::BrokenChain);
    // A gap in the chain.
    let gap = [ours.chain[0].clone(), ours.chain[2].clone()];
    assert_eq!(pin.follow(&gap, later).unwrap_err(), PoolError::BrokenChain);
    assert_eq!(pin.follow(&[], later).unwrap_err(), PoolError::Empty);
}

#[test]
fn a_forged_pool_document_is_refused() {
    let mut ours = pool(1, "main", 10);
    let pin = SignedPool::first_use(&ours.chain, NOW).unwrap().pin();
    // A control plane with a root key of its own.
    let theirs = pool(2, "main", 66);
    let PoolError::OtherRoot { found, found_words, pinned_words, .. } = pin.follow(&theirs.chain, NOW).unwrap_err()
    else {
        panic!("another root must be named")
    };
    assert_eq!((found, found_words), (theirs.root.npub(), fingerprint(&theirs.root.npub())));
    assert_eq!(pinned_words.split(' ').count(), 8);
    // Its document appended to our chain, naming ours as the one before.
    let before = nexus_seal::pool::verify_pool(&ours.chain[0]).unwrap();
    let mut event = unsigned_successor(&before, vec![recipient(66)], None, NOW).unwrap();
    event.pubkey = nexus_seal::event::public_key(&theirs.root.npub());
    let mixed = [ours.chain[0].clone(), theirs.root.sign(event)];
    assert_eq!(pin.follow(&mixed, NOW).unwrap_err(), PoolError::BrokenChain);
    // Our document with another recipient in it.
    let content = ours.chain[0].content.replace(recipient(10).as_str(), recipient(66).as_str());
    assert_ne!(content, ours.chain[0].content);
    let changed = with_content(&ours.chain[0], &content);
    assert_eq!(pin.follow(&[changed], NOW).unwrap_err(), PoolError::Event(EventError::Id));
    // Another pool of the same root.
    let other = pool(1, "other", 10);
    assert!(matches!(pin.follow(&other.chain, NOW).unwrap_err(), PoolError::OtherPool { .. }));
    // A document of the future alone.
    ours.chain.clear();
    let future = SignedPool::first_use(&pool(1, "main", 10).chain, NOW.plus_ms(-1_000)).unwrap_err();
    assert_eq!(future, PoolError::NotYetValid { valid_from: NOW.secs() });
}

#[test]
fn fingerprints_are_words_of_the_root_key_alone() {
    let (one, two) = (Key::new(1).npub(), Key::new(2).npub());
    assert_eq!(fingerprint(&one), fingerprint(&one));
    assert_ne!(fingerprint(&one), fingerprint(&two));
    assert_eq!(fingerprint(&one).split(' ').count(), 8);
}

fn claim(agent: &Key, epoch: u64, secs_ahead: i64, url: &str) -> Event {
    let stamp = timestamp(NOW.plus_ms(secs_ahead * 1_000));
    agent.sign(unsigned_claim(&agent.npub(), &Key::new(9).npub(), url, epoch, Some(&recipient(5)), stamp))
}

#[test]
fn a_host_claim_is_the_agents_own() {
    let (agent, other) = (Key::new(3), Key::new(4));
    let url = "https://nexus.example";
    let event = claim(&agent, 2, 0, url);
    let verified = verify_claim(&event, &agent.npub(), NOW).unwrap();
    assert_eq!((verified.epoch, verified.url.as_str(), verified.runner), (2, url, Key::new(9).npub()));
    assert_eq!(verified.inbox, Some(recipient(5)));
    assert!(matches!(verify_claim(&event, &other.npub(), NOW), Err(ClaimError::Event(_))));
    assert!(verify_claim(&claim(&agent, 1, MAX_AHEAD_SECS, url), &agent.npub(), NOW).is_ok());
    let ahead = verify_claim(&claim(&agent, 1, MAX_AHEAD_SECS + 1, url), &agent.npub(), NOW);
    assert_eq!(ahead.unwrap_err(), ClaimError::Ahead { ahead_secs: MAX_AHEAD_SECS + 1 });
    assert_eq!(verify_claim(&claim(&agent, 0, 0, url), &agent.npub(), NOW).unwrap_err(), ClaimError::Epoch);
    assert_eq!(verify_claim(&claim(&agent, u64::MAX, 0, url), &agent.npub(), NOW).unwrap_err(), ClaimError::Epoch);
    assert_eq!(verify_claim(&claim(&agent, 1, 0, "ftp://x"), &agent.npub(), NOW).unwrap_err(), ClaimError::Url);
}

fn any_claim() -> impl Strategy<Value = HostClaim> {
    (1_u64..4, 0_i64..4, any::<[u8; 1]>()).prop_map(|(epoch, created_at, [id])| HostClaim {
        agent: Npub::from_bytes([1; 32]),
        runner: Npub::from_bytes([2; 32]),
        url: String::new(),
        epoch,
        inbox: None,
        created_at,
        id: Hash32::from_bytes([id; 32]),
    })
}

proptest! {
    #[test]
    fn of_any_claims_one_wins_whoever_asks(one in any_claim(), two in any_claim(), three in any_claim()) {
        prop_assert_eq!(one.supersedes(&two), !two.supersedes(&one) && one != two);
        if one.supersedes(&two) && two.supersedes(&three) {
            prop_assert!(one.supersedes(&three));
        }
        if one.epoch > two.epoch {
            prop_assert!(one.supersedes(&two));
        } else if one.epoch == two.epoch && one.created_at > two.created_at {
            prop_assert!(one.supersedes(&two));
        } else if (one.epoch, one.created_at) == (two.epoch, two.created_at) && one.id < two.id {
            prop_assert!(one.supersedes(&two));
        }
    }
}
