//! The context that the second terminal uses.

use anyhow::Context as _;
use nexus_client::{Context, Contexts, Error, OwnerKey, OwnerKeys, context};
use nexus_core::time::random;
use nexus_lightning::devnet::Place;
use zeroize::Zeroizing;

use super::Host;
use crate::config::Config;
use crate::role;
use crate::session;

/// Writes or renews the development context: its owner key and its account on the development network stay.
///
/// The server's process makes the key once and forgets it: only the file holds it, marked as development.
pub fn write(host: &Host, name: Option<&str>) -> anyhow::Result<Context> {
    let contexts = session::contexts()?;
    let name = name.unwrap_or(context::DEV);
    let mut context = kept(&contexts, name, host)?;
    context.url = host.origin.clone();
    context.pool = Some(host.keys.pool.pin());
    context.devnet = Some(place(&host.base.config)?);
    if context.owner.is_none() {
        context.owner = Some(OwnerKey::development(&OwnerKeys::generate(host.base.entropy.clone())));
    }
    if context.devnet_key.is_none() {
        context.devnet_key = Some(Zeroizing::new(hex::encode(random::<32>(&*host.base.entropy))));
    }
    contexts.save(&context)?;
    Ok(context)
}

fn kept(contexts: &Contexts, name: &str, host: &Host) -> Result<Context, Error> {
    let old = match contexts.load(name) {
        Ok(old) => old,
        Err(Error::NotFound(_)) => return Ok(Context::new(name, host.origin.clone())),
        Err(error) => return Err(error),
    };
    match &old.owner {
        Some(OwnerKey::Encrypted { .. }) => Err(Error::Usage(format!(
            "the context `{name}` is not one of development: its owner key is encrypted\n  next: give --write-context another name"
        ))),
        Some(OwnerKey::Development { .. }) | None => Ok(Context { token: None, ..old }),
    }
}

/// The directory where this machine's network is, which stays when its port changes; else its address.
pub fn place(config: &Config) -> anyhow::Result<String> {
    let text = role::devnet_place(config)?;
    match text.parse().context("reading --devnet")? {
        Place::Url(_) => Ok(text),
        Place::Dir(dir) => Ok(std::path::absolute(&dir).unwrap_or(dir).display().to_string()),
    }
}
