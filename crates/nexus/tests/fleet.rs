//! Real faults against a real fleet: PostgreSQL, NATS, two control planes, four workers in two regions, a relay and a
//! provider, each a process, while people write to the agents without a pause.
//!
//! After each fault: every message that the relay took is answered once, no job is paid twice, the development network's
//! books and the store's agree, every chain of events verifies, and everyone ticks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![expect(clippy::disallowed_methods, reason = "these tests wait for real processes, by the real clock")]

mod common;
#[path = "common/fleet/mod.rs"]
mod fleet;
#[path = "common/pay.rs"]
mod pay;
#[path = "common/web.rs"]
mod web;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::eventually;
use fleet::{STUCK_SECS, fleet};
use nexus_seal::webhook::WebhookKey;
use nexus_testkit::proxy::{Proxy, Rule, Upstream};
use nexus_worker::WIRE_VERSION;
use serde_json::{Value, json};

/// What a worker says when it hears that it was given up.
const BURIED: &str = "this worker was declared dead or replaced";

#[test]
fn a_worker_frozen_longer_than_its_lease() {
    let mut fleet = fleet();
    let load = fleet.load();
    load.round();
    let (id, agents) = (fleet.worker_id("worker-1"), fleet.agents_of("worker-1"));
    fleet.signal("worker-1", "STOP");
    fleet.moved(&id, &agents, STUCK_SECS);
    load.round();
    let heard = fleet.log("worker-1").matches(BURIED).count();
    fleet.signal("worker-1", "CONT");
    let again = eventually(STUCK_SECS, || (fleet.log("worker-1").matches(BURIED).count() > heard).then_some(()));
    assert!(again.is_some(), "it goes on as if nothing had happened");
    fleet.holds(load, "frozen");
}

/// The worst moments to freeze: right before something leaves or is written. When the process goes on, its next
/// instruction is the one that must have no effect.
#[test]
fn a_worker_frozen_with_something_in_its_hands() {
    let points = [
        ("worker-5", "eu", "before:dispatch"),
        ("worker-6", "eu", "before:act"),
        ("worker-7", "us", "before:commit"),
        ("worker-8", "us", "before:publish_request"),
    ];
    let mut fleet = fleet();
    for (worker, region, point) in points {
        fleet.order(&format!("worker {worker} {region} NEXUS_FAULT=freeze:{point}"));
    }
    for (worker, ..) in points {
        fleet.has_agents(worker);
    }
    let load = fleet.load();
    for (worker, _, point) in points {
        let frozen = eventually(STUCK_SECS, || fleet.is_frozen(worker).then_some(()));
        assert!(frozen.is_some(), "{worker} did not reach {point}");
    }
    for (worker, ..) in points {
        let agents = fleet.agents_of(worker);
        fleet.moved(&fleet.worker_id(worker), &agents, STUCK_SECS);
    }
    // Their ticks are resumed and ended elsewhere before the first owners wake.
    load.round();
    for (worker, _, point) in points {
        fleet.signal(worker, "CONT");
        fleet.says(worker, &format!("fault passed: {point}"), STUCK_SECS);
        fleet.says(worker, BURIED, STUCK_SECS);
    }
    fleet.holds(load, "frozen in the act");
}

#[test]
fn a_worker_killed() {
    let mut fleet = fleet();
    let load = fleet.load();
    load.round();
    let (id, agents) = (fleet.worker_id("worker-2"), fleet.agents_of("worker-2"));
    fleet.kill("worker-2");
    fleet.moved(&id, &agents, STUCK_SECS);
    fleet.restart("worker-2");
    fleet.holds(load, "killed");
}

