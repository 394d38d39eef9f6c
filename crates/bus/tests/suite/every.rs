//! What every bus does.

use std::collections::HashSet;
use std::time::Duration;

use futures::FutureExt;
use nexus_bus::{Closed, Heard, SharedBus, Wake};

use crate::follower::{self, Mischief};
use crate::rig::{Rig, connected, event, eventually, flows, next, next_wake, one_of_each};

macro_rules! on_every_bus {
    ($($name:ident($capacity:expr)),* $(,)?) => {
        mod local {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Rig::local($capacity)).await;
            })*
        }
        mod nats {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Rig::nats($capacity)).await;
            })*
        }
    };
}

on_every_bus![
    everyone_hears_everything_in_order(64),
    what_came_before_joining_is_not_heard(64),
    a_slow_listener_is_told_to_reread_and_goes_on(8),
    a_slow_listener_slows_nobody(8),
    listeners_that_leave_harm_nobody(64),
    a_given_up_wait_loses_nothing(64),
    many_publish_at_once(2_048),
    publishing_needs_no_patience(64),
    the_last_handle_closes_the_bus(64),
    lost_doubled_and_late_messages_are_harmless(64),
    every_message_lost_doubled_or_late_is_harmless(64),
    a_bus_that_is_down_is_only_slower(64),
];

async fn everyone_hears_everything_in_order(rig: Rig) {
    let parts: Vec<SharedBus> = vec![rig.join().await, rig.join().await, rig.join().await];
    let mut listeners: Vec<_> = parts.iter().flat_map(|bus| [bus.subscribe(), bus.subscribe()]).collect();
    for bus in &parts {
        for wake in one_of_each() {
            bus.publish(wake);
        }
        for listener in &mut listeners {
            let mut heard = HashSet::new();
            for _ in one_of_each() {
                heard.insert(next_wake(listener).await);
            }
            assert_eq!(heard, one_of_each().into());
        }
    }
    (0..50).for_each(|seq| parts[0].publish(event(seq)));
    for listener in &mut listeners {
        for seq in 0..50 {
            assert_eq!(next(listener).await, Heard::Wake(event(seq)));
        }
    }
}

async fn what_came_before_joining_is_not_heard(rig: Rig) {
    let (ours, theirs) = (rig.join().await, rig.join().await);
    theirs.publish(event(1));
    rig.arrived(&*ours, 1).await;
    let mut late = ours.subscribe();
    theirs.publish(event(2));
    assert_eq!(next(&mut late).await, Heard::Wake(event(2)));
}

async fn a_slow_listener_is_told_to_reread_and_goes_on(rig: Rig) {
    let (ours, theirs) = (rig.join().await, rig.join().await);
    let mut slow = ours.subscribe();
    (1..=50).for_each(|seq| theirs.publish(event(seq)));
    rig.arrived(&*ours, 50).await;
    assert_eq!(next(&mut slow).await, Heard::Lagged);
    for seq in 43..=50 {
        assert_eq!(next(&mut slow).await, Heard::Wake(event(seq)));
    }
    theirs.publish(event(51));
    assert_eq!(next(&mut slow).await, Heard::Wake(event(51)));
}

async fn a_slow_listener_slows_nobody(rig: Rig) {
    let bus = rig.join().await;
    let _sleeps = bus.subscribe();
    let mut listens = bus.subscribe();
    for seq in 0..100 {
        bus.publish(event(seq));
        assert_eq!(next(&mut listens).await, Heard::Wake(event(seq)));
    }
}

async fn listeners_that_leave_harm_nobody(rig: Rig) {
    let bus = rig.join().await;
    bus.publish(event(1));
    rig.arrived(&*bus, 1).await;
    let (leaves, mut stays) = (bus.subscribe(), bus.subscribe());
    drop(leaves);
    bus.publish(event(2));
    assert_eq!(next(&mut stays).await, Heard::Wake(event(2)));
}

async fn a_given_up_wait_loses_nothing(rig: Rig) {
    let bus = rig.join().await;
    let mut listener = bus.subscribe();
    for seq in 0..20 {
        assert_eq!(listener.recv().now_or_never(), None);
        let waited = tokio::time::timeout(Duration::from_millis(1), listener.recv()).await;
        assert!(waited.is_err());
        bus.publish(event(seq));
        assert_eq!(next(&mut listener).await, Heard::Wake(event(seq)));
    }
}

async fn many_publish_at_once(rig: Rig) {
    let (first, second) = (rig.join().await, rig.join().await);
    let mut listener = first.subscribe();
    let publishers = (0..10_i64).map(|number| {
        let bus = if number % 2 == 0 { first.clone() } else { second.clone() };
        std::thread::spawn(move || (0..100).for_each(|seq| bus.publish(event(number * 100 + seq))))
    });
    publishers.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    let mut heard = HashSet::new();
    while heard.len() < 1_000 {
        assert!(heard.insert(next_wake(&mut listener).await), "heard twice");
    }
}

/// Far more than any queue holds, from a thread without a runtime, while the bus's own runtime stands still.
async fn publishing_needs_no_patience(rig: Rig) {
    const COUNT: u64 = 20_000;
    let bus = rig.join().await;
    let mut listener = bus.subscribe();
    let ours = bus.clone();
    std::thread::spawn(move || (0..COUNT).for_each(|_| ours.publish(Wake::Reconcile))).join().unwrap();
    next(&mut listener).await;
    if matches!(rig, Rig::Nats(..)) {
        eventually("each was published or dropped", || {
            let health = bus.health();
            health.published + health.dropped == COUNT
        })
        .await;
        assert!(bus.health().dropped > 0);
    }
}

async fn the_last_handle_closes_the_bus(rig: Rig) {
    let (ours, theirs) = (rig.join().await, rig.join().await);
    let (mut listener, mut others) = (ours.subscribe(), theirs.subscribe());
    let clone = ours.clone();
    drop(ours);
    clone.publish(event(1));
    assert_eq!(next(&mut listener).await, Heard::Wake(event(1)));
    // What waits then still goes out, to those who are not closed with it.
    clone.publish(event(2));
    drop(clone);
    drop(theirs);
    drop(rig);
    while listener.recv().await.is_ok() {}
    assert_eq!(listener.recv().await, Err(Closed));
    while others.recv().await.is_ok() {}
}

async fn lost_doubled_and_late_messages_are_harmless(rig: Rig) {
    for seed in 0..5 {
        follower::reaches_the_truth(rig.join().await, rig.join().await, Mischief::Mixed, seed).await;
    }
}

async fn every_message_lost_doubled_or_late_is_harmless(rig: Rig) {
    for mischief in [Mischief::Lost, Mischief::Doubled, Mischief::Late] {
        follower::reaches_the_truth(rig.join().await, rig.join().await, mischief, 1).await;
    }
}

/// With the server gone before the first message and back only after the last row was read.
async fn a_bus_that_is_down_is_only_slower(mut rig: Rig) {
    let (writes, reads) = (rig.join().await, rig.join().await);
    rig.down();
    follower::reaches_the_truth(writes.clone(), reads.clone(), Mischief::Mixed, 1).await;
    let mut listener = reads.subscribe();
    rig.up();
    connected(&*writes).await;
    connected(&*reads).await;
    flows(&*writes, &mut listener).await;
    follower::reaches_the_truth(writes, reads, Mischief::Mixed, 2).await;
}
