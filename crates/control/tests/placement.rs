//! Agents get a worker that lives, and another when it dies.

mod common;

use std::time::Duration;

use common::worker::Worker;
use common::{By, Host, Key};
use nexus_store::agent::Change;
use nexus_store::{Conflict, StoreError};
use serde_json::json;

async fn running(host: &Host, owner: &Key, agent: u8) -> String {
    let npub = host.create(owner, &Key::new(agent), &format!("agent{agent}")).await;
    host.post(By::Key(owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    npub
}

#[tokio::test]
async fn a_dead_workers_agents_go_on_elsewhere_and_its_writes_are_stale() {
    let host = Host::start_with(|config| config.lease_ms = 2_000).await;
    let owner = Key::new(1);
    let first = Worker::start(&host, 1).await;
    let npub = running(&host, &owner, 10).await;
    let before = first.hosts(&npub).await;
    first.change(&before, Change::default(), Vec::new()).await.unwrap();
    let second = Worker::start(&host, 2).await;
    let died = tokio::time::Instant::now();
    let old = first.fence;
    drop(first);
    let after = second.hosts(&npub).await;
    assert!(died.elapsed() >= Duration::from_millis(1_500), "declared dead before the lease was over");
    assert!(after.generation > before.generation);
    // It comes back, thinking it is still the host.
    let now = nexus_core::Clock::now(&*host.clock);
    let late = nexus_store::agent::change(
        &host.store,
        old,
        before.npub,
        before.generation,
        now,
        Change::default(),
        Vec::new(),
    );
    assert!(late.await.unwrap_err().is_stale());
    assert!(nexus_store::worker::beat(&host.store, old, 0, now).await.unwrap_err().is_stale());
}

#[tokio::test]
async fn agents_spread_over_workers_and_a_region_is_home() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let (near, far) = (Worker::of_region(&host, 1, "eu").await, Worker::of_region(&host, 2, "us").await);
    // Both have been seen to live once each has an agent.
    let mut homes = Vec::new();
    for (number, region) in [(10, "eu"), (11, "us"), (12, "eu"), (13, "us")] {
        let npub = host.create(&owner, &Key::new(number), &format!("agent{number}")).await;
        let path = format!("/v1/agents/{npub}");
        let body = json!({ "config": { "region": region } }).to_string().into_bytes();
        host.send(By::Key(&owner), "PATCH", &path, body, &[("if-match", "*")]).await.ok();
        homes.push((npub, region));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (npub, region) in homes {
        host.post(By::Key(&owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
        if region == "eu" {
            near.hosts(&npub).await
        } else {
            far.hosts(&npub).await
        };
    }
}

#[tokio::test]
async fn a_stopped_agent_is_placed_only_while_something_needs_it() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let worker = Worker::start(&host, 1).await;
    let npub = running(&host, &owner, 10).await;
    let agent = worker.hosts(&npub).await;
    host.post(By::Key(&owner), &format!("/v1/agents/{npub}/stop"), &json!({})).await.ok();
    for _ in 0..200 {
        let now = nexus_store::agent::get(&host.store, agent.npub).await.unwrap().unwrap();
        if now.worker.is_none() {
            assert!(now.generation > agent.generation);
            let late = worker.change(&agent, Change::default(), Vec::new()).await;
            assert!(late.unwrap_err().is_stale());
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it stayed placed");
}

#[tokio::test]
async fn a_reconciler_that_lost_its_term_places_nothing() {
    let host = Host::start_with(|config| config.sole_reconciler = false).await;
    let owner = Key::new(1);
    let worker = Worker::start(&host, 1).await;
    worker.hosts(&running(&host, &owner, 10).await).await;
    let (term, _) = nexus_store::placement::current_term(&host.store).await.unwrap().unwrap();
    let now = nexus_core::Clock::now(&*host.clock);
    let taken = nexus_store::placement::take_term(&host.store, "another", now).await.unwrap();
    assert!(taken.0 > term.0);
    let stale = nexus_store::placement::beat_term(&host.store, term, now).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })));
    // The other one lives: it beats. Ours watches, and leaves new agents alone.
    let npub = host.create(&owner, &Key::new(11), "later").await;
    host.post(By::Key(&owner), &format!("/v1/agents/{npub}/start"), &json!({})).await.ok();
    for _ in 0..10 {
        nexus_store::placement::beat_term(&host.store, taken, now).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waiting = nexus_store::agent::get(&host.store, npub.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(waiting.worker, None);
    let text = host.get(By::Nobody, "/metrics").await.ok().text;
    assert!(text.contains("nexus_reconciler_active 0"), "{text}");
    // It falls silent: after a lease ours takes over.
    worker.hosts(&npub).await;
}

#[tokio::test]
async fn one_snapshot_is_carried_out_once() {
    let host = Host::start().await;
    let owner = Key::new(1);
    let worker = Worker::start(&host, 1).await;
    let npub = running(&host, &owner, 10).await;
    let agent = worker.hosts(&npub).await;
    let (term, _) = nexus_store::placement::current_term(&host.store).await.unwrap().unwrap();
    let step = nexus_core::placement::Step {
        npub: agent.npub,
        generation: nexus_core::Generation(agent.generation.0 - 1),
        from: None,
        to: worker.fence.worker,
        purpose: nexus_core::status::Purpose::Run,
    };
    let now = nexus_core::Clock::now(&*host.clock);
    let again = nexus_store::placement::place(&host.store, term, &step, now).await.unwrap_err();
    assert_eq!(again.conflict(), Some(&Conflict::Version));
}
