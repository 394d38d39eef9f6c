//! A backup: written, damaged at every byte, forged, opened, and closed again for another host.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use std::sync::Arc;

use base64::Engine;
use common::{GOAL, NOW, World};
use nexus_core::policy::Policy;
use nexus_core::{AgentConfig, Generation, Hash32, Msat, Npub, UnixMs};
use nexus_seal::backup::{BackupBlob, BlobKind, Unresolved};
use nexus_seal::blob::Purpose;
use nexus_seal::claim::{Weighed, next_epoch, revived, unsigned_claim, verify_claim, weigh};
use nexus_seal::event::timestamp;
use nexus_seal::policy::{PolicyError, unsigned_policy};
use nexus_seal::{Backup, BackupError, Passphrase, Sealed, Signer, VerifiedBackup, WrapRecipient};
use nexus_vault::{AgentKeys, AgentSecrets, Host, LocalSigner, Mnemonic, OpenedBackup, VaultError};

/// An agent that lives somewhere, and what its host would export.
struct Lived {
    world: World,
    mnemonic: Mnemonic,
    signer: LocalSigner,
    backup: Backup,
}

async fn lived(seed: u64, passphrase: &Passphrase) -> Lived {
    let world = World::new(seed).await;
    let mnemonic = Mnemonic::generate(&*world.entropy);
    let created = world.agent(&mnemonic, passphrase).await;
    let (body, signer, entropy) = (created.body, created.signer, Arc::clone(&world.entropy));
    let keys = AgentKeys::open(&signer, &body.wraps).await.unwrap();
    let blob = |kind, name: &str, ciphertext| BackupBlob { kind, name: name.into(), ciphertext: Sealed(ciphertext) };
    let backup = Backup {
        npub: body.npub,
        name: body.name,
        epoch: 1,
        generation: Generation(4),
        made_at: NOW,
        config: AgentConfig { about: "says \"hé\" \u{1f600}\u{7f}\u{1}".into(), ..body.config },
        next_tick_at: Some(NOW.plus_ms(900_000)),
        policy: body.policy,
        claim: body.claim,
        mnemonic_encrypted: body.mnemonic_encrypted,
        inbox_recipient: body.inbox_recipient,
        wraps: body.wraps,
        blobs: vec![
            blob(BlobKind::State, "", body.state.unwrap().0),
            blob(BlobKind::Wallet, "", keys.data.seal(Purpose::Wallet, b"proofs", &*entropy).unwrap()),
            blob(BlobKind::Trajectory, "t1", keys.view.seal(Purpose::Trajectory, b"thought", &*entropy).unwrap()),
        ],
        wallet_place: Some("http://127.0.0.1:7779".into()),
        unresolved: vec![Unresolved { payment_hash: Hash32::ZERO, amount_msat: Msat::sats(3), expires_at: NOW }],
    };
    Lived { world, mnemonic, signer, backup }
}

fn words() -> Passphrase {
    Passphrase::existing("velvet-goose 71 paints quietly")
}

impl Lived {
    fn verified(&self, backup: &Backup) -> VerifiedBackup {
        backup.clone().verify(&self.world.owner.public_key(), NOW).unwrap()
    }

    async fn open(&self, backup: &Backup) -> Result<OpenedBackup, VaultError> {
        let entropy = Arc::clone(&self.world.entropy);
        OpenedBackup::open_with(self.verified(backup), self.mnemonic.clone(), entropy).await
    }
}

