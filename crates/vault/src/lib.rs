//! Where agents' secrets are open.
//!
//! Mnemonic and what is derived from it, the runtime envelope and the wraps, data, view and inbox keys, the local
//! signer. Only workers and the owner's own client may link this crate: a control plane that cannot link it cannot
//! open an agent, whatever it is told to do. Everything secret is wiped when dropped and never printed.

pub mod agent;
mod archive;
mod backup;
mod bunker;
mod cipher;
mod derive;
mod error;
pub mod fuzz;
mod identity;
pub mod keys;
mod mnemonic;
mod new_agent;
mod owner_key;
mod pool;
mod pylon;
mod runner;
mod runtime;
mod signer;
mod unlock;

pub use agent::AgentSecrets;
pub use archive::{ArchiveKey, ArchiveLock, ArchiveWriter, open_archive};
pub use backup::{OpenedBackup, Resealed};
pub use bunker::{BunkerSecrets, RuntimeSecrets};
pub use cipher::{DataKey, ViewKey};
pub use derive::WalletSeed;
pub use error::VaultError;
pub use identity::{InboxKey, PoolIdentity};
pub use keys::{AgentKeys, open_view_wrap};
pub use mnemonic::{Mnemonic, open_mnemonic};
pub use new_agent::{CreatedAgent, Host, NewAgent};
pub use owner_key::{decrypt_owner_key, encrypt_owner_key};
pub use pool::{sign_first_pool, sign_successor};
pub use pylon::{is_pylon_identity, open_pylon_identity, seal_pylon_identity};
pub use runner::{open_runner_key, seal_runner_key};
pub use runtime::Remote;
pub use signer::LocalSigner;
pub use unlock::UnlockSlot;
