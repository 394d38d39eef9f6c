//! A context, opened: what the owner's commands work with.

use std::path::PathBuf;
use std::sync::Arc;

use nexus_client::{Api, Auth, Context, Contexts, Error, OwnerKeys};
use nexus_core::{Clock, Entropy, Npub};
use nexus_seal::Passphrase;
use serde_json::Value;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::Global;
use crate::output::{self, Output};
use crate::prompt;

pub struct Session {
    pub contexts: Contexts,
    pub context: Context,
    pub api: Api,
    pub output: Output,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    key_passphrase_file: Option<PathBuf>,
}

/// The user's contexts: `NEXUS_CONFIG_DIR`, else the platform's directory.
pub fn contexts() -> Result<Contexts, Error> {
    match std::env::var_os("NEXUS_CONFIG_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(Contexts::at(PathBuf::from(dir))),
        None => Contexts::default_dir().map(Contexts::at),
    }
}

impl Session {
    /// Opens the context in use. Everyday calls use its token, or a development key; nothing is asked of the user yet.
    pub fn open(global: &Global, output: Output) -> Result<Self, Error> {
        let contexts = contexts()?;
        let context = contexts.select(global.context.as_deref())?;
        Self::with(contexts, context, global, output)
    }

    pub fn with(contexts: Contexts, context: Context, global: &Global, output: Output) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let auth = match (&context.token, &context.owner) {
            (_, Some(owner)) if owner.is_development() => {
                Auth::Signer(owner.open(None, Arc::clone(&entropy))?.signer())
            }
            (Some(token), _) => Auth::Bearer(token.clone()),
            (None, _) => Auth::Nobody,
        };
        let api = Api::new(context.url.clone(), auth, Arc::clone(&clock), Arc::clone(&entropy))?;
        let key_passphrase_file = global.key_passphrase_file.clone();
        Ok(Self { contexts, context, api, output, clock, entropy, key_passphrase_file })
    }

    /// The owner key, opened; asks for its passphrase if it has one.
    pub fn owner_keys(&self) -> Result<OwnerKeys, Error> {
        let Some(owner) = &self.context.owner else {
            return Err(Error::NoOwnerKey(self.context.name.clone()));
        };
        if owner.is_development() {
            return owner.open(None, Arc::clone(&self.entropy));
        }
        let file = self.key_passphrase_file.as_deref();
        let passphrase = prompt::secret("passphrase of the owner key", file, "--key-passphrase-file")?;
        owner.open(Some(&Passphrase::existing(passphrase.as_str())), Arc::clone(&self.entropy))
    }

    pub fn key_passphrase_file(&self) -> Option<&std::path::Path> {
        self.key_passphrase_file.as_deref()
    }

    /// The same host, asked by the owner key itself: for what a token may not do.
    pub fn as_owner(&self, keys: &OwnerKeys) -> Api {
        self.api.asked_by(Auth::Signer(keys.signer()))
    }

    /// The npub of an agent given by name or npub.
    pub async fn agent(&self, name: &str) -> Result<Npub, Error> {
        if let Ok(npub) = name.parse() {
            return Ok(npub);
        }
        nexus_core::agent::validate_name(name).map_err(|error| {
            Error::Usage(format!("`{}`: {error}\n  next: give a name or an npub", output::printable(name)))
        })?;
        let page = self.api.get(&format!("/v1/agents?name={name}&limit=1")).await?;
        if let Some(found) = page["agents"].as_array().and_then(|agents| agents.first()) {
            return npub_of(found);
        }
        Err(Error::NotFound(format!(
            "no agent named `{name}` in this account\n  next: `nexus agent list` shows those there are"
        )))
    }
}

/// The npub in an answer that describes an agent.
pub fn npub_of(agent: &Value) -> Result<Npub, Error> {
    agent["npub"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::Protocol { attempted: "reading an agent", why: "it has no npub".to_owned() })
}
