//! A look at an agent's schedules: each run once, whatever is repeated, and nothing by who was replaced.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod common;
#[path = "common/suite.rs"]
mod suite;

use common::{ALICE, Kind, NOW, World, audit, sql};
use nexus_core::UnixMs;
use nexus_core::event::EventBody;
use nexus_core::schedule::plan::{Schedule, When};
use nexus_core::status::Desired;
use nexus_core::trigger::Trigger;
use nexus_store::event::NewEvent;
use nexus_store::schedule::{self, Looked};
use nexus_store::{Conflict, agent, inbox};

fn look(runs: &[i64], next: Option<i64>) -> Looked {
    let missed = EventBody::TickSkipped { trigger: Trigger::Schedule, reason: "missed: 1 run".into() };
    Looked {
        config_version: 1,
        upto: NOW,
        next: next.map(|ms| NOW.plus_ms(ms)),
        runs: runs.iter().map(|ms| (format!("schedule:tea:{}", NOW.0 + ms), NOW.plus_ms(*ms))).collect(),
        missed: vec![NewEvent::new(NOW, missed)],
    }
}

async fn each_run_is_put_once(world: World) {
    let store = &world.store;
    let looked = |looked| schedule::looked(store, world.fence, ALICE, world.generation, looked);
    // More than one batch of them.
    let many: Vec<i64> = (0..70).map(|n| n - 70).collect();
    looked(look(&many, Some(5))).await.unwrap();
    looked(look(&many, Some(5))).await.unwrap();
    let pending = inbox::pending(store, ALICE, 256).await.unwrap();
    assert_eq!(pending.len(), 70);
    assert!(pending.iter().all(|item| item.trigger == Trigger::Schedule && item.payload.is_empty()));
    let open = schedule::open_runs(store, ALICE).await.unwrap();
    assert!(open.len() == 70 && open.iter().all(|run| run.name == "tea" && run.tick.is_none()));
    let ids: Vec<i64> = pending.iter().map(|item| item.id).collect();
    inbox::discard(store, world.fence, ALICE, world.generation, &ids, "done").await.unwrap();
    looked(look(&many, None)).await.unwrap();
    assert!(schedule::open_runs(store, ALICE).await.unwrap().is_empty(), "done is done");
    let alice = agent::get(store, ALICE).await.unwrap().unwrap();
    assert_eq!((alice.schedules_at, alice.next_schedule_at), (Some(NOW), None));
}

async fn a_replaced_or_outdated_look_changes_nothing(world: World) {
    let store = &world.store;
    let old = nexus_core::Generation(world.generation.0 - 1);
    let stale = schedule::looked(store, world.fence, ALICE, old, look(&[-1], None)).await;
    assert!(stale.unwrap_err().is_stale());
    assert!(inbox::pending(store, ALICE, 9).await.unwrap().is_empty());
    let other = Looked { config_version: 2, ..look(&[], Some(1)) };
    let outdated = schedule::looked(store, world.fence, ALICE, world.generation, other).await;
    assert_eq!(outdated.unwrap_err().conflict(), Some(&Conflict::Version));
    assert_eq!(agent::get(store, ALICE).await.unwrap().unwrap().next_schedule_at, None);
}

async fn what_the_owner_changes_begins_then(world: World) {
    let store = &world.store;
    let of = || async { agent::get(store, ALICE).await.unwrap().unwrap() };
    let mut alice = of().await;
    let at = |ms| nexus_store::Audit { at: NOW.plus_ms(ms), ..audit("change") };
    alice.config.about = "new".into();
    agent::set_config(store, ALICE, alice.config_version, "alice", &alice.config, at(1)).await.unwrap();
    assert_eq!(of().await.schedules_at, alice.schedules_at, "nothing of the schedules changed");
    let tea = Schedule {
        name: "tea".into(),
        when: When::Every { secs: 60, from_ms: UnixMs(0) },
        overlap: Default::default(),
        catch_up: Default::default(),
        window_secs: 86_400,
    };
    alice.config.schedules.push(tea);
    agent::set_config(store, ALICE, alice.config_version + 1, "alice", &alice.config, at(2)).await.unwrap();
    assert_eq!(of().await.schedules_at, Some(NOW.plus_ms(2)));
    agent::set_desired(store, ALICE, Desired::Stopped, false, None, at(3)).await.unwrap();
    assert_eq!(of().await.schedules_at, Some(NOW.plus_ms(2)));
    agent::set_desired(store, ALICE, Desired::Running, false, None, at(4)).await.unwrap();
    assert_eq!(of().await.schedules_at, Some(NOW.plus_ms(4)), "what was due while it was stopped is not made");
    agent::set_desired(store, ALICE, Desired::Running, false, None, at(5)).await.unwrap();
    assert_eq!(of().await.schedules_at, Some(NOW.plus_ms(4)), "started before");
    assert!(sql(&world, "SELECT config FROM agent").contains("tea"));
}

suite::suite!(each_run_is_put_once, a_replaced_or_outdated_look_changes_nothing, what_the_owner_changes_begins_then,);
