//! A new agent from the client's hands to the worker's, and what a thief of rows can try in between.

mod common;

use std::sync::Arc;

use common::{GOAL, NOW, World};
use nexus_core::Npub;
use nexus_core::policy::{Custody, Policy};
use nexus_core::state::AgentState;
use nexus_seal::blob::Purpose;
use nexus_seal::claim::verify_claim;
use nexus_seal::{
    CreateAgent, Passphrase, SealedKey, Signer, WrapKey, WrapRecipient, looks_like_secret, seal_key,
    seal_to_recipient_armored, verify_policy,
};
use nexus_vault::{
    AgentKeys, AgentSecrets, InboxKey, LocalSigner, Mnemonic, PoolIdentity, RuntimeSecrets, VaultError, open_mnemonic,
    open_view_wrap,
};

fn sealed_key(world: &World, mnemonic: &Mnemonic, npub: Npub, owner: Npub) -> SealedKey {
    SealedKey {
        npub,
        owner,
        custody: Custody::Sealed,
        pool_id: world.pool.document.pool_id.clone(),
        mnemonic: mnemonic.expose(),
        stretched: None,
        min_policy_version: 1,
        with_state: true,
    }
}

fn open(world: &World, sealed: &str, npub: &Npub) -> Result<AgentSecrets, VaultError> {
    AgentSecrets::open(sealed, &world.identity, "main", npub, Arc::clone(&world.entropy))
}

#[tokio::test]
async fn a_worker_opens_what_a_client_sealed() {
    let world = World::new(1).await;
    let mnemonic = Mnemonic::generate(&*world.entropy);
    let passphrase = Passphrase::generate(&*world.entropy);
    let created = world.agent(&mnemonic, &passphrase).await;

    // Over the wire and back, past the checks of a host that can open nothing.
    let json = serde_json::to_value(&created.body).unwrap();
    assert_eq!(looks_like_secret(&json), None);
    let body: CreateAgent = serde_json::from_value(json.clone()).unwrap();
    body.check(&world.owner.public_key(), NOW).unwrap();
    let text = json.to_string();
    for secret in [mnemonic.expose().expose(), passphrase.expose(), GOAL, "patient clown"] {
        assert!(!text.contains(secret));
    }

    // The worker.
    let secrets = open(&world, body.sealed_key.as_deref().unwrap(), &body.npub).unwrap();
    assert_eq!(secrets.owner, world.owner.public_key());
    assert_eq!(secrets.signer.public_key(), body.npub);
    assert_eq!(secrets.wallet.expose_words(), mnemonic.wallet_seed().unwrap().expose_words());
    let keys = AgentKeys::open(&*secrets.signer, &body.wraps).await.unwrap();
    let state = keys.data.open(Purpose::State, &body.state.as_ref().unwrap().0).unwrap();
    let state = AgentState::decode(state.expose()).unwrap();
    assert_eq!((state.goals[0].text.as_str(), state.persona.as_str()), (GOAL, "a patient clown"));
    assert_eq!(state.view_key, keys.view.number());
    assert_eq!(Some(keys.inbox.recipient()), body.inbox_recipient);
    let policy = verify_policy(body.policy.as_ref().unwrap(), &secrets.owner, &body.npub).unwrap();
    policy.follows(state.policy_version, state.policy_digest, secrets.min_policy_version).unwrap();
    let claim = verify_claim(body.claim.as_ref().unwrap(), &body.npub, NOW).unwrap();
    assert_eq!(claim.inbox, body.inbox_recipient);
    assert!(secrets.with_state);
    assert_eq!((claim.epoch, claim.url.as_str()), (1, "https://nexus.example"));

    // The owner: view key by login key alone, mnemonic by passphrase alone.
    let reader = WrapRecipient::Reader(world.owner.public_key());
    let wrap = body.wraps.iter().find(|wrap| wrap.recipient == reader).unwrap();
    let view = open_view_wrap(&world.owner, &body.npub, wrap).await.unwrap();
    let entry = keys.view.seal(Purpose::Event, b"posted", &*world.entropy).unwrap();
    assert_eq!(view.open(Purpose::Event, &entry).unwrap().expose(), b"posted");
    assert_eq!(open_mnemonic(&body.mnemonic_encrypted, &passphrase).unwrap().expose(), mnemonic.expose());
    let wrong = open_mnemonic(&body.mnemonic_encrypted, &Passphrase::existing("not it"));
    assert_eq!(wrong.unwrap_err(), VaultError::WrongPassphrase);

    // The pool's wrap holds the same data key, for re-sealing.
    let pool = WrapRecipient::Pool("main".into());
    let wrap = body.wraps.iter().find(|wrap| wrap.recipient == pool).unwrap();
    assert_eq!(wrap.key, WrapKey::Data);
    assert!(world.identity.open(wrap.ciphertext.as_bytes()).is_ok());
}