#[test]
fn the_database_restarts() {
    let mut fleet = fleet();
    let load = fleet.load();
    for how in ["stop", "crash"] {
        load.round();
        fleet.order(&format!("postgres {how}"));
        for role in ["worker-1", "relay", "control-1"] {
            let told = eventually(30, || Some(fleet.get(role, "/readyz")).filter(|(status, _)| *status == 503));
            let (_, body) = told.unwrap_or_else(|| panic!("{role} is ready without a database"));
            assert!(body.contains("the database does not answer"), "{role}: {body}");
            assert_eq!(fleet.get(role, "/healthz").0, 200, "{role} lives");
        }
        fleet.order("postgres start");
        let ready = eventually(STUCK_SECS, || {
            ["worker-1", "relay", "control-1"].iter().all(|role| fleet.get(role, "/readyz").0 == 200).then_some(())
        });
        assert!(ready.is_some(), "{how}: not ready again");
    }
    fleet.holds(load, "the database restarted");
}

#[test]
fn the_bus_restarts_and_stays_away() {
    let mut fleet = fleet();
    let load = fleet.load();
    load.round();
    fleet.order("nats stop");
    fleet.order("nats start");
    load.round();
    fleet.order("nats stop");
    for role in ["worker-1", "relay", "control-1"] {
        let told = eventually(30, || Some(fleet.get(role, "/readyz")).filter(|(_, body)| body.contains("no bus")));
        let (status, body) = told.unwrap_or_else(|| panic!("{role} does not notice that the bus is away"));
        assert_eq!(status, 200, "{role}: without a bus everything goes on: {body}");
    }
    // Without a bus, only slower: everything is settled before it comes back.
    fleet.holds(load, "no bus");
    fleet.order("nats start");
    let connected = eventually(STUCK_SECS, || (!fleet.get("worker-1", "/readyz").1.contains("no bus")).then_some(()));
    assert!(connected.is_some(), "the bus is not found again");
}

/// Both wires stall: what was sent arrives late, after the worker was given up. Its relay, the development network and
/// the provider stay in reach, which a worker that is really cut off would not have.
#[test]
fn a_worker_cut_off() {
    let mut fleet = fleet();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let wire = |port: &Value| {
        let port = u16::try_from(port.as_u64().unwrap()).unwrap();
        runtime.block_on(Proxy::start(Upstream::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))))
    };
    let (database, bus) = (wire(&fleet.ready["postgres"]), wire(&fleet.ready["nats"]));
    fleet.order(&format!(
        "worker worker-5 eu NEXUS_DATABASE_POSTGRES_PORT={} NEXUS_BUS_NATS_URLS=nats://127.0.0.1:{}",
        database.port(),
        bus.port()
    ));
    fleet.has_agents("worker-5");
    let load = fleet.load();
    load.round();
    let (id, agents) = (fleet.worker_id("worker-5"), fleet.agents_of("worker-5"));
    for wire in [&database, &bus] {
        wire.set(Rule::HoldBefore(Vec::new()));
    }
    fleet.moved(&id, &agents, STUCK_SECS);
    let (status, body) = fleet.get("worker-5", "/readyz");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("fenced itself"), "{body}");
    load.round();
    for wire in [&database, &bus] {
        wire.set(Rule::Pass);
    }
    fleet.says("worker-5", BURIED, STUCK_SECS);
    let ready = eventually(STUCK_SECS, || (fleet.get("worker-5", "/readyz").0 == 200).then_some(()));
    assert!(ready.is_some(), "it does not come back: {:?}", fleet.get("worker-5", "/readyz"));
    fleet.holds(load, "cut off");
    // Its wires end with this test.
    fleet.kill("worker-5");
}

/// The same with everything gone that a machine's network is: database, bus, relay, wallets. Connections are not closed.
#[test]
fn a_worker_whose_network_is_gone() {
    let mut fleet = fleet();
    let Some(network) = fleet.network() else {
        return println!("no namespaces for this user: `a_worker_cut_off` has to do");
    };
    fleet.order(&format!("worker worker-5 eu NETNS={}", network.name));
    fleet.has_agents("worker-5");
    let load = fleet.load();
    load.round();
    let (id, agents) = (fleet.worker_id("worker-5"), fleet.agents_of("worker-5"));
    network.cut();
    fleet.moved(&id, &agents, STUCK_SECS);
    load.round();
    assert!(!fleet.log("worker-5").contains(BURIED), "nobody can have told it");
    network.mend();
    fleet.says("worker-5", BURIED, STUCK_SECS);
    fleet.has_agents("worker-5");
    fleet.holds(load, "without a network");
    fleet.kill("worker-5");
}

