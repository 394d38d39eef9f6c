//! Opening a backup on the owner's side, and closing it again for another host.

use std::sync::Arc;

use nexus_core::policy::Custody;
use nexus_core::state::AgentState;
use nexus_core::{Entropy, Npub, UnixMs};
use nexus_seal::backup::BlobKind;
use nexus_seal::blob::Purpose;
use nexus_seal::claim::{next_epoch, unsigned_claim};
use nexus_seal::event::timestamp;
use nexus_seal::{
    HostClaim, Passphrase, SecretBytes, SignedPool, Signer, VerifiedBackup, Wrap, WrapKey, WrapRecipient,
    seal_to_recipient_armored,
};
use nostr::event::Event;

use crate::error::VaultError;
use crate::keys::{AgentKeys, data_key_text};
use crate::mnemonic::{Mnemonic, open_mnemonic};
use crate::new_agent::Host;
use crate::runtime::{Remote, RuntimeKey, fits};

/// A backup, open: everything in it was found to be this agent's. Keep it no longer than needed.
pub struct OpenedBackup {
    verified: VerifiedBackup,
    mnemonic: Mnemonic,
    /// Signs the `Nexus-Proof` and the new claim.
    pub signer: Arc<dyn Signer>,
    /// In bunker custody: how the new host reaches the signer.
    remote: Option<Remote>,
    pub keys: Option<AgentKeys>,
    pub state: Option<AgentState>,
}

impl std::fmt::Debug for OpenedBackup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedBackup").field("npub", &self.verified.backup.npub).finish_non_exhaustive()
    }
}

/// What a new host needs beside the backup itself.
#[derive(Debug, Clone)]
pub struct Resealed {
    /// The runtime envelope, to the new host's pool; none in attended custody.
    pub sealed_key: Option<String>,
    /// The agent's own word that it lives there now.
    pub claim: Event,
    /// The data key, to the new pool, in sealed custody; none for an agent without keys yet.
    pub pool_wrap: Option<Wrap>,
}

impl OpenedBackup {
    /// Opens a backup with the passphrase of the owner's envelope. Takes about a second and 256 MiB (scrypt): call it
    /// off the async executor's workers.
    pub async fn open(
        verified: VerifiedBackup,
        passphrase: &Passphrase,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        let mnemonic = open_mnemonic(&verified.backup.mnemonic_encrypted, passphrase)?;
        Self::open_with(verified, mnemonic, entropy).await
    }

    /// The same in bunker custody: the agent's key is `signer`'s, the envelope has the wallet's words.
    pub async fn open_at(
        verified: VerifiedBackup,
        passphrase: &Passphrase,
        signer: Arc<dyn Signer>,
        remote: Remote,
    ) -> Result<Self, VaultError> {
        let mnemonic = open_mnemonic(&verified.backup.mnemonic_encrypted, passphrase)?;
        Self::open_as(verified, mnemonic, signer, Some(remote)).await
    }

