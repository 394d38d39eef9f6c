//! The backup: the owner's file to run an agent elsewhere.
//!
//! One JSON document. Everything private in it is ciphertext already (owner's envelope, wraps, blobs), so it can be kept
//! anywhere; what its keeper can read is name, public configuration, policy and amounts in flight. The file is the
//! RFC 8785 form of the document, to the byte, with `digest`: the SHA-256 of that form without `digest`. That finds
//! damage. Forgery is found by the owner's signature on the policy, the agent's on the host claim, by the ciphertexts'
//! own authentication once they are opened, and by the owner, who is shown the public configuration before signing.
//!
//! A backup is what the last committed tick left: nothing of an unfinished one is in it. Payments whose outcome is not
//! known are listed, so that a person can look; the new host never sends them again.

use nexus_core::agent::validate_name;
use nexus_core::{AgentConfig, Generation, Hash32, Msat, Npub, UnixMs};
use nostr::event::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Sealed, Wrap, WrapKey, WrapRecipient, check_wraps};
use crate::blob::Blob;
use crate::claim::{HostClaim, verify_claim};
use crate::envelope::{MAX_LOG_N, mnemonic_work_factor};
use crate::policy::{SignedPolicy, verify_policy};
use crate::recipient::Recipient;
use crate::scan::{FoundSecret, looks_like_secret};

/// Version of the document.
pub const BACKUP_FORMAT: u64 = 1;
/// Largest file, in bytes.
pub const MAX_BACKUP: usize = 16 * 1024 * 1024;
/// Most blobs and most unresolved payments in one.
pub const MAX_BLOBS: usize = 4_096;
pub const MAX_UNRESOLVED: usize = 1_024;
/// Numbers beyond this are not the same in every reader of JSON (RFC 8785 has them as doubles).
const MAX_NUMBER: u64 = (1 << 53) - 1;
const MAX_PLACE: usize = 1_024;

/// Why a file is not a backup, or not this owner's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error("the backup has {size} bytes, at most {MAX_BACKUP} are read")]
    TooLarge { size: usize },
    #[error("the file is no JSON: it is damaged near line {line}, column {column}, or was cut off")]
    NotJson { line: usize, column: usize },
    #[error("the file is JSON, but no backup of an agent: {0}")]
    NotBackup(String),
    #[error("the backup has format {found}, this version reads {BACKUP_FORMAT}: use a newer version of nexus")]
    Format { found: String },
    #[error("the backup was damaged or changed: its digest is {stated}, its content has {found}")]
    Digest { stated: String, found: Hash32 },
    #[error("the backup's bytes were rearranged: use the file as it was exported")]
    Rearranged,
    #[error("the backup's {field}: {problem}")]
    Part { field: &'static str, problem: String },
    #[error("a secret in clear would be in the backup: {0}")]
    Secret(FoundSecret),
}

/// What a blob of a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobKind {
    /// The agent's state. Under the data key. Exactly one, unless the agent has none yet.
    State,
    /// What the wallet's driver keeps. Under the data key.
    Wallet,
    /// Readable content of an event. Under the view key.
    Event,
    /// The steps of a tick. Under the view key.
    Trajectory,
    /// What a parked action is about. Under the view key.
    Approval,
}

/// One ciphertext of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupBlob {
    pub kind: BlobKind,
    /// Which of its kind: a tick's id, an event's number; empty where there is one.
    pub name: String,
    pub ciphertext: Sealed,
}

/// A payment whose outcome was not known when the backup was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unresolved {
    pub payment_hash: Hash32,
    /// With the fee reserve.
    pub amount_msat: Msat,
    /// When its invoice expires.
    pub expires_at: UnixMs,
}

/// The document without format and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    pub npub: Npub,
    pub name: String,
    /// Of the host claim under which it was made.
    pub epoch: u64,
    pub generation: Generation,
    pub made_at: UnixMs,
    pub config: AgentConfig,
    /// When the heartbeat was due next.
    pub next_tick_at: Option<UnixMs>,
    pub policy: Option<Event>,
    pub claim: Option<Event>,
    /// The owner's envelope.
    pub mnemonic_encrypted: String,
    pub inbox_recipient: Option<Recipient>,
    /// Never those to a pool: they are of no use anywhere else.
    pub wraps: Vec<Wrap>,
    pub blobs: Vec<BackupBlob>,
    /// Where its wallet is, if that is a place: a mint's URL, a development network's.
    pub wallet_place: Option<String>,
    pub unresolved: Vec<Unresolved>,
}

