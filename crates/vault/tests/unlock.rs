//! Attended custody: an offer of a worker, and the owner's one payload to it.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

mod common;

use std::sync::Arc;

use common::{GOAL, NOW, World};
use nexus_core::policy::Custody;
use nexus_core::{Generation, Npub, UnixMs};
use nexus_seal::event::EventError;
use nexus_seal::unlock::{SKEW_SECS, UnlockError, VALID_SECS, unsigned_offer};
use nexus_seal::{Passphrase, SealedKey, SignedPool, Signer, UnlockOffer, seal_unlock, verify_offer};
use nexus_vault::{LocalSigner, Mnemonic, UnlockSlot, VaultError, sign_successor};
use nostr::event::Event;

struct Attended {
    world: World,
    npub: Npub,
    key: SealedKey,
}

async fn attended(seed: u64) -> Attended {
    let world = World::new(seed).await;
    let mnemonic = Mnemonic::generate(&*world.entropy);
    let npub = mnemonic.npub().unwrap();
    let key = SealedKey {
        npub,
        owner: world.owner.public_key(),
        custody: Custody::Attended,
        pool_id: "main".into(),
        mnemonic: mnemonic.expose(),
        stretched: None,
        min_policy_version: 1,
        with_state: true,
    };
    Attended { world, npub, key }
}

impl Attended {
    fn slot(&self) -> (UnlockSlot, Event) {
        let (identity, entropy) = (&self.world.identity, Arc::clone(&self.world.entropy));
        UnlockSlot::open(identity, "main", &self.npub, Generation(3), NOW, entropy).unwrap()
    }

    fn offer(&self, event: &Event) -> UnlockOffer {
        verify_offer(event, &self.world.pool, &self.npub, NOW).unwrap()
    }

    fn take(&self, slot: &mut UnlockSlot, sealed: &str, at: UnixMs) -> Result<Npub, VaultError> {
        let owner = self.world.owner.public_key();
        slot.take(sealed, &owner, at, Arc::clone(&self.world.entropy)).map(|secrets| secrets.npub)
    }
}

const fn after(secs: i64) -> UnixMs {
    UnixMs(NOW.0 + secs * 1_000)
}

#[tokio::test]
async fn an_owner_unlocks_once() {
    let agent = attended(1).await;
    let (mut slot, event) = agent.slot();
    let offer = agent.offer(&event);
    assert_eq!((offer.generation, offer.expires_at), (Generation(3), NOW.secs() + VALID_SECS));
    let sealed = seal_unlock(&offer, &agent.key, NOW).unwrap();
    assert!(!sealed.contains(agent.key.mnemonic.expose()));
    // Not with the pool's identity: only the ephemeral key opens it.
    assert_eq!(agent.world.identity.open(sealed.as_bytes()).unwrap_err(), VaultError::Unopened);
    // A stranger's garbage does not use the slot up.
    assert!(agent.take(&mut slot, "garbage", NOW).is_err());
    let (_, other_event) = agent.slot();
    let elsewhere = seal_unlock(&agent.offer(&other_event), &agent.key, NOW).unwrap();
    assert_eq!(agent.take(&mut slot, &elsewhere, NOW), Err(VaultError::Unopened), "sealed to another offer");
    assert_eq!(agent.take(&mut slot, &sealed, after(VALID_SECS - 1)), Ok(agent.npub));
    assert_eq!(agent.take(&mut slot, &sealed, NOW), Err(UnlockError::Expired.into()), "once");
    assert!(!format!("{slot:?} {offer:?} {event:?}").contains(agent.key.mnemonic.expose()));
}

#[tokio::test]
async fn an_offer_is_good_for_ten_minutes() {
    let agent = attended(2).await;
    let (mut slot, event) = agent.slot();
    let offer = agent.offer(&event);
    let sealed = seal_unlock(&offer, &agent.key, NOW).unwrap();
    let at = |secs: i64| verify_offer(&event, &agent.world.pool, &agent.npub, after(secs)).map(drop);
    at(VALID_SECS - 1).unwrap();
    assert_eq!(at(VALID_SECS), Err(UnlockError::Expired));
    at(-SKEW_SECS).unwrap();
    assert_eq!(at(-SKEW_SECS - 1), Err(UnlockError::Ahead { off_secs: SKEW_SECS + 1 }));
    assert_eq!(seal_unlock(&offer, &agent.key, after(VALID_SECS)).unwrap_err(), UnlockError::Expired);
    assert_eq!(agent.take(&mut slot, &sealed, after(VALID_SECS)), Err(UnlockError::Expired.into()));
    // Nor does a clock that goes back open it again.
    assert_eq!(agent.take(&mut slot, &sealed, NOW), Err(UnlockError::Expired.into()));
}