/// Which of the two places agents now.
fn active(fleet: &fleet::Fleet, among: &[&str]) -> Option<String> {
    let places = |control: &&&str| fleet.view(control).is_some_and(|view| view["places_agents"] == true);
    among.iter().find(places).map(|control| (*control).to_owned())
}

fn takes_over(fleet: &fleet::Fleet, control: &str) {
    let asked = Instant::now();
    let taken = eventually(STUCK_SECS, || active(fleet, &[control]));
    assert!(taken.is_some(), "{control} does not take over");
    println!("{control} took over within {:?}", asked.elapsed());
}

#[test]
fn the_active_control_plane_is_killed_and_then_frozen() {
    let mut fleet = fleet();
    let controls = ["control-1", "control-2"];
    let load = fleet.load();
    load.round();
    let first = eventually(STUCK_SECS, || active(&fleet, &controls)).expect("somebody places agents");
    let second = if first == "control-1" { "control-2" } else { "control-1" };
    fleet.kill(&first);
    takes_over(&fleet, second);
    // It sees a worker die, and places its agents.
    let (id, agents) = (fleet.worker_id("worker-3"), fleet.agents_of("worker-3"));
    fleet.kill("worker-3");
    fleet.moved(&id, &agents, STUCK_SECS);
    fleet.restart(&first);
    fleet.restart("worker-3");

    // Frozen, it is replaced; what it had in mind when it wakes is not done.
    fleet.signal(second, "STOP");
    takes_over(&fleet, &first);
    let term = fleet.number("SELECT term FROM reconciler");
    let (id, agents) = (fleet.worker_id("worker-4"), fleet.agents_of("worker-4"));
    fleet.kill("worker-4");
    fleet.moved(&id, &agents, STUCK_SECS);
    fleet.signal(second, "CONT");
    fleet.says(second, "another reconciler took the term", STUCK_SECS);
    let placed = fleet.metric(second, "nexus_placements_total");
    fleet.restart("worker-4");
    load.round();
    assert_eq!(fleet.metric(second, "nexus_placements_total"), placed, "a stale term placed agents");
    assert_eq!(fleet.number("SELECT term FROM reconciler"), term, "one term since the freeze");
    fleet.holds(load, "control planes");
}

#[test]
fn told_to_stop_with_ticks_under_way() {
    let faults = [
        // Its tick ends in time.
        ("worker-5", "eu", "slow-3000:before:await_result#0", 20_000),
        // Its tick never ends, and neither does the patience of whoever told it to stop.
        ("worker-6", "eu", "before:await_result", 20_000),
        // Its tick never ends, and its time does.
        ("worker-7", "us", "before:await_result", 2_000),
    ];
    let mut fleet = fleet();
    for (worker, region, fault, drain_ms) in faults {
        fleet.order(&format!("worker {worker} {region} NEXUS_FAULT={fault} NEXUS_WORKER_DRAIN_MS={drain_ms}"));
    }
    for (worker, ..) in faults {
        fleet.has_agents(worker);
    }
    let load = fleet.load();
    // Told when all of them have a tick under way: those that hang are patient, and the slow one begins another.
    for (worker, ..) in &faults[1..] {
        fleet.says(worker, "fault reached", STUCK_SECS);
    }
    let reached = |fleet: &fleet::Fleet| fleet.log("worker-5").matches("fault reached").count();
    let before = reached(&fleet);
    assert!(eventually(STUCK_SECS, || (reached(&fleet) > before).then_some(())).is_some(), "no other slow tick");
    for (worker, ..) in faults {
        fleet.signal(worker, "TERM");
    }
    fleet.says("worker-6", "draining", 10);
    let (status, body) = fleet.get("worker-6", "/readyz");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("hands its agents over"), "{body}");
    assert_eq!(fleet.wait("worker-5"), 0, "it ended in order");
    assert_eq!(fleet.load_of("worker-5"), 0, "it handed everything over");
    fleet.says("worker-5", "signed off", 0);
    assert!(!fleet.log("worker-5").contains("not everything was handed over"), "in time");

    let told = Instant::now();
    fleet.signal("worker-6", "TERM");
    assert_eq!(fleet.wait("worker-6"), 1, "a second signal cuts it off");
    assert!(told.elapsed() < Duration::from_secs(15), "at once: {:?}", told.elapsed());
    assert_eq!(fleet.wait("worker-7"), 0);
    fleet.says("worker-7", "not everything was handed over in time", 0);
    fleet.holds(load, "told to stop");
}