#[tokio::test]
async fn a_backup_moves_an_agent_whole() {
    let lived = lived(1, &words()).await;
    let bytes = lived.backup.to_bytes().unwrap();
    let read = Backup::read(&bytes).unwrap();
    assert!(read.wraps.iter().all(|wrap| !matches!(wrap.recipient, WrapRecipient::Pool(_))));
    assert_eq!(read.to_bytes().unwrap(), bytes, "the same document has the same bytes");
    assert_eq!(Backup::read(&[bytes.as_slice(), b"\n"].concat()).unwrap(), read);

    // Nothing in clear: neither the mnemonic nor any key, in any of their texts, nor the state.
    let text = String::from_utf8(bytes).unwrap();
    let keys = AgentKeys::open(&lived.signer, &read.wraps).await.unwrap();
    let opened = keys.data.open(Purpose::State, read.blob(BlobKind::State).unwrap()).unwrap();
    assert!(String::from_utf8_lossy(opened.expose()).contains(GOAL), "or this test would look for nothing");
    let secret = lived.signer.expose_secret();
    let base64 = base64::engine::general_purpose::STANDARD.encode(secret.expose());
    for needle in [
        lived.mnemonic.expose().expose(),
        GOAL,
        "patient clown",
        "proofs",
        "thought",
        lived.signer.expose_nsec().expose(),
        &hex::encode(secret.expose()),
        &base64,
        lived.mnemonic.wallet_seed().unwrap().expose_words().expose(),
    ] {
        assert!(!text.contains(needle));
    }

    // Another host with a pool of its own, whose workers open it.
    let there = World::new(2).await;
    let owner = lived.world.owner.public_key();
    let verified = lived.verified(&read);
    let opened = OpenedBackup::open(verified, &words(), Arc::clone(&there.entropy)).await.unwrap();
    assert_eq!(opened.state.as_ref().unwrap().goals[0].text, GOAL);
    let host = Host { url: "https://there.example".into(), runner: Some(Npub::from_bytes([8; 32])) };
    let found = lived.verified(&read).claim.unwrap();
    let moved = opened.reseal(&owner, &there.pool, &host, Some(&found), NOW).await.unwrap();
    let entropy = Arc::clone(&there.entropy);
    let secrets =
        AgentSecrets::open(moved.sealed_key.as_deref().unwrap(), &there.identity, "main", &read.npub, entropy).unwrap();
    assert_eq!((secrets.owner, secrets.min_policy_version, secrets.with_state), (owner, 1, true));
    let worker_keys = AgentKeys::open(&*secrets.signer, &read.wraps).await.unwrap();
    worker_keys.data.open(Purpose::State, read.blob(BlobKind::State).unwrap()).unwrap();
    assert_eq!(moved.pool_wrap.unwrap().recipient, WrapRecipient::Pool("main".into()));
    // The claim is the agent's own, of the next epoch, and the old host obeys it.
    let claim = verify_claim(&moved.claim, &read.npub, NOW).unwrap();
    assert_eq!((claim.epoch, claim.inbox.clone()), (2, read.inbox_recipient));
    let fenced = Weighed::Fenced { url: "https://there.example".into(), epoch: 2 };
    assert_eq!(weigh(Some(&found), &claim, &Npub::from_bytes([9; 32])), fenced);
    let nowhere = Host { url: host.url, runner: None };
    assert_eq!(opened.reseal(&owner, &there.pool, &nowhere, None, NOW).await.unwrap_err(), VaultError::NoRunner);
    let shown = format!("{opened:?}");
    assert!(!shown.contains(lived.mnemonic.expose().expose()) && !shown.contains(GOAL));
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_refused() {
    let lived = lived(3, &words()).await;
    let bytes = lived.backup.to_bytes().unwrap();
    let mut changed = bytes.clone();
    for at in 0..bytes.len() {
        changed[at] ^= 1 << (at % 8);
        let refused = Backup::read(&changed).expect_err(&format!("byte {at}"));
        assert!(!refused.to_string().is_empty());
        changed[at] = bytes[at];
    }
    // Of the members that say what it is, and of what is cut off, the error names the trouble.
    let text = String::from_utf8(bytes.clone()).unwrap();
    let read = |text: &str| Backup::read(text.as_bytes()).unwrap_err();
    assert!(matches!(read(&text.replace("\"format\":1", "\"format\":2")), BackupError::Format { .. }));
    assert!(matches!(read(&text.replace("\"name\":\"ada\"", "\"name\":\"eve\"")), BackupError::Digest { .. }));
    assert!(matches!(read(&text[..text.len() / 2]), BackupError::NotJson { line: 1, .. }));
    assert!(matches!(read("[]"), BackupError::NotBackup(_)));
    assert!(matches!(read("{}"), BackupError::NotBackup(_)));
    assert!(matches!(read(&text.replace(",\"epoch\":1,", ",\"epoch\":1.0,")), BackupError::NotBackup(_)));
    assert!(matches!(Backup::read(&vec![b' '; 17 << 20]), Err(BackupError::TooLarge { .. })));
    // The same document in other bytes: spaces, a member twice.
    assert_eq!(read(&text.replace("\"epoch\":1", "\"epoch\": 1")), BackupError::Rearranged);
    assert_eq!(read(&text.replace("\"epoch\":1,", "\"epoch\":9,\"epoch\":1,")), BackupError::Rearranged);
    // A member that is not known, with a digest that fits.
    let mut document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let members = document.as_object_mut().unwrap();
    members.remove("digest");
    members.insert("extra".into(), 1.into());
    let digest = Hash32::sha256(&serde_json_canonicalizer::to_vec(&document).unwrap());
    document["digest"] = digest.to_string().into();
    let odd = serde_json_canonicalizer::to_vec(&document).unwrap();
    assert!(matches!(Backup::read(&odd), Err(BackupError::NotBackup(why)) if why.contains("extra")));
}

#[tokio::test]
async fn a_forged_backup_with_a_digest_that_fits_is_refused_all_the_same() {
    let lived = lived(4, &words()).await;
    let other = self::lived(5, &words()).await;
    let owner = lived.world.owner.public_key();
    let refused = |change: &dyn Fn(&mut Backup)| {
        let mut forged = lived.backup.clone();
        change(&mut forged);
        // Whoever changes the file makes a new digest.
        let forged = Backup::read(&forged.to_bytes().unwrap()).unwrap();
        match forged.verify(&owner, NOW) {
            Err(BackupError::Part { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    // Another owner's policy, one that the owner did not sign, another agent's.
    assert_eq!(refused(&|b| b.policy = other.backup.policy.clone()), "policy");
    let raised =
        Policy { autonomy: nexus_core::policy::Autonomy::Autonomous, ..Policy::default_for(lived.backup.npub) };
    let thief = LocalSigner::generate(Arc::clone(&lived.world.entropy));
    let stolen = thief.sign_now(unsigned_policy(&thief.public_key(), &raised, timestamp(NOW)).unwrap()).unwrap();
    assert_eq!(refused(&|b| b.policy = Some(stolen.clone())), "policy");
    // A claim of somebody else, of another epoch, an inbox of the forger's.
    assert_eq!(refused(&|b| b.claim = other.backup.claim.clone()), "claim");
    assert_eq!(refused(&|b| b.epoch = 7), "epoch");
    assert_eq!(refused(&|b| b.inbox_recipient = other.backup.inbox_recipient.clone()), "inbox_recipient");
    assert_eq!(refused(&|b| b.npub = other.backup.npub), "policy");
    assert_eq!(refused(&|b| b.blobs.push(b.blobs[0].clone())), "blobs");
    assert_eq!(refused(&|b| b.blobs[1].ciphertext = Sealed(vec![1; 10])), "blobs");
    assert_eq!(refused(&|b| b.wraps.retain(|wrap| wrap.recipient != WrapRecipient::Own)), "wraps");
    assert_eq!(refused(&|b| b.mnemonic_encrypted = "twelve words".into()), "mnemonic_encrypted");
    assert_eq!(refused(&|b| b.name = "Not A Name".into()), "name");
    assert_eq!(refused(&|b| b.config.heartbeat_secs = 1), "config");
    // Another owner who got hold of the file.
    let taken = lived.backup.clone().verify(&thief.public_key(), NOW);
    assert!(matches!(taken, Err(BackupError::Part { field: "policy" | "wraps", .. })));

    // What signatures do not cover is found when it is opened: exchanged ciphertexts, keys and envelopes.
    let clean = Backup::read(&lived.backup.to_bytes().unwrap()).unwrap();
    lived.open(&clean).await.unwrap();
    let theirs = Backup::read(&other.backup.to_bytes().unwrap()).unwrap();
    for index in 0..clean.blobs.len() {
        let mut mixed = clean.clone();
        mixed.blobs[index].ciphertext = theirs.blobs[index].ciphertext.clone();
        assert!(lived.open(&mixed).await.is_err(), "blob {index} of another agent");
    }
    let mut moved = clean.clone();
    moved.blobs[1].ciphertext = clean.blobs[0].ciphertext.clone();
    assert!(matches!(lived.open(&moved).await, Err(VaultError::Ciphertext { .. })), "a blob in another's place");
    for index in 0..clean.wraps.len() {
        let mut mixed = clean.clone();
        mixed.wraps[index].ciphertext = theirs.wraps[index].ciphertext.clone();
        let reader = matches!(mixed.wraps[index].recipient, WrapRecipient::Reader(_));
        assert_eq!(lived.open(&mixed).await.is_err(), !reader, "wrap {index}");
    }
    let envelope = OpenedBackup::open_with(lived.verified(&clean), other.mnemonic.clone(), lived.world.entropy.clone());
    assert!(matches!(envelope.await, Err(VaultError::NpubMismatch { .. })));
}

#[tokio::test]
async fn a_backup_with_a_secret_in_clear_is_not_written() {
    let lived = lived(6, &words()).await;
    let with = |about: &str| {
        let mut backup = lived.backup.clone();
        backup.config.about = about.into();
        backup.to_bytes()
    };
    assert!(matches!(with(lived.mnemonic.expose().expose()), Err(BackupError::Secret(_))));
    assert!(matches!(with(lived.signer.expose_nsec().expose()), Err(BackupError::Secret(_))));
    let mut large = lived.backup.clone();
    large.generation = Generation(i64::MAX);
    assert!(matches!(large.to_bytes(), Err(BackupError::NotBackup(_))), "a number that readers have differently");
}

#[tokio::test]
async fn an_older_policy_beside_a_newer_state_is_named() {
    let lived = lived(7, &words()).await;
    let mut backup = Backup::read(&lived.backup.to_bytes().unwrap()).unwrap();
    let keys = AgentKeys::open(&lived.signer, &backup.wraps).await.unwrap();
    let mut state = lived.open(&backup).await.unwrap().state.unwrap();
    state.policy_version = 2;
    let sealed = keys.data.seal(Purpose::State, &state.encode().unwrap(), &*lived.world.entropy).unwrap();
    backup.blobs[0].ciphertext = Sealed(sealed);
    let refused = lived.open(&backup).await.unwrap_err();
    assert_eq!(refused, VaultError::Policy(PolicyError::Older { seen: 2, found: 1 }));
}

#[tokio::test]
async fn claims_end_in_one_host_whatever_their_order() {
    let world = World::new(8).await;
    let agent = LocalSigner::generate(Arc::clone(&world.entropy));
    let npub = agent.public_key();
    let runners = [1_u8, 2, 3].map(|n| Npub::from_bytes([n; 32]));
    let claim = |runner: usize, epoch: u64, at: i64| {
        let url = format!("https://host{runner}.example");
        let stamp = timestamp(NOW.plus_ms(at * 1_000));
        let event = agent.sign_now(unsigned_claim(&npub, &runners[runner], &url, epoch, None, stamp)).unwrap();
        verify_claim(&event, &npub, NOW).unwrap()
    };
    let claims = [claim(0, 1, 0), claim(1, 2, 0), claim(2, 2, 5), claim(0, 2, 5), claim(1, 1, 800)];
    let winner = claims.iter().max_by(|a, b| a.compare(b)).unwrap();
    assert_eq!(winner.epoch, 2);
    // Each host, in each order: the winner's thinks that it hosts, the others are fenced.
    let mut order: Vec<usize> = (0..claims.len()).collect();
    for turn in 0..120 {
        for (host, runner) in runners.iter().enumerate() {
            let mut held = None;
            let mut last = None;
            for at in order.iter().chain(&order) {
                match weigh(held.as_ref(), &claims[*at], runner) {
                    Weighed::Known | Weighed::Stale => {}
                    weighed => {
                        held = Some(claims[*at].clone());
                        last = Some(weighed);
                    }
                }
            }
            assert_eq!(held.as_ref(), Some(winner));
            assert_eq!(last == Some(Weighed::Ours), winner.runner == runners[host]);
        }
        let (a, b) = (turn % order.len(), (turn * 7 + 3) % order.len());
        order.swap(a, b);
    }
    assert_eq!(next_epoch(3, None), 4);
    assert_eq!(next_epoch(1, Some(winner)), 3);
    assert_eq!(revived(Some(Generation(9)), Generation(4)), Generation(10));
    assert_eq!(revived(None, Generation(4)), Generation(5));
    // A claim of the future is refused until its time has come.
    let stamp = timestamp(NOW.plus_ms(901_000));
    let early = agent.sign_now(unsigned_claim(&npub, &runners[0], "https://x", 9, None, stamp)).unwrap();
    assert!(verify_claim(&early, &npub, NOW).is_err());
    verify_claim(&early, &npub, UnixMs(NOW.0 + 1_000)).unwrap();
}
