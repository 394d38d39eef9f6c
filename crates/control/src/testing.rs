//! A control plane without a listener, over a database in memory, with one agent.

use std::sync::Arc;

use nexus_bus::LocalBus;
use nexus_core::status::Hosting;
use nexus_core::{AccountId, AgentConfig, Npub, UnixMs};
use nexus_store::account::{self, Account};
use nexus_store::agent::{self, NewAgent, Sealed};
use nexus_store::{Audit, Store};
use nexus_testkit::{ManualClock, SystemEntropy};
use tokio_util::sync::CancellationToken;

use crate::app::Shared;
use crate::{ControlConfig, ControlParts, Metrics};

pub const START: UnixMs = UnixMs(1_790_000_000_000);
pub const AGENT: Npub = Npub::from_bytes([2; 32]);

pub fn app(store: &Store, clock: &Arc<ManualClock>) -> Shared {
    app_with(store, clock, ControlConfig::new("http://127.0.0.1".parse().unwrap()))
}

pub fn app_with(store: &Store, clock: &Arc<ManualClock>, config: ControlConfig) -> Shared {
    let parts = ControlParts {
        store: store.clone(),
        bus: LocalBus::new(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        config,
        metrics: Arc::new(Metrics::default()),
        stop: CancellationToken::new(),
    };
    crate::api::router(parts).1
}

pub fn audit(action: &str) -> Audit {
    Audit {
        at: START,
        account: Some(AccountId::new(START, [1; 10])),
        actor: "test".into(),
        action: action.into(),
        target: String::new(),
        detail: "{}".into(),
    }
}

pub async fn hosted(store: &Store) {
    let (id, owner) = (AccountId::new(START, [1; 10]), Npub::from_bytes([1; 32]));
    let account =
        Account { id, owner, name: String::new(), plan: "local".into(), hosting: Hosting::Paid, created_at: START };
    account::ensure(store, account, audit("account.create")).await.unwrap();
    let new = NewAgent {
        npub: AGENT,
        account: id,
        name: "ada".into(),
        config: AgentConfig::default(),
        sealed: Sealed::default(),
        wraps: Vec::new(),
        state: None,
        hosting: Hosting::Paid,
        reason: None,
        created_at: START,
    };
    agent::create(store, new, None, audit("agent.create")).await.unwrap();
}
