//! A server comes and goes, is shared with others, and lets strangers speak.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{Bus, Heard, NatsBus, NatsConfig, Topic};
use nexus_testkit::SystemEntropy;
use nexus_testkit::nats::NatsServer;

use crate::cut::Wire;
use crate::rig::{config, connected, event, eventually, flows, lagged, next, one_of_each, open};

#[tokio::test]
async fn after_a_restart_everyone_rereads_and_goes_on() {
    let mut server = NatsServer::start();
    let (first, second) = (open(config(&server)), open(config(&server)));
    connected(&*first).await;
    connected(&*second).await;
    let mut listeners = [first.subscribe(), first.subscribe(), second.subscribe()];
    for round in 0..2 {
        server.stop();
        eventually("the loss is seen", || !first.health().connected && !second.health().connected).await;
        assert!(first.health().problem.is_some());
        server.start_again();
        for listener in &mut listeners {
            lagged(listener).await;
        }
        connected(&*first).await;
        connected(&*second).await;
        assert_eq!(first.health().problem, None);
        first.publish(event(round));
        for listener in &mut listeners {
            while next(listener).await != Heard::Wake(event(round)) {}
        }
    }
    assert_eq!(first.health().connects, 3);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut server = NatsServer::stopped();
    let bus = open(NatsConfig { queue: 10, ..config(&server) });
    let mut listener = bus.subscribe();
    eventually("the reason is shown", || bus.health().problem.is_some_and(|why| why.starts_with("cannot connect")))
        .await;
    // Nothing blocks, nothing fails, what does not fit is counted.
    (0..100).for_each(|seq| bus.publish(event(seq)));
    assert_eq!((bus.health().connected, bus.health().dropped), (false, 90));
    server.start_again();
    connected(&*bus).await;
    lagged(&mut listener).await;
    flows(&*bus, &mut listener).await;
    assert_eq!(bus.health().dropped, 90);
}

#[tokio::test]
async fn a_cut_wire_is_healed_and_everyone_rereads() {
    let server = NatsServer::start();
    let wire = Wire::to(server.port()).await;
    let ours = open(NatsConfig { urls: vec![wire.url.clone()], ..config(&server) });
    let theirs = open(config(&server));
    connected(&*ours).await;
    connected(&*theirs).await;
    let mut listener = ours.subscribe();
    for round in 0..5 {
        wire.cut();
        eventually("the cut is seen", || !ours.health().connected || ours.health().connects > round + 1).await;
        // Lost for us, as wakes may be.
        theirs.publish(event(1));
        lagged(&mut listener).await;
        flows(&*theirs, &mut listener).await;
        flows(&*ours, &mut listener).await;
    }
    assert!(theirs.health().connected && theirs.health().connects == 1);
}

/// Its end of the connection stays open and says nothing, as when a machine or a network is gone.
#[tokio::test]
async fn a_frozen_server_is_noticed_and_everyone_rereads_when_it_thaws() {
    let server = NatsServer::start();
    let times = NatsConfig { ping_interval_ms: 100, connect_timeout_ms: 200, ..config(&server) };
    let bus = open(times);
    connected(&*bus).await;
    let mut listener = bus.subscribe();
    server.freeze();
    eventually("the silence is seen", || !bus.health().connected).await;
    eventually("the reason is shown", || bus.health().problem.is_some_and(|why| why.starts_with("cannot connect")))
        .await;
    bus.publish(event(1));
    server.thaw();
    lagged(&mut listener).await;
    flows(&*bus, &mut listener).await;
}

/// The end of a process does not wait for a server.
#[tokio::test]
async fn a_bus_that_cannot_send_closes_all_the_same() {
    let server = NatsServer::start();
    let wire = Wire::to(server.port()).await;
    let bus = open(NatsConfig { urls: vec![wire.url.clone()], connect_timeout_ms: 60_000, ..config(&server) });
    connected(&*bus).await;
    let mut listener = bus.subscribe();
    server.freeze();
    wire.cut();
    eventually("the cut is seen", || !bus.health().connected).await;
    (0..1_000).for_each(|seq| bus.publish(event(seq)));
    drop(bus);
    let closed = async { while listener.recv().await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(5), closed).await.is_ok(), "it still waits");
}

#[tokio::test]
async fn another_address_serves_when_one_does_not() {
    let (gone, server) = (NatsServer::stopped(), NatsServer::start());
    let bus = open(NatsConfig { urls: vec![gone.url(), server.url()], ..config(&server) });
    connected(&*bus).await;
    flows(&*bus, &mut bus.subscribe()).await;
}

