//! How agents' secrets are closed, and how what others signed is checked.
//!
//! Every format that crosses a boundary is here: the owner's envelope, the runtime envelope, wraps, encrypted blobs,
//! the pool document, the policy event, the host claim, request proofs. Any role may use this crate, because it holds
//! no agent key and opens no agent secret. Opening is in `nexus-vault`, which only workers and the owner's own client
//! may link. The one thing opened here is an operator's secret, under the operator's key ([`operator`]).

pub mod api;
pub mod backup;
pub mod blob;
pub mod bunker_key;
pub mod claim;
pub mod command;
pub mod decision;
mod envelope;
pub mod event;
pub mod fuzz;
pub mod keys;
pub mod operator;
pub mod passphrase;
pub mod payout;
pub mod policy;
pub mod pool;
pub mod proof;
mod recipient;
pub mod rollback;
pub mod scan;
mod sealed_key;
mod secret;
pub mod signer;
pub mod unlock;
pub mod webhook;
pub mod withdrawal;
mod words;

pub use api::{CreateAgent, ImportAgent, Sealed, Wrap, WrapKey, WrapRecipient};
pub use backup::{Backup, BackupError, VerifiedBackup};
pub use bunker_key::{BunkerKey, seal_bunker_key};
pub use claim::HostClaim;
pub use command::{CommandError, OwnerCommand, VerifiedCommand};
pub use decision::{Pending, unsigned_decision, verify_decision};
pub use envelope::{
    EnvelopeError, MAX_LOG_N, MNEMONIC_LOG_N, check_mnemonic_envelope, check_recipient_envelope, mnemonic_work_factor,
    seal_mnemonic,
};
pub use passphrase::Passphrase;
pub use policy::{SignedPolicy, verify_policy};
pub use pool::{PoolDocument, PoolPin, SignedPool};
pub use proof::{Request, VerifiedRequest, verify_agent_proof, verify_nip98};
pub use recipient::{Recipient, RecipientError, seal_to_recipient, seal_to_recipient_armored};
pub use scan::looks_like_secret;
pub use sealed_key::{SealedKey, SealedKeyError, Stretched, seal_key};
pub use secret::{SecretBytes, SecretText};
pub use signer::{BoxFuture, Signer, SignerError};
pub use unlock::{UnlockError, UnlockOffer, seal_unlock, verify_offer};
