//! Who can open what people read of an agent: the owner and the readers that its policy names hold the view key, each in a
//! wrap. Who is named no more reads nothing new: the key is changed, and the others get the next one.

use std::collections::BTreeSet;

use nexus_core::Npub;
use nexus_core::policy::Custody;
use nexus_seal::{Wrap, WrapKey, WrapRecipient};
use nexus_store::agent;
use nexus_vault::VaultError;

use crate::error::TurnError;
use crate::ledger::Pen;
use crate::secrets::signer_problem;
use crate::unlock::{Opened, save_state};

const RETRY_MS: u64 = 60_000;

/// Readers among stored wraps, by the number of the view key that is wrapped.
pub(crate) fn among(wraps: &[Wrap]) -> BTreeSet<(u32, Npub)> {
    let reader = |wrap: &Wrap| match wrap.recipient {
        WrapRecipient::Reader(npub) if wrap.key == WrapKey::View => Some((wrap.number, npub)),
        _ => None,
    };
    wraps.iter().filter_map(reader).collect()
}

/// Makes the wraps those that the policy asks for, in one batch. Nothing is written where they are.
pub(crate) async fn tend(pen: &Pen<'_>, opened: &mut Opened) -> Result<(), TurnError> {
    let Some(policy) = opened.policy() else { return Ok(()) };
    let wanted: BTreeSet<Npub> = policy.readers.iter().copied().chain([opened.owner]).collect();
    let history = policy.reader_history;
    let held: BTreeSet<Npub> = opened.readers.iter().map(|(_, npub)| *npub).collect();
    let gone: Vec<Npub> = held.difference(&wanted).copied().collect();
    let all: Vec<Npub> = wanted.iter().copied().collect();
    let current = opened.keys.view.number();
    let mut wraps = Vec::new();
    if !gone.is_empty() {
        let entropy = &*pen.host.entropy;
        wraps.extend(opened.keys.rotate_view(&*opened.signer, &all, entropy).await.map_err(failed)?);
    } else {
        let missing: Vec<Npub> =
            all.iter().filter(|npub| !opened.readers.contains(&(current, **npub))).copied().collect();
        if !missing.is_empty() {
            wraps.extend(opened.keys.view_wraps(&*opened.signer, &missing).await.map_err(failed)?);
        }
    }
    if history {
        for key in &opened.keys.older_views {
            let lacks = |npub: &&Npub| !opened.readers.contains(&(key.number(), **npub));
            let missing: Vec<Npub> = all.iter().filter(lacks).copied().collect();
            wraps.extend(opened.keys.view_wraps_of(key, &*opened.signer, &missing).await.map_err(failed)?);
        }
    }
    if wraps.is_empty() {
        return remember(pen, opened).await;
    }
    let stored = wraps.iter().map(|wrap| agent::Wrap {
        key: wrap.key.as_str().to_owned(),
        number: wrap.number,
        recipient: wrap.recipient.to_string(),
        ciphertext: wrap.ciphertext.clone(),
    });
    let removed: Vec<String> = gone.iter().map(|npub| WrapRecipient::Reader(*npub).to_string()).collect();
    let store = &pen.host.store;
    agent::set_readers(store, pen.fence()?, pen.npub, pen.generation, stored.collect(), &removed).await?;
    opened.readers.retain(|(_, npub)| !gone.contains(npub));
    opened.readers.extend(among(&wraps));
    if opened.custody == Custody::Bunker {
        pen.host.attended().replace_keys(pen.npub, pen.generation, &opened.keys);
    }
    tracing::info!(npub = %pen.npub.short(), readers = wanted.len(), removed = gone.len(), "readers of an agent changed");
    remember(pen, opened).await
}

/// Keeps in the state which view key is the newest: with an older one in its place, a reader who was removed would read on.
async fn remember(pen: &Pen<'_>, opened: &mut Opened) -> Result<(), TurnError> {
    let number = opened.keys.view.number();
    if opened.state.view_key >= number {
        return Ok(());
    }
    opened.state.view_key = number;
    save_state(pen.host, pen.generation, opened).await
}

fn failed(error: VaultError) -> TurnError {
    match error {
        VaultError::Signer(error) => signer_problem(&error),
        other => TurnError::parked("view_key", other.to_string(), RETRY_MS),
    }
}
