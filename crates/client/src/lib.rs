//! The owner's side: contexts, signed requests, creating an agent, its policy, and opening what only the owner can read.
//!
//! Every secret stays here: what leaves this machine is signed or sealed already. There is no server code.

pub mod api;
pub mod approval;
pub mod backup;
pub mod bunker;
pub mod command;
pub mod context;
pub mod create;
pub mod error;
pub mod events;
pub mod file;
pub mod manifest;
pub mod moving;
pub mod owner;
pub mod policy;
pub mod pool;
pub mod proof;
pub mod pylon;
pub mod unlock;
pub mod view;

pub use api::{Api, Auth};
pub use context::{Context, Contexts};
pub use error::{Error, Exit};
pub use owner::{OwnerKey, OwnerKeys};