#[tokio::test]
async fn strangers_messages_are_ignored() {
    let server = NatsServer::start();
    let bus = open(config(&server));
    connected(&*bus).await;
    let mut listener = bus.subscribe();
    let stranger = async_nats::connect(server.url()).await.unwrap();
    let mut messages: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"wake up".to_vec(),
        vec![0xff; 200],
        vec![b'['; 256],
        vec![b' '; 900_000],
        br#"{"v":2,"wake":"reconcile"}"#.to_vec(),
        br#"{"v":1,"wake":"obey","npub":"me"}"#.to_vec(),
        br#"{"v":1,"wake":"event","npub":"npub1x","seq":1}"#.to_vec(),
    ];
    messages.extend((0..500_u32).map(|number| number.to_be_bytes().to_vec()));
    let count = u64::try_from(messages.len()).unwrap();
    for message in messages {
        stranger.publish("nexus.wake.event", message.into()).await.unwrap();
    }
    // Subjects that are nobody's, and somebody else's.
    stranger.publish("nexus.wake.other", "{}".into()).await.unwrap();
    stranger.publish("nexus.echo.0000000000000000", "{}".into()).await.unwrap();
    stranger.flush().await.unwrap();
    eventually("all were looked at", || bus.health().ignored == count).await;
    bus.publish(event(1));
    assert_eq!(next(&mut listener).await, Heard::Wake(event(1)));
    assert_eq!((bus.health().received, bus.health().problem), (1, None));
}

#[tokio::test]
async fn two_installations_share_a_server_and_hear_nothing_of_each_other() {
    let server = NatsServer::start();
    let [ours, theirs, nested] = ["nexus", "nexus2", "nexus.wake"]
        .map(|prefix| open(NatsConfig { prefix: prefix.to_owned(), ..config(&server) }));
    let mut listeners = Vec::new();
    for bus in [&ours, &theirs, &nested] {
        connected(&**bus).await;
        listeners.push(bus.subscribe());
    }
    for (number, bus) in (0..).zip([&ours, &theirs, &nested]) {
        one_of_each().into_iter().for_each(|wake| bus.publish(wake));
        bus.publish(event(number));
    }
    for (number, (bus, listener)) in (0..).zip([&ours, &theirs, &nested].into_iter().zip(&mut listeners)) {
        while next(listener).await != Heard::Wake(event(number)) {}
        eventually("its own five", || bus.health().received == 5).await;
        assert_eq!(bus.health().ignored, 0);
    }
}

#[tokio::test]
async fn only_what_was_asked_for_is_sent() {
    let server = NatsServer::start();
    let worker = NatsBus::open(config(&server), &[Topic::Agent, Topic::Worker], Arc::new(SystemEntropy)).unwrap();
    let relay = NatsBus::open(config(&server), &[], Arc::new(SystemEntropy)).unwrap();
    connected(&*worker).await;
    connected(&*relay).await;
    let mut listener = worker.subscribe();
    for _ in 0..3 {
        one_of_each().into_iter().for_each(|wake| relay.publish(wake));
    }
    for _ in 0..6 {
        assert!(
            matches!(next(&mut listener).await, Heard::Wake(wake) if [Topic::Agent, Topic::Worker].contains(&wake.topic()))
        );
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((worker.health().received, relay.health().received, relay.health().published), (6, 0, 12));
}

/// The connection reads faster than this process looks, and drops what does not fit.
#[tokio::test]
async fn a_process_that_stood_still_rereads() {
    const COUNT: usize = 60_000;
    let server = NatsServer::start();
    // Room for all, so that it is not the subscriber that lags.
    let bus = NatsBus::with_capacity(config(&server), Topic::ALL, Arc::new(SystemEntropy), 1 << 17).unwrap();
    connected(&*bus).await;
    let mut listener = bus.subscribe();
    let url = server.url();
    let flood = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stranger = async_nats::connect(url).await.unwrap();
            for _ in 0..COUNT {
                stranger.publish("nexus.wake.reconcile", r#"{"v":1,"wake":"reconcile"}"#.into()).await.unwrap();
            }
            stranger.flush().await.unwrap();
        });
    });
    flood.join().unwrap();
    lagged(&mut listener).await;
    flows(&*bus, &mut listener).await;
    assert!(bus.health().received < u64::try_from(COUNT).unwrap());
    assert_eq!((bus.health().connects, bus.health().connected), (1, true));
}
