use nexus_core::Npub;
use nexus_core::policy::Custody;
use nexus_core::state::StateTooLarge;
use nexus_seal::keys::WrapError;
use nexus_seal::policy::PolicyError;
use nexus_seal::pool::PoolError;
use nexus_seal::{EnvelopeError, RecipientError, SealedKeyError, SignerError, UnlockError, WrapKey};

/// Why a secret was not opened or closed. Names keys by their public half only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("not a BIP-39 mnemonic in English: {0}")]
    Mnemonic(&'static str),
    #[error("not a secret key")]
    SecretKey,
    #[error("key derivation gave no valid key")]
    Derivation,
    #[error("not an age X25519 identity (AGE-SECRET-KEY-1…)")]
    Identity,
    #[error("wrong passphrase, or the file was changed")]
    WrongPassphrase,
    #[error("the envelope wants more work than 2^{} rounds of scrypt", nexus_seal::MAX_LOG_N)]
    TooMuchWork,
    #[error("the file asks for more memory or passes of Argon2 than are given")]
    TooMuchStretching,
    #[error("the envelope does not open: it is for another recipient, or was changed")]
    Unopened,
    #[error("the envelope holds more than expected")]
    TooLarge,
    #[error(transparent)]
    SealedKey(#[from] SealedKeyError),
    /// The envelope says it is for another agent than the one it was found with.
    #[error("the sealed key is for {found}, not for {expected}")]
    OtherAgent { expected: Npub, found: Npub },
    /// The mnemonic inside is not the one of the agent that the envelope names.
    #[error("the sealed key names {named}, but its mnemonic is the key of {derived}")]
    NpubMismatch { named: Npub, derived: Npub },
    #[error("the sealed key is for pool {found}, this is pool {expected}")]
    OtherPool { expected: String, found: String },
    #[error("custody {0:?} is not made this way")]
    CustodyNotYet(Custody),
    #[error("there is no wrap of the {} key that this key opens", .0.as_str())]
    WrapMissing(WrapKey),
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// Another key, another agent, another purpose, or changed bytes: they cannot be told apart.
    #[error("the {what} does not open under {npub}'s key {number}")]
    Ciphertext { what: String, npub: Npub, number: u32 },
    #[error("the {what} is under key {found}, not under {number}")]
    KeyNumber { what: String, number: u32, found: u32 },
    #[error("the {0} was opened, but is not what this version reads")]
    Unreadable(&'static str),
    #[error("the host names no runner key yet: start a worker there first")]
    NoRunner,
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Recipient(#[from] RecipientError),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    State(#[from] StateTooLarge),
}
