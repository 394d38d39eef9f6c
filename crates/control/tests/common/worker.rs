//! A worker as the control plane sees one: registered, beating, and writing under its fence.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

use std::sync::Arc;
use std::time::Duration;

use nexus_core::lifecycle::Lifecycle;
use nexus_core::{Clock, Msat, Npub, UnixMs, WorkerId};
use nexus_store::agent::{self, Agent, Change};
use nexus_store::event::NewEvent;
use nexus_store::worker::{self, NewWorker};
use nexus_store::{Fence, Store};
use tokio::task::JoinHandle;

use super::Host;

/// Stops beating when dropped, as a crash would.
pub struct Worker {
    pub fence: Fence,
    store: Store,
    clock: Arc<nexus_testkit::TestClock>,
    beats: JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Worker {
    pub async fn start(host: &Host, number: u8) -> Self {
        Self::of_region(host, number, "home").await
    }

    pub async fn of_region(host: &Host, number: u8, region: &str) -> Self {
        let (store, clock) = (host.store.clone(), host.clock.clone());
        let new = NewWorker {
            id: WorkerId::new(UnixMs(1_000), [number; 10]),
            region: region.into(),
            pool: "default".into(),
            capacity: 100,
            version: 1,
        };
        let fence = worker::register(&store, new, clock.now()).await.unwrap();
        let (beating, time) = (store.clone(), clock.clone());
        let beats = tokio::spawn(async move {
            while worker::beat(&beating, fence, i64::MAX, time.now()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { fence, store, clock, beats }
    }

    /// Waits until this worker has the agent.
    pub async fn hosts(&self, npub: &str) -> Agent {
        let npub: Npub = npub.parse().unwrap();
        for _ in 0..400 {
            let agent = agent::get(&self.store, npub).await.unwrap().unwrap();
            if agent.worker == Some(self.fence.worker) {
                return agent;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the agent was not placed here");
    }

    pub async fn change(&self, agent: &Agent, change: Change, events: Vec<NewEvent>) -> nexus_store::Result<Vec<i64>> {
        let (npub, generation) = (agent.npub, agent.generation);
        agent::change(&self.store, self.fence, npub, generation, self.clock.now(), change, events).await
    }

    /// Funds it, as far as rows go.
    pub async fn fund(&self, agent: &Agent, sats: u64) {
        let change =
            Change { balance: Some(Msat::sats(sats)), lifecycle: Some(Lifecycle::Active), ..Change::default() };
        self.change(agent, change, Vec::new()).await.unwrap();
    }

    pub fn at(&self) -> (Fence, UnixMs) {
        (self.fence, self.clock.now())
    }
}