#[test]
fn a_region_is_lost_and_comes_back() {
    let mut fleet = fleet();
    let home = "SELECT COUNT(*) FROM agent a JOIN worker w USING (worker_id) WHERE a.region = 'eu' AND w.region = 'eu'";
    let all_home = eventually(STUCK_SECS, || (fleet.number(home) == 4).then_some(()));
    assert!(all_home.is_some(), "everyone at home before: {:?}", fleet.number(home));
    fleet.kill("worker-1");
    fleet.kill("worker-2");
    let away = "SELECT COUNT(*) FROM agent a JOIN worker w USING (worker_id) WHERE a.region = 'eu' AND w.region = 'us'";
    let moved = eventually(STUCK_SECS, || (fleet.number(away) == 3).then_some(()));
    assert!(moved.is_some(), "those that may leave are elsewhere: {}", fleet.number(away));
    // Who may not leave waits, and everybody can see why.
    let waits = eventually(STUCK_SECS, || {
        let status = fleet.ok(&["agent", "status", "dora"]);
        let told = status["reason"]["code"] == "no_worker_in_region" && status["next_attempt_at_ms"].is_i64();
        told.then_some(())
    });
    assert!(waits.is_some(), "{}", fleet.ok(&["agent", "status", "dora"]));
    let seen = eventually(30, || {
        let view = fleet.view("control-1")?;
        let waiting = view["waiting"].as_array()?.iter().any(|row| row["code"] == "no_worker_in_region");
        (waiting && view["agents"]["away"] == 3).then_some(())
    });
    assert!(seen.is_some(), "{:?}", fleet.view("control-1"));

    let load = fleet.load();
    let back = fleet::now_ms();
    fleet.restart("worker-1");
    fleet.restart("worker-2");
    // The home has to last five seconds; then one agent comes back in a second, or two in two.
    let all_home = eventually(STUCK_SECS, || (fleet.number(home) == 4).then_some(()));
    assert!(all_home.is_some(), "home again: {}", fleet.number(home));
    let returns = format!(
        "SELECT e.at FROM event e JOIN agent a USING (npub) WHERE a.region = 'eu' AND a.name <> 'dora'
         AND e.at >= {back} AND e.body LIKE '%\"placed\"%' ORDER BY e.at"
    );
    let returns: Vec<i64> = fleet.rows(&returns).iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(returns.len() >= 3, "{returns:?}");
    assert!(returns[0] - back >= 4_000, "not before the home has lasted: {back} {returns:?}");
    for window in returns.windows(3) {
        assert!(window[2] - window[0] >= 400, "not all at once: {returns:?}");
    }
    fleet.holds(load, "a region was lost");
}