#[tokio::test]
async fn a_control_plane_cannot_offer_a_key_of_its_own() {
    let agent = attended(3).await;
    let thief = LocalSigner::generate(Arc::clone(&agent.world.entropy));
    let theirs = World::new(4).await;
    let verify = |event: &Event, npub: &Npub| verify_offer(event, &agent.world.pool, npub, NOW).map(drop);
    let recipient = theirs.identity.recipient();
    // Signed by a key of its own, by another pool's worker, or with the recipient changed.
    let forged = unsigned_offer(&thief.public_key(), &agent.npub, "main", &recipient, Generation(3), NOW);
    let forged = thief.sign_now(forged).unwrap();
    assert!(matches!(verify(&forged, &agent.npub), Err(UnlockError::Event(EventError::Author { .. }))));
    let entropy = Arc::clone(&theirs.entropy);
    let (_, foreign) = UnlockSlot::open(&theirs.identity, "main", &agent.npub, Generation(3), NOW, entropy).unwrap();
    assert!(matches!(verify(&foreign, &agent.npub), Err(UnlockError::Event(EventError::Author { .. }))));
    let (_, event) = agent.slot();
    let offer = agent.offer(&event);
    let mut json = serde_json::to_value(&event).unwrap();
    let tags = json["tags"].to_string().replace(offer.recipient.as_str(), recipient.as_str());
    json["tags"] = serde_json::from_str(&tags).unwrap();
    let changed: Event = serde_json::from_value(json).unwrap();
    assert_eq!(verify(&changed, &agent.npub), Err(UnlockError::Event(EventError::Id)));
    // A real offer, shown for another agent.
    assert!(matches!(verify(&event, &thief.public_key()), Err(UnlockError::Event(EventError::TagValue { .. }))));
    // A pool whose document names no signing key, and one of another name.
    let mut unnamed: SignedPool = agent.world.pool.clone();
    unnamed.document.signer = None;
    assert_eq!(verify_offer(&event, &unnamed, &agent.npub, NOW).unwrap_err(), UnlockError::NoSigner);
    let mut renamed = agent.world.pool.clone();
    renamed.document.pool_id = "other".into();
    assert_eq!(verify_offer(&event, &renamed, &agent.npub, NOW).unwrap_err(), UnlockError::OtherPool);
}

#[tokio::test]
async fn a_payload_is_for_its_agent_in_its_custody() {
    let agent = attended(5).await;
    let other = attended(6).await;
    let (mut slot, event) = agent.slot();
    let offer = agent.offer(&event);
    let refused = |key: SealedKey| seal_unlock(&offer, &key, NOW).unwrap_err();
    let sealed_custody = SealedKey { custody: Custody::Sealed, ..agent.key.clone() };
    assert_eq!(refused(sealed_custody), UnlockError::NotAttended);
    assert!(matches!(refused(other.key.clone()), UnlockError::OtherAgent { .. }));
    assert_eq!(refused(SealedKey { pool_id: "other".into(), ..agent.key.clone() }), UnlockError::OtherPool);
    // Another agent's words under this one's name: found by the worker, and the slot waits on.
    let posed = SealedKey { mnemonic: other.key.mnemonic.clone(), ..agent.key.clone() };
    let posed = seal_unlock(&offer, &posed, NOW).unwrap();
    assert!(matches!(agent.take(&mut slot, &posed, NOW), Err(VaultError::NpubMismatch { .. })));
    // A runtime envelope of sealed custody is no payload: it is closed to the pool, and so to whoever has its identity.
    let mnemonic = Mnemonic::parse(agent.key.mnemonic.expose()).unwrap();
    let created = agent.world.agent(&mnemonic, &Passphrase::existing("velvet-goose 71 paints quietly")).await;
    let envelope = created.body.sealed_key.unwrap();
    assert!(!envelope.contains(GOAL) && agent.world.identity.open(envelope.as_bytes()).is_ok());
    assert_eq!(agent.take(&mut slot, &envelope, NOW), Err(VaultError::Unopened));
    let fine = seal_unlock(&offer, &agent.key, NOW).unwrap();
    // A stranger who saw the owner's payload sends it on: refused, and the slot waits on.
    let stranger = other.world.owner.public_key();
    let taken = slot.take(&fine, &stranger, NOW, Arc::clone(&agent.world.entropy)).map(drop);
    assert_eq!(taken, Err(UnlockError::OtherOwner.into()));
    assert_eq!(agent.take(&mut slot, &fine, NOW), Ok(agent.npub));
}

#[tokio::test]
async fn a_new_identity_brings_its_own_signing_key() {
    let world = World::new(7).await;
    let root = LocalSigner::generate(Arc::clone(&world.entropy));
    let next = World::new(8).await;
    assert_eq!(world.pool.document.signer, Some(world.identity.signing_key().unwrap()));
    let event = sign_successor(&root, &world.pool, &next.identity, NOW).await;
    assert!(event.is_err(), "the root of another pool signs nothing for this one");
    assert_ne!(world.identity.signing_key().unwrap(), next.identity.signing_key().unwrap());
    let signer = world.identity.signer(Arc::clone(&world.entropy)).unwrap();
    assert_eq!(signer.public_key(), world.identity.signing_key().unwrap());
}