    /// Opens a backup with the mnemonic at hand. Every ciphertext is opened once, so that damage and exchanges are found
    /// here and not in a worker.
    pub async fn open_with(
        verified: VerifiedBackup,
        mnemonic: Mnemonic,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, VaultError> {
        let signer = Arc::new(mnemonic.signer(entropy)?);
        Self::open_as(verified, mnemonic, signer, None).await
    }

    async fn open_as(
        verified: VerifiedBackup,
        mnemonic: Mnemonic,
        signer: Arc<dyn Signer>,
        remote: Option<Remote>,
    ) -> Result<Self, VaultError> {
        fits(custody(&verified), remote.as_ref())?;
        let (named, derived) = (verified.backup.npub, signer.public_key());
        if named != derived {
            return Err(VaultError::NpubMismatch { named, derived });
        }
        let backup = &verified.backup;
        let keys = match backup.wraps.is_empty() && backup.blobs.is_empty() {
            true => None,
            false => Some(AgentKeys::open(&*signer, &backup.wraps).await?),
        };
        let mut state = None;
        if let Some(keys) = &keys {
            // The claim vouches for the inbox recipient; without one, the wrap does.
            if backup.inbox_recipient.as_ref().is_some_and(|recipient| *recipient != keys.inbox.recipient()) {
                return Err(VaultError::WrapMissing(WrapKey::Inbox));
            }
            for blob in &backup.blobs {
                let opened = open_blob(keys, blob.kind, &blob.ciphertext.0)?;
                if blob.kind == BlobKind::State {
                    let decoded = AgentState::decode(opened.expose());
                    state = Some(decoded.map_err(|_| VaultError::Unreadable("state"))?);
                }
            }
        }
        if let (Some(policy), Some(state)) = (&verified.policy, &state) {
            policy.follows(state.policy_version, state.policy_digest, 0)?;
        }
        Ok(Self { mnemonic, signer, remote, keys, state, verified })
    }

    pub const fn verified(&self) -> &VerifiedBackup {
        &self.verified
    }

    /// Closes the agent to another host's pool, with the claim that moves it there. `found` is the highest claim that is
    /// known beside the backup's own (the old host's, or one from the agent's relays).
    ///
    /// The owner must be the one whose signature the policy has: a worker obeys nobody else.
    pub async fn reseal(
        &self,
        owner: &Npub,
        pool: &SignedPool,
        host: &Host,
        found: Option<&HostClaim>,
        now: UnixMs,
    ) -> Result<Resealed, VaultError> {
        let backup = &self.verified.backup;
        let runner = host.runner.ok_or(VaultError::NoRunner)?;
        let policy = self.verified.policy.as_ref().map(|signed| &signed.policy);
        // What the state has seen counts as well: an older policy beside it would be refused by the worker.
        let seen = self.state.as_ref().map_or(0, |state| state.policy_version);
        let custody = custody(&self.verified);
        let key = RuntimeKey {
            npub: backup.npub,
            owner: *owner,
            custody,
            mnemonic: &self.mnemonic,
            remote: self.remote.as_ref(),
            min_policy_version: policy.map_or(seen, |policy| policy.version.max(seen)),
            with_state: self.state.is_some(),
        };
        let stamps = [self.verified.claim.as_ref(), found].into_iter().flatten().map(|claim| claim.created_at);
        // Strictly later than what it replaces, or relays might keep the old one.
        let stamp = stamps.map(|at| at.saturating_add(1)).max().unwrap_or(0).max(now.secs());
        let epoch = next_epoch(backup.epoch, found);
        let inbox = self.keys.as_ref().map(|keys| keys.inbox.recipient());
        let stamp = timestamp(UnixMs::from_secs(stamp));
        let claim = unsigned_claim(&backup.npub, &runner, &host.url, epoch, inbox.as_ref(), stamp);
        let pool_id = &pool.document.pool_id;
        let pool_wrap = match &self.keys {
            Some(keys) if custody == Custody::Sealed => Some(Wrap {
                key: WrapKey::Data,
                number: keys.data.number(),
                recipient: WrapRecipient::Pool(pool_id.clone()),
                ciphertext: seal_to_recipient_armored(pool.recipient(), data_key_text(keys).as_bytes())?,
            }),
            Some(_) | None => None,
        };
        let claim = self.signer.sign(claim).await?;
        Ok(Resealed { sealed_key: key.seal(pool)?, claim, pool_wrap })
    }
}

/// The custody that the owner signed; `sealed` without a policy.
fn custody(verified: &VerifiedBackup) -> Custody {
    verified.policy.as_ref().map_or_else(Custody::default, |signed| signed.policy.custody)
}

fn open_blob(keys: &AgentKeys, kind: BlobKind, sealed: &[u8]) -> Result<SecretBytes, VaultError> {
    let view = |purpose: Purpose| {
        let number = nexus_seal::blob::Blob::parse(sealed).map_err(|_| VaultError::Unreadable("blob"))?.key_number;
        keys.view_numbered(number).ok_or(VaultError::WrapMissing(WrapKey::View))?.open(purpose, sealed)
    };
    match kind {
        BlobKind::State => keys.data.open(Purpose::State, sealed),
        BlobKind::Wallet => keys.data.open(Purpose::Wallet, sealed),
        BlobKind::Event => view(Purpose::Event),
        BlobKind::Trajectory => view(Purpose::Trajectory),
        BlobKind::Approval => view(Purpose::Approval),
    }
}