/// A backup whose parts were found to fit its agent and its owner. Nothing was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedBackup {
    pub backup: Backup,
    pub policy: Option<SignedPolicy>,
    pub claim: Option<HostClaim>,
}

impl Backup {
    /// The file. Refuses to write a secret in clear, and drops wraps to pools.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BackupError> {
        let mut clean = self.clone();
        clean.wraps.retain(|wrap| !matches!(wrap.recipient, WrapRecipient::Pool(_)));
        clean.check_bounds()?;
        let unwritten = |error: serde_json::Error| BackupError::NotBackup(error.to_string());
        let mut document = serde_json::to_value(&clean).map_err(unwritten)?;
        document["format"] = BACKUP_FORMAT.into();
        if let Some(secret) = looks_like_secret(&document) {
            return Err(BackupError::Secret(secret));
        }
        let digest = digest(&document)?;
        document["digest"] = digest.to_string().into();
        let bytes = canonical(&document)?;
        if bytes.len() > MAX_BACKUP { Err(BackupError::TooLarge { size: bytes.len() }) } else { Ok(bytes) }
    }

    /// Reads a file: a changed byte anywhere is refused. One line break at its end is allowed, since editors add it.
    pub fn read(bytes: &[u8]) -> Result<Self, BackupError> {
        if bytes.len() > MAX_BACKUP {
            return Err(BackupError::TooLarge { size: bytes.len() });
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut document: Value = serde_json::from_slice(bytes)
            .map_err(|error| BackupError::NotJson { line: error.line(), column: error.column() })?;
        let Some(members) = document.as_object_mut() else {
            return Err(BackupError::NotBackup("it is no object".into()));
        };
        match members.get("format") {
            Some(format) if format.as_u64() == Some(BACKUP_FORMAT) => {}
            Some(format) => return Err(BackupError::Format { found: short(&format.to_string()) }),
            None => return Err(BackupError::NotBackup("it has no `format`".into())),
        }
        let stated = members.remove("digest").ok_or_else(|| BackupError::NotBackup("it has no `digest`".into()))?;
        let found = digest(&document)?;
        if stated.as_str() != Some(found.to_string().as_str()) {
            let stated = short(stated.as_str().unwrap_or("no text"));
            return Err(BackupError::Digest { stated, found });
        }
        document["digest"] = stated;
        if canonical(&document)? != bytes {
            return Err(BackupError::Rearranged);
        }
        if let Some(members) = document.as_object_mut() {
            members.remove("digest");
            members.remove("format");
        }
        let backup: Self =
            serde_json::from_value(document).map_err(|error| BackupError::NotBackup(short(&error.to_string())))?;
        backup.check_bounds()?;
        Ok(backup)
    }

    /// Reads the same document out of a larger one, where its bytes may stand in another form.
    pub fn from_document(document: &Value) -> Result<Self, BackupError> {
        Self::read(&canonical(document)?)
    }

    fn check_bounds(&self) -> Result<(), BackupError> {
        if self.blobs.len() > MAX_BLOBS {
            return Err(part("blobs", format!("at most {MAX_BLOBS}")));
        }
        if self.unresolved.len() > MAX_UNRESOLVED {
            return Err(part("unresolved", format!("at most {MAX_UNRESOLVED}")));
        }
        if self.blobs.iter().any(|blob| blob.name.len() > 128) {
            return Err(part("blobs", "names have at most 128 bytes"));
        }
        if self.wallet_place.as_ref().is_some_and(|place| place.len() > MAX_PLACE) {
            return Err(part("wallet_place", format!("at most {MAX_PLACE} bytes")));
        }
        Ok(())
    }

    /// Checks everything that can be checked without opening: the owner's signature on the policy, the agent's on the
    /// claim, and that all parts are this agent's. `now` bounds the claim's stamp.
    pub fn verify(self, owner: &Npub, now: UnixMs) -> Result<VerifiedBackup, BackupError> {
        validate_name(&self.name).map_err(|error| part("name", error.problem))?;
        self.config.validate().map_err(|error| part("config", error.to_string()))?;
        if self.epoch == 0 || self.generation.0 < 0 {
            return Err(part("epoch", "epochs count from 1, generations from 0"));
        }
        let log_n =
            mnemonic_work_factor(&self.mnemonic_encrypted).map_err(|e| part("mnemonic_encrypted", e.to_string()))?;
        if log_n > MAX_LOG_N {
            return Err(part("mnemonic_encrypted", format!("wants more work than 2^{MAX_LOG_N}")));
        }
        let policy = match &self.policy {
            Some(event) => Some(verify_policy(event, owner, &self.npub).map_err(|e| part("policy", e.to_string()))?),
            None => None,
        };
        let claim = match &self.claim {
            Some(event) => Some(verify_claim(event, &self.npub, now).map_err(|e| part("claim", e.to_string()))?),
            None => None,
        };
        if let Some(claim) = &claim {
            if claim.epoch != self.epoch {
                return Err(part(
                    "epoch",
                    format!("is {}, but the agent's own claim says {}", self.epoch, claim.epoch),
                ));
            }
            if claim.inbox.is_some() && claim.inbox != self.inbox_recipient {
                return Err(part("inbox_recipient", "is another than the agent's own claim names"));
            }
        }
        self.check_ciphertexts()?;
        Ok(VerifiedBackup { policy, claim, backup: self })
    }

    fn check_ciphertexts(&self) -> Result<(), BackupError> {
        check_wraps(&self.wraps).map_err(|problem| part("wraps", problem))?;
        if self.wraps.iter().any(|wrap| matches!(wrap.recipient, WrapRecipient::Pool(_))) {
            return Err(part("wraps", "a wrap to a pool does not belong into a backup"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for blob in &self.blobs {
            Blob::parse(&blob.ciphertext.0).map_err(|error| part("blobs", error.to_string()))?;
            if !seen.insert((blob.kind, &blob.name)) {
                return Err(part("blobs", format!("{:?} {:?} is there twice", blob.kind, blob.name)));
            }
        }
        let states = self.blobs.iter().filter(|blob| blob.kind == BlobKind::State).count();
        let own = |wrap: &Wrap| wrap.key == WrapKey::Data && wrap.recipient == WrapRecipient::Own;
        match (states, self.wraps.iter().any(own)) {
            (0 | 1, true) | (0, false) => Ok(()),
            (1, false) => Err(part("wraps", "the data key is not wrapped to the agent: its state could not be opened")),
            (_, _) => Err(part("blobs", "an agent has one state")),
        }
    }

    /// The blob of a kind that there is one of.
    pub fn blob(&self, kind: BlobKind) -> Option<&[u8]> {
        self.blobs.iter().find(|blob| blob.kind == kind).map(|blob| blob.ciphertext.0.as_slice())
    }
}

fn part(field: &'static str, problem: impl Into<String>) -> BackupError {
    BackupError::Part { field, problem: problem.into() }
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The SHA-256 of the document's RFC 8785 form; `digest` must not be in it.
fn digest(document: &Value) -> Result<Hash32, BackupError> {
    Ok(Hash32::sha256(&canonical(document)?))
}

/// The RFC 8785 form. Only whole numbers that every reader has alike, so that no two documents have one form.
fn canonical(document: &Value) -> Result<Vec<u8>, BackupError> {
    if !numbers_are_plain(document) {
        return Err(BackupError::NotBackup("it has a number that is not whole, or beyond 2^53".into()));
    }
    serde_json_canonicalizer::to_vec(document).map_err(|error| BackupError::NotBackup(short(&error.to_string())))
}

/// serde_json refuses to read more than 128 levels, so this ends.
fn numbers_are_plain(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.as_u64().is_some_and(|n| n <= MAX_NUMBER)
                || number.as_i64().is_some_and(|n| n.unsigned_abs() <= MAX_NUMBER)
        }
        Value::Array(items) => items.iter().all(numbers_are_plain),
        Value::Object(members) => members.values().all(numbers_are_plain),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
