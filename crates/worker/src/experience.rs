//! What is known of providers when one is chosen: the agent's own experience and that of its account.
//!
//! The account's is kept in memory for some seconds, since it is a sum over all its agents; the agent's own is read each time
//! and counted once more beside it. So it is always fresh, and weighs twice what another agent of the account met with.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nexus_core::score::{self, Week};
use nexus_core::{AccountId, MonoMs, Npub};
use nexus_store::provider::{self, Experience};

use crate::error::TurnError;
use crate::host::Host;

/// How long an account's experience is kept: what other workers wrote since is not in it.
const KEPT_MS: u64 = 15_000;
/// Accounts kept at once.
const MAX_KEPT: usize = 1_024;

#[derive(Default)]
pub(crate) struct Memory {
    accounts: Mutex<HashMap<AccountId, (MonoMs, Vec<Experience>)>>,
}

/// 0 to 100 for each provider that anything is known of.
pub(crate) type Trusted = HashMap<Npub, u32>;

impl Memory {
    pub async fn trusted(&self, host: &Host, account: AccountId, npub: Npub) -> Result<Trusted, TurnError> {
        let now = host.now();
        let own = provider::own(&host.store, npub, now).await?;
        let theirs = match self.kept(host.mono(), account) {
            Some(theirs) => theirs,
            None => {
                let theirs = provider::of_account(&host.store, account, now).await?;
                self.keep(host.mono(), account, theirs.clone());
                theirs
            }
        };
        let mut weeks: HashMap<Npub, Vec<Week>> = HashMap::new();
        for known in own.iter().chain(&theirs) {
            weeks.entry(known.provider).or_default().push(known.week);
        }
        Ok(weeks.into_iter().map(|(provider, weeks)| (provider, score::trust(&weeks, now))).collect())
    }

    /// Something was added to an account's experience.
    pub fn forget(&self, account: AccountId) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).remove(&account);
    }

    fn kept(&self, now: MonoMs, account: AccountId) -> Option<Vec<Experience>> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.get(&account).filter(|(at, _)| now.since(*at) < KEPT_MS).map(|(_, known)| known.clone())
    }

    fn keep(&self, now: MonoMs, account: AccountId, known: Vec<Experience>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MAX_KEPT && !accounts.contains_key(&account) {
            let oldest = accounts.iter().min_by_key(|(_, (at, _))| *at).map(|(account, _)| *account);
            oldest.map(|oldest| accounts.remove(&oldest));
        }
        accounts.insert(account, (now, known));
    }
}