/// A worker of the next release takes over what it gets, and is killed with a tick under way. Who is left can't read that:
/// it leaves it alone, and everybody can see why, until one comes that can.
#[test]
fn two_releases_side_by_side() {
    let mut fleet = fleet();
    let (this, next) = (WIRE_VERSION, WIRE_VERSION + 1);
    let old = ["worker-1", "worker-2", "worker-3", "worker-4"];
    let ignored = |fleet: &fleet::Fleet| fleet.metric("control-1", "nexus_bus_ignored");
    let before = ignored(&fleet);
    fleet.order(&format!("worker worker-5 eu NEXUS_FAULT_VERSION={next} NEXUS_FAULT=before:await_result"));
    fleet.has_agents("worker-5");
    let load = fleet.load();
    fleet.says("worker-5", "fault reached", STUCK_SECS);
    // What it says on the bus nobody of the old release takes for a wake; both go on, on timers.
    let counted = eventually(30, || (ignored(&fleet) > before).then_some(()));
    assert!(counted.is_some(), "messages of another version are ignored and counted");
    let newer = &format!(
        "SELECT a.name FROM agent a JOIN tick t USING (npub) JOIN journal j USING (tick_id)
            WHERE t.status = 'open' AND j.version = {next} GROUP BY a.name"
    );
    let agent =
        eventually(30, || fleet.rows(newer).first().map(|row| row[0].clone())).expect("a tick of the new release");
    fleet.kill("worker-5");

    let reason = |fleet: &fleet::Fleet| fleet.ok(&["agent", "status", &agent]);
    let waits = eventually(STUCK_SECS, || {
        let status = reason(&fleet);
        let told = status["reason"]["code"] == "workers_too_old" && status["next_attempt_at_ms"].is_i64();
        told.then_some(())
    });
    assert!(waits.is_some(), "{}", reason(&fleet));

    // Should an old worker be given it all the same, it names what it can't read, and gives it back.
    let crashed: f64 = old.iter().map(|worker| fleet.metric(worker, "nexus_turns_crashed_total")).sum();
    fleet.rows(&format!("UPDATE agent SET reader_version = {this} WHERE name = '{agent}'"));
    let refused = eventually(STUCK_SECS, || {
        let said = |worker: &&str| fleet.log(worker).contains("written by a newer worker; given back");
        old.iter().any(said).then_some(())
    });
    assert!(refused.is_some(), "no old worker refused it by name: {}", reason(&fleet));
    // In the worker's words at first, in the planner's when that looks again.
    let waits = eventually(STUCK_SECS, || {
        let status = reason(&fleet);
        let code = status["reason"]["code"].as_str().unwrap_or_default().to_owned();
        (["newer_version", "workers_too_old"].contains(&code.as_str()) && status["next_attempt_at_ms"].is_i64())
            .then_some(())
    });
    assert!(waits.is_some(), "{}", reason(&fleet));
    let known = format!("SELECT reader_version FROM agent WHERE name = '{agent}' AND worker_id IS NULL");
    let known = eventually(STUCK_SECS, || (fleet.rows(&known) == [[next.to_string()]]).then_some(()));
    assert!(known.is_some(), "the planner knows again who reads it");
    let now: f64 = old.iter().map(|worker| fleet.metric(worker, "nexus_turns_crashed_total")).sum();
    assert_eq!(now, crashed, "nobody crashed over it");
    assert_eq!(fleet.rows(newer), [[agent.clone()]], "its journal is as it was");

    // Its home's workers are too old, so it goes on away from home, where it left off, unless it may not leave.
    let region = if agent == "dora" { "eu" } else { "us" };
    fleet.order(&format!("worker worker-6 {region} NEXUS_FAULT_VERSION={next}"));
    let resumed = eventually(STUCK_SECS, || fleet.rows(newer).is_empty().then_some(()));
    assert!(resumed.is_some(), "the new release does not go on: {}", reason(&fleet));
    fleet.holds(load, "two releases");
    // What the new release wrote stays with it: those that come after this test read it too.
    fleet.rows(&format!("UPDATE agent SET reader_version = {this}"));
}

