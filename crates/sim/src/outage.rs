//! All wallets' backends are away for minutes, past the end of the trouble: agents say so, nothing is lost, and everything
//! resolves afterwards.

use std::time::Duration;

use nexus_core::Clock;
use nexus_core::policy::Custody;
use nexus_core::status::{Desired, Hosting, Reason};
use nexus_store::{StoreError, agent, inbox, tick};

use crate::agents::Agent;
use crate::counts;
use crate::people::Front;
use crate::world::World;

/// What an agent says whose wallet cannot be reached.
const SAYS: &str = "wallet_unreachable";
/// How long an agent may take to say so: longer than any pause between two looks of its worker.
const SAYS_WITHIN_MS: u64 = 40_000;
const LOOK: Duration = Duration::from_millis(500);

impl Front {
    /// What is left of it when the trouble is over: each agent is written to, says why it waits, and goes on waiting.
    pub async fn wallets_away(&self) -> Result<(), StoreError> {
        let Some((from, ms)) = self.world.plan.wallets_away else { return Ok(()) };
        let end = from + ms;
        let now = self.world.clock.mono().0;
        if now + SAYS_WITHIN_MS < end {
            for owned in &self.world.agents {
                let Some(item) = self.mention(owned.npub) else { continue };
                self.deliver(item).await;
            }
            let until = self.world.clock.mono().0 + SAYS_WITHIN_MS;
            let mut silent: Vec<&Agent> = self.world.agents.iter().collect();
            while !silent.is_empty() && self.world.clock.mono().0 < until.min(end) {
                tokio::time::sleep(LOOK).await;
                let mut still = Vec::new();
                for owned in silent {
                    if !says(&self.world, owned).await? {
                        still.push(owned);
                    }
                }
                silent = still;
            }
            for owned in silent.iter().filter(|_| self.world.clock.mono().0 >= until) {
                self.world.trace.violated(format_args!("{} does not say that its wallet is away", owned.name));
            }
        }
        let left = end.saturating_sub(self.world.clock.mono().0);
        tokio::time::sleep(Duration::from_millis(left)).await;
        Ok(())
    }
}

/// Whether an agent says that its wallet is away, or has another reason to wait, or nothing to do.
async fn says(world: &World, owned: &Agent) -> Result<bool, StoreError> {
    let Some(found) = agent::get(&world.store, owned.npub).await? else { return Ok(true) };
    let code = found.reason.as_ref().map(|Reason { code, .. }| code.as_str());
    if code == Some(SAYS) {
        world.count(counts::WALLET_MISSED);
        return Ok(true);
    }
    let other = found.hosting == Hosting::Suspended || found.desired == Desired::Stopped || code.is_some();
    // A signer elsewhere may be away as well.
    let idle = owned.custody == Custody::Bunker || inbox::pending(&world.store, owned.npub, 1).await?.is_empty();
    Ok(other || idle || tick::open(&world.store, owned.npub).await?.is_some())
}