#[tokio::test]
async fn a_sealed_key_belongs_to_one_agent_one_owner_one_pool() {
    let world = World::new(2).await;
    let (one, two) = (Mnemonic::generate(&*world.entropy), Mnemonic::generate(&*world.entropy));
    let npub = |m: &Mnemonic| m.signer(Arc::clone(&world.entropy)).unwrap().public_key();
    let owner = world.owner.public_key();
    let recipient = world.pool.recipient();
    let first = seal_key(&sealed_key(&world, &one, npub(&one), owner), recipient).unwrap();
    let second = seal_key(&sealed_key(&world, &two, npub(&two), owner), recipient).unwrap();
    assert!(open(&world, &first, &npub(&one)).is_ok());

    // Swapped between agents.
    let swapped = open(&world, &second, &npub(&one)).unwrap_err();
    assert_eq!(swapped, VaultError::OtherAgent { expected: npub(&one), found: npub(&two) });
    // Made by someone without the mnemonic, for an agent that is not theirs.
    let forged = seal_key(&sealed_key(&world, &two, npub(&one), npub(&two)), recipient).unwrap();
    let forged = open(&world, &forged, &npub(&one)).unwrap_err();
    assert_eq!(forged, VaultError::NpubMismatch { named: npub(&one), derived: npub(&two) });
    // For another pool, by name and by key.
    let elsewhere = AgentSecrets::open(&first, &world.identity, "other", &npub(&one), Arc::clone(&world.entropy));
    assert!(matches!(elsewhere.unwrap_err(), VaultError::OtherPool { .. }));
    let stranger = PoolIdentity::generate(&*world.entropy);
    let closed = AgentSecrets::open(&first, &stranger, "main", &npub(&one), Arc::clone(&world.entropy));
    assert_eq!(closed.unwrap_err(), VaultError::Unopened);
    // Something else that is sealed to the pool.
    let other = seal_to_recipient_armored(recipient, br#"{"format":2}"#).unwrap();
    assert!(matches!(open(&world, &other, &npub(&one)), Err(VaultError::SealedKey(_))));
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_refused() {
    let world = World::new(3).await;
    let mnemonic = Mnemonic::generate(&*world.entropy);
    let signer = mnemonic.signer(Arc::clone(&world.entropy)).unwrap();
    let npub = signer.public_key();
    let owner = world.owner.public_key();
    let sealed = seal_key(&sealed_key(&world, &mnemonic, npub, owner), world.pool.recipient()).unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(open(&world, &changed, &npub).is_err(), "byte {at} of the sealed key");
    }
    let keys = AgentKeys::generate(npub, &*world.entropy);
    let state = keys.data.seal(Purpose::State, b"a state", &*world.entropy).unwrap();
    for at in 0..state.len() {
        let mut changed = state.clone();
        changed[at] ^= 1;
        assert!(keys.data.open(Purpose::State, &changed).is_err(), "byte {at} of the state");
    }
    let wraps = keys.wraps(&signer, &[owner], None, &*world.entropy).await.unwrap();
    for index in 0..wraps.len() {
        let mut changed = wraps.clone();
        let text = &mut changed[index].ciphertext;
        let swap = if text.ends_with("A==") || text.as_bytes()[30] == b'A' { "B" } else { "A" };
        text.replace_range(30..31, swap);
        let reader = matches!(changed[index].recipient, WrapRecipient::Reader(_));
        let refused = if reader {
            open_view_wrap(&world.owner, &npub, &changed[index]).await.is_err()
        } else {
            AgentKeys::open(&signer, &changed).await.is_err()
        };
        assert!(refused, "{:?}", changed[index]);
    }
}

#[tokio::test]
async fn wraps_do_not_stand_in_for_each_other() {
    let world = World::new(4).await;
    let one = LocalSigner::generate(Arc::clone(&world.entropy));
    let two = LocalSigner::generate(Arc::clone(&world.entropy));
    let entropy = &*world.entropy;
    let keys = AgentKeys::generate(one.public_key(), entropy);
    let wraps = keys.wraps(&one, &[], None, entropy).await.unwrap();
    let others = AgentKeys::generate(two.public_key(), entropy).wraps(&two, &[], None, entropy).await.unwrap();
    AgentKeys::open(&one, &wraps).await.unwrap();
    assert!(AgentKeys::open(&two, &wraps).await.is_err());

    // Another agent's wrap in the place of this one's.
    for index in 0..wraps.len() {
        let mut mixed = wraps.clone();
        mixed[index] = others[index].clone();
        assert!(AgentKeys::open(&one, &mixed).await.is_err(), "wrap {index}");
    }
    // View and inbox key exchanged, and a number raised.
    let (view, inbox) = (1, 2);
    let mut mixed = wraps.clone();
    mixed[view].ciphertext = wraps[inbox].ciphertext.clone();
    assert!(matches!(AgentKeys::open(&one, &mixed).await, Err(VaultError::Wrap(_))));
    let mut raised = wraps.clone();
    raised[0].number = 2;
    assert!(matches!(AgentKeys::open(&one, &raised).await, Err(VaultError::Wrap(_))));
    for index in 0..wraps.len() {
        let mut fewer = wraps.clone();
        fewer.remove(index);
        assert!(matches!(AgentKeys::open(&one, &fewer).await, Err(VaultError::WrapMissing(_))));
    }
}

#[tokio::test]
async fn a_blob_opens_only_where_it_was_put() {
    let world = World::new(5).await;
    let entropy = &*world.entropy;
    let npub = Npub::from_bytes([1; 32]);
    let keys = AgentKeys::generate(npub, entropy);
    let tick_id = nexus_core::TickId::new(NOW, [1; 10]);
    let record = keys.data.seal(Purpose::Journal { tick_id, seq: 3 }, b"paid", entropy).unwrap();
    assert_eq!(keys.data.open(Purpose::Journal { tick_id, seq: 3 }, &record).unwrap().expose(), b"paid");
    let other_tick = nexus_core::TickId::new(NOW, [2; 10]);
    for wrong in
        [Purpose::State, Purpose::Journal { tick_id, seq: 4 }, Purpose::Journal { tick_id: other_tick, seq: 3 }]
    {
        assert!(keys.data.open(wrong, &record).is_err(), "{wrong}");
    }
    // The same bytes never come out twice.
    let again = keys.data.seal(Purpose::Journal { tick_id, seq: 3 }, b"paid", entropy).unwrap();
    assert_ne!(record, again);
}

#[tokio::test]
async fn a_removed_reader_reads_nothing_new() {
    let world = World::new(6).await;
    let entropy = &*world.entropy;
    let agent = LocalSigner::generate(Arc::clone(&world.entropy));
    let npub = agent.public_key();
    let (stays, goes) = (&world.owner, &LocalSigner::generate(Arc::clone(&world.entropy)));
    let mut keys = AgentKeys::generate(npub, entropy);
    let readers = [stays.public_key(), goes.public_key()];
    let mut wraps = keys.wraps(&agent, &readers, None, entropy).await.unwrap();
    let old = keys.view.seal(Purpose::Event, b"before", entropy).unwrap();
    let gone = wraps.iter().find(|w| w.recipient == WrapRecipient::Reader(goes.public_key())).unwrap().clone();
    let gone_view = open_view_wrap(goes, &npub, &gone).await.unwrap();
    assert!(open_view_wrap(stays, &npub, &gone).await.is_err());

    wraps.extend(keys.rotate_view(&agent, &readers[..1], entropy).await.unwrap());
    let new = keys.view.seal(Purpose::Event, b"after", entropy).unwrap();
    assert!(matches!(gone_view.open(Purpose::Event, &new), Err(VaultError::KeyNumber { found: 2, .. })));
    assert_eq!(gone_view.open(Purpose::Event, &old).unwrap().expose(), b"before");
    let reopened = AgentKeys::open(&agent, &wraps).await.unwrap();
    assert_eq!(reopened.view.number(), 2);
    assert_eq!(reopened.view.open(Purpose::Event, &new).unwrap().expose(), b"after");
    assert_eq!(reopened.view_numbered(1).unwrap().open(Purpose::Event, &old).unwrap().expose(), b"before");
}

#[tokio::test]
async fn each_custody_stores_what_it_says_and_only_for_the_right_agent() {
    let world = World::new(7).await;
    let mnemonic = Mnemonic::generate(&*world.entropy);
    let npub = mnemonic.signer(Arc::clone(&world.entropy)).unwrap().public_key();
    let passphrase = Passphrase::existing("unused");
    let new = |policy: Policy| nexus_vault::NewAgent {
        name: "ada".into(),
        config: nexus_core::AgentConfig::default(),
        mnemonic: &mnemonic,
        passphrase: &passphrase,
        owner: &world.owner,
        policy,
        pool: &world.pool,
        host: nexus_vault::Host { url: "https://nexus.example".into(), runner: None },
        persona: String::new(),
        goals: vec![],
        now: NOW,
        entropy: Arc::clone(&world.entropy),
    };
    let in_custody = |custody| Policy { custody, ..Policy::default_for(npub) };
    let attended = new(in_custody(Custody::Attended)).create().await.unwrap().body;
    assert_eq!(attended.sealed_key, None);
    assert!(attended.wraps.iter().all(|wrap| !matches!(wrap.recipient, WrapRecipient::Pool(_))));
    for custody in [Custody::Bunker, Custody::Threshold] {
        assert_eq!(new(in_custody(custody)).create().await.unwrap_err(), VaultError::CustodyNotYet(custody));
    }
    // With a signer elsewhere the mnemonic is the wallet's alone, and the envelope says how to reach the signer.
    let (user, client) = (LocalSigner::generate(Arc::clone(&world.entropy)), Npub::from_bytes([5; 32]));
    let remote = nexus_vault::Remote {
        signer: client,
        relays: vec!["wss://relay.example".into()],
        client_secret: nexus_seal::SecretText::new("07".repeat(32)),
    };
    let policy = Policy { custody: Custody::Bunker, ..Policy::default_for(user.public_key()) };
    let made = new(policy).create_at(&user, &remote).await.unwrap();
    let open = |npub: &Npub, pool: &str| {
        let sealed = made.sealed_key.as_deref().unwrap();
        RuntimeSecrets::open(sealed, &world.identity, pool, npub, Arc::clone(&world.entropy))
    };
    let RuntimeSecrets::Bunker(secrets) = open(&user.public_key(), "main").unwrap() else { panic!("a key was sealed") };
    assert_eq!((secrets.signer, secrets.owner), (client, world.owner.public_key()));
    assert_eq!(secrets.wallet.expose_words(), mnemonic.wallet_seed().unwrap().expose_words());
    assert!(!format!("{secrets:?}").contains(&"07".repeat(32)));
    AgentKeys::open(&user, &made.wraps).await.unwrap();
    assert!(matches!(open(&npub, "main"), Err(VaultError::OtherAgent { .. })));
    assert!(matches!(open(&user.public_key(), "other"), Err(VaultError::OtherPool { .. })));
    let other = Policy::default_for(Npub::from_bytes([4; 32]));
    assert!(matches!(new(other).create().await, Err(VaultError::OtherAgent { .. })));
}

#[tokio::test]
async fn the_inbox_takes_from_anyone_and_opens_for_one() {
    let world = World::new(8).await;
    let npub = Npub::from_bytes([1; 32]);
    let inbox = InboxKey::generate(npub, 1, &*world.entropy);
    let sealed = nexus_seal::seal_to_recipient(&inbox.recipient(), b"new goal").unwrap();
    assert_eq!(inbox.open(&sealed).unwrap().expose(), b"new goal");
    let other = InboxKey::generate(npub, 2, &*world.entropy);
    assert_eq!(other.open(&sealed).unwrap_err(), VaultError::Unopened);
}

proptest::proptest! {
    #[test]
    fn nothing_makes_an_opener_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), text in "\\PC{0,200}") {
        nexus_vault::fuzz::fuzz_open(&bytes);
        nexus_vault::fuzz::fuzz_open(text.as_bytes());
        nexus_vault::fuzz::fuzz_open(&[b"age-encryption.org/v1\n-> X25519 ".as_slice(), &bytes].concat());
    }
}