#[test]
fn turns_that_crash_again_and_again() {
    let mut fleet = fleet();
    fleet.order("worker worker-5 eu NEXUS_FAULT=panic:before:pay#0");
    fleet.has_agents("worker-5");
    let load = fleet.load();
    fleet.says("worker-5", "fault reached", STUCK_SECS);
    let id = fleet.worker_id("worker-5");
    let parked = format!(
        "SELECT reason_code, next_attempt_at - (extract(epoch FROM now()) * 1000)::bigint FROM agent
         WHERE encode(worker_id, 'hex') = '{id}' AND reason_code IN ('crashed', 'crash_loop')"
    );
    // Tried again after ever longer pauses at first, with its reason shown; then parked for long, still with a next attempt.
    let crashed = eventually(STUCK_SECS, || fleet.rows(&parked).iter().any(|row| row[0] == "crashed").then_some(()));
    assert!(crashed.is_some(), "{:?}", fleet.rows(&parked));
    let looped = eventually(STUCK_SECS, || {
        let rows = fleet.rows(&parked);
        rows.into_iter().find(|row| row[0] == "crash_loop").map(|row| row[1].parse::<i64>().unwrap())
    });
    let next = looped.unwrap_or_else(|| panic!("never parked for long: {:?}", fleet.rows(&parked)));
    assert!((600_000..=900_000).contains(&next), "tried again in {next} ms");
    let view = eventually(30, || {
        let view = fleet.view("control-1")?;
        view["waiting"].as_array()?.iter().any(|row| row["code"] == "crash_loop").then_some(())
    });
    assert!(view.is_some(), "operators see it: {:?}", fleet.view("control-1"));
    assert!(fleet.metric("worker-5", "nexus_turns_crashed_total") >= 6.0);
    assert!(fleet.is_alive("worker-5"), "a turn that panics takes nothing else with it");
    // A worker without the bug goes on where that one was.
    fleet.kill("worker-5");
    fleet.holds(load, "crashing turns");
}

/// A zap is paid, and a webhook comes, while the agent's worker is dead: what follows is done by its heir, once.
#[test]
fn zapped_and_called_while_its_worker_is_dead() {
    let mut fleet = fleet();
    let load = fleet.load();
    let hex = fleet.agents["ada"].clone();
    let api = fleet.ready["api"][0].as_str().unwrap().trim_end_matches('/').to_owned();
    let address = fleet.ok(&["agent", "address", "ada", "--set", "ada"])["address"].clone();
    assert!(address.as_str().unwrap().starts_with("ada@"), "{address}");
    let relay = fleet.ready["relay"].as_str().unwrap().to_owned();
    let friend = common::Friend::new(&relay);
    let asked = common::nostr(
        "zap",
        json!({
            "origin": api, "sk": friend.sk, "address": "ada@nexus.test", "to": hex, "msat": 50_000, "text": "hello",
            "relay": relay,
        }),
    );
    let asked = asked.unwrap().remove(0);
    let hook = fleet.ok(&["agent", "hook", "add", "ada", "ci"]);
    let standing = ["worker-1", "worker-2", "worker-3", "worker-4"];
    let host = *standing.iter().find(|name| fleet.agents_of(name).contains(&"ada".to_owned())).unwrap();
    fleet.kill(host);
    pay::pays(fleet.ready["devnet"].as_str().unwrap(), asked["pr"].as_str().unwrap());
    fleet.gifts += 1;
    let key = WebhookKey::parse(hook["secret"].as_str().unwrap()).unwrap();
    let url = hook["url"].as_str().unwrap();
    assert_eq!((0..3).map(|_| web::signed(url, "msg_1", &key, "the build is green")).collect::<Vec<_>>(), [202; 3]);
    for cause in ["zap", "webhook"] {
        let sql = format!(
            "SELECT COUNT(*) FROM tick t JOIN agent a USING (npub) WHERE a.name = 'ada' AND t.cause = '{cause}' AND t.status = 'completed'"
        );
        let woken = eventually(2 * STUCK_SECS, || (fleet.number(&sql) > 0).then_some(()));
        assert!(woken.is_some(), "{cause}: {:?}", fleet.ok(&["agent", "ticks", "ada"]));
    }
    let receipts = friend.query(json!({ "kinds": [9_735], "#p": [hex] }));
    assert_eq!((receipts.len(), &receipts[0]["pubkey"]), (1, &asked["service"]));
    fleet.restart(host);
    fleet.holds(load, "zapped and called");
    for cause in ["zap", "webhook"] {
        let sql = format!(
            "SELECT COUNT(*) FROM tick t JOIN agent a USING (npub) WHERE a.name = 'ada' AND t.cause = '{cause}'"
        );
        assert_eq!(fleet.number(&sql), 1, "{cause}");
    }
}

/// An owner is asked, answers while the agent's worker is dead, and then takes the agent away to a host of one process.
#[test]
fn asked_and_then_moved_away() {
    let mut fleet = fleet();
    let load = fleet.load();
    let (passphrase, policy) = (fleet.dir.join("passphrase"), fleet.dir.join("supervised.json"));
    std::fs::write(&policy, r#"{"autonomy": "supervised"}"#).unwrap();
    let (passphrase, policy) = (passphrase.to_str().unwrap(), policy.to_str().unwrap());
    let made = fleet.ok(&[
        "agent",
        "create",
        "ida",
        "--start",
        "--passphrase-file",
        passphrase,
        "--policy-file",
        policy,
        "--heartbeat",
        "1d",
    ]);
    let npub = common::find(&made, "npub").unwrap();
    let hex = common::hex_of(&npub);
    fleet.ok(&["agent", "fund", "ida", "--sats", "5000"]);
    fleet.gifts += 1;
    let friend = common::Friend::new(fleet.ready["relay"].as_str().unwrap());
    let mention = friend.send(1, &hex, "may you answer?");
    let asked = eventually(STUCK_SECS, || common::list(&fleet.ok(&["agent", "approvals", "ida"])).pop());
    let asked = asked.unwrap_or_else(|| panic!("{}", fleet.ok(&["agent", "status", "ida"])));
    let standing = ["worker-1", "worker-2", "worker-3", "worker-4"];
    let host = *standing.iter().find(|name| fleet.agents_of(name).contains(&"ida".to_owned())).unwrap();
    fleet.kill(host);
    fleet.ok(&["agent", "approve", "ida", asked["id"].as_str().unwrap()]);
    friend.answer(1, &hex, Some(&mention));
    fleet.restart(host);

    // One process elsewhere, the same owner, the same development network.
    let place = common::Place::of(&fleet.dir.join("config"), fleet.ready["devnet"].as_str().unwrap());
    let contexts = nexus_client::Contexts::at(place.path("config"));
    let owner = contexts.select(Some("fleet")).unwrap();
    contexts.save(&nexus_client::Context { name: "dev".into(), ..owner }).unwrap();
    let other = place.start(&[]);
    place.ok(&["context", "use", "dev"]);
    let backup = fleet.dir.join("ida.backup");
    fleet.ok(&["agent", "export", "ida", "--move", "--out", backup.to_str().unwrap()]);
    let imported =
        place.run(&["agent", "import", backup.to_str().unwrap(), "--passphrase-file", passphrase, "--start"]);
    assert_eq!(imported.0, 0, "{}\n{}", imported.2, other.logged());
    let (code, _, said) = fleet.run(&["agent", "status", &npub]);
    assert!(code == 3 && said.contains("[moved]") && said.contains(&place.api()), "{said}");
    let keys = "SELECT COUNT(*) FROM agent a LEFT JOIN agent_sealed s USING (npub) LEFT JOIN agent_wrap w USING (npub)
        WHERE a.name = 'ida' AND (s.sealed_key IS NOT NULL OR w.ciphertext IS NOT NULL)";
    assert_eq!(fleet.number(keys), 0);
    let balance = eventually(STUCK_SECS, || place.status("ida")["balance_sats"].as_u64());
    assert!(balance.is_some_and(|sats| (4_000..=5_000).contains(&sats)), "{balance:?}");
    let there = common::Friend { relay: place.relay(), ..common::Friend::new(&place.relay()) };
    there.send(1, &hex, "and here?");
    let asked = eventually(STUCK_SECS, || common::list(&place.ok(&["agent", "approvals", "ida"])).pop());
    assert!(asked.is_some(), "{}\n{}", place.status("ida"), other.logged());
    assert_eq!(other.interrupt(), 0);
    // What it paid there, and what is forgotten of it here, this fleet's books do not know.
    let paid = "SELECT COUNT(*) FROM payment WHERE state = 'settled'";
    let there = rusqlite::Connection::open(place.database()).unwrap();
    let there: usize = there.query_row(paid, [], |row| row.get(0)).unwrap();
    let paid_here =
        "SELECT COUNT(*) FROM payment p JOIN agent a USING (npub) WHERE a.name = 'ida' AND p.state = 'settled'";
    let here = usize::try_from(fleet.number(paid_here)).unwrap();
    fleet.ok(&["agent", "delete", &npub, "--forfeit", "--yes"]);
    fleet.gifts += there + here;
    fleet.holds(load, "asked and moved away");
}

#[test]
fn a_scaler_follows_the_load() {
    let mut fleet = fleet();
    let token = fleet.ok(&["token", "create", "--scope", "read", "--name", "scaler"]);
    let file = fleet.dir.join("scaler-token");
    std::fs::write(&file, token["token"].as_str().unwrap()).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let start = format!(
        "run scaler NEXUS_SCALER_API={} NEXUS_SCALER_TOKEN_FILE={} NEXUS_SCALER_PERIOD_MS=500 NEXUS_SCALER_SETTLE_MS=1000 \
         NEXUS_POOL_IDENTITY_FILE={} NEXUS_DEVNET={} NEXUS_WORKER_CAPACITY=2 -- scaler --region ap --min 1 --max 2",
        fleet.ready["api"][0].as_str().unwrap(),
        file.display(),
        fleet.dir.join("keys/pool.age").display(),
        fleet.ready["devnet"].as_str().unwrap(),
    );
    fleet.order(&start);
    let workers = |fleet: &fleet::Fleet| -> Vec<Value> {
        let (_, body) = fleet.get("scaler", "/readyz");
        let shown: Value = serde_json::from_str(&body).unwrap_or_default();
        let live = |worker: &Value| worker["worker"].is_string() && worker["draining"] == false;
        shown["workers"].as_array().into_iter().flatten().filter(|worker| live(worker)).cloned().collect()
    };
    let are = |fleet: &fleet::Fleet, count: usize| {
        let there = eventually(STUCK_SECS, || (workers(fleet).len() == count).then_some(()));
        assert!(
            there.is_some(),
            "{count} workers wanted: {:?}\n{}",
            fleet.get("scaler", "/readyz"),
            fleet.log("scaler")
        );
    };
    are(&fleet, 1);
    assert_eq!(fleet.get("scaler", "/readyz").0, 200);

    // Four agents move to this region: at 70 % of a capacity of two, that takes more workers than it may start.
    let load = fleet.load();
    for agent in ["emil", "fay", "gus", "hal"] {
        fleet.ok(&["agent", "set", agent, "--region", "ap"]);
    }
    are(&fleet, 2);
    // One that dies is replaced.
    let first = workers(&fleet)[0].clone();
    let killed = std::process::Command::new("kill").args(["-KILL", &first["process"].to_string()]).status().unwrap();
    assert!(killed.success());
    let replaced = eventually(STUCK_SECS, || {
        let now = workers(&fleet);
        (now.len() == 2 && now.iter().all(|worker| worker["process"] != first["process"])).then_some(())
    });
    assert!(replaced.is_some(), "{}", fleet.log("scaler"));
    fleet.says("scaler", "another is started after a pause", 0);

    // The load goes away again; one is drained, and has handed over what it had.
    for agent in ["emil", "fay", "gus", "hal"] {
        fleet.ok(&["agent", "set", agent, "--region", "us"]);
    }
    are(&fleet, 1);
    // Told to stop, it drains them all and ends in order.
    fleet.signal("scaler", "TERM");
    assert_eq!(fleet.wait("scaler"), 0, "{}", fleet.log("scaler"));
    // Those that drained have signed off; the one that was killed is dead a lease later.
    let left = "SELECT COUNT(*) FROM worker WHERE region = 'ap' AND dead = 0";
    let gone = eventually(STUCK_SECS, || (fleet.number(left) == 0).then_some(()));
    assert!(gone.is_some(), "a worker of it is still there: {}", fleet.number(left));
    fleet.holds(load, "scaled");
}
