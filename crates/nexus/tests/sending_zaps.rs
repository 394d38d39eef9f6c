//! An agent zaps: another agent, whom its policy names, when its owner agrees; once, whatever crashes, and never what a hostile
//! service would like.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;
#[path = "common/payee.rs"]
mod payee;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Friend, Host, Place, eventually, hex_of, list};
use payee::{Payee, Service};
use serde_json::{Value, json};

struct World {
    place: Place,
    npub: String,
}

impl World {
    /// A host with an agent whose first tick is over.
    fn new(policy: &Value) -> (Self, Host) {
        let place = Place::new();
        let host = place.start(&[]);
        let file = place.path("first-policy.json");
        std::fs::write(&file, policy.to_string()).unwrap();
        let npub = place.agent("ada", &["--heartbeat", "1d", "--policy-file", file.to_str().unwrap()]);
        let world = Self { place, npub };
        let calm = eventually(60, || world.ended("heartbeat").into_iter().next());
        assert!(calm.is_some(), "{}\n{}", world.place.status("ada"), host.logged());
        (world, host)
    }

    fn policy(&self, policy: &Value) {
        let file = self.place.path("policy.json");
        std::fs::write(&file, policy.to_string()).unwrap();
        self.place.ok(&["agent", "policy", "ada", "--file", file.to_str().unwrap()]);
    }

    fn ended(&self, trigger: &str) -> Vec<Value> {
        let mut ticks = self.place.ticks("ada");
        ticks.retain(|tick| tick["trigger"] == trigger && tick["status"] == "completed");
        ticks
    }

    fn tell(&self, text: &str) {
        let file = self.place.path("text");
        std::fs::write(&file, text).unwrap();
        self.place.ok(&["agent", "tick", "ada", "--text-file", file.to_str().unwrap()]);
    }

    /// The zaps of all ticks that ended, newest first: how each is told.
    fn zaps(&self) -> Vec<String> {
        let zaps = |tick: &Value| {
            let actions = tick["actions"].as_array().cloned().unwrap_or_default();
            let zaps = actions.into_iter().filter(|action| action["type"] == "zap");
            zaps.map(|action| action["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        self.place.ticks("ada").iter().filter(|tick| tick["status"] != "open").flat_map(zaps).collect()
    }

    /// Tells the agent to zap, and waits for how that is told.
    fn zap(&self, host: &Host, to: &str, sats: u64) -> String {
        let before = self.zaps().len();
        self.tell(&format!("zap {to} {sats} thank you"));
        self.next_zap(host, before)
    }

    fn next_zap(&self, host: &Host, before: usize) -> String {
        let told = eventually(90, || Some(self.zaps()).filter(|zaps| zaps.len() > before));
        told.unwrap_or_else(|| panic!("{:?}\n{}\n{}", self.place.ticks("ada"), self.place.status("ada"), host.logged()))
            .remove(0)
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = rusqlite::Connection::open_with_flags(self.place.database(), flags).unwrap();
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn settled_zaps(&self) -> i64 {
        self.one("SELECT COUNT(*) FROM payment WHERE purpose = 'zap' AND state = 'settled'")
    }

    /// Nothing is open or held, no step was paid twice, and what was settled is what was counted.
    fn books_balance(&self, point: &str) {
        assert_eq!(
            self.one::<i64>("SELECT COUNT(*) FROM payment WHERE state NOT IN ('settled', 'failed', 'canceled')"),
            0,
            "{point}: open"
        );
        assert_eq!(
            self.one::<i64>("SELECT CAST(COALESCE(SUM(held_msat), 0) AS INTEGER) FROM budget"),
            0,
            "{point}: held"
        );
        let twice = "SELECT COUNT(*) FROM (SELECT step FROM payment WHERE state = 'settled' GROUP BY npub, step HAVING COUNT(*) > 1)";
        assert_eq!(self.one::<i64>(twice), 0, "{point}: twice");
        let hers = format!("lower(hex(npub)) = '{}'", hex_of(&self.npub));
        let settled: i64 = self.one(&format!(
            "SELECT CAST(COALESCE(SUM(amount_msat + fee_msat), 0) AS INTEGER) FROM payment WHERE state = 'settled' AND {hers}",
        ));
        let counted: i64 = self.one(&format!(
            "SELECT CAST(COALESCE(SUM(settled_msat), 0) AS INTEGER) FROM budget WHERE win LIKE 'day:%' AND {hers}"
        ));
        assert_eq!(settled, counted, "{point}: payments and budget");
        let balance = || self.place.ok(&["agent", "balance", "ada"])["balance_sats"].as_i64().unwrap();
        let agrees = eventually(15, || (balance() == 10_000 - settled / 1_000).then_some(()));
        assert!(agrees.is_some(), "{point}: the wallet has {}, {settled} msat were spent", balance());
    }
}

fn autonomous() -> Value {
    json!({ "autonomy": "autonomous" })
}

#[test]
fn an_agent_zaps_another_whose_receipt_wakes_it() {
    let (world, host) = World::new(&autonomous());
    let place = &world.place;
    let bob = place.agent("bob", &["--heartbeat", "1d"]);
    let bobs = |trigger: &str| {
        let mut ticks = place.ticks("bob");
        ticks.retain(|tick| tick["trigger"] == trigger && tick["status"] == "completed");
        ticks
    };
    let calm = eventually(60, || bobs("heartbeat").into_iter().next());
    assert!(calm.is_some(), "{}", place.status("bob"));

    assert_eq!(world.zap(&host, &bob, 21), "paid");
    let woken = eventually(60, || bobs("zap").into_iter().next());
    let woken = woken.unwrap_or_else(|| panic!("{:?}\n{}", place.ticks("bob"), host.logged()));
    let heard = place.ok(&["agent", "trajectory", "bob", woken["id"].as_str().unwrap()]).to_string();
    assert!(heard.contains("21 sats: thank you") && heard.contains(&world.npub), "{heard}");
    let friend = Friend::new(&place.relay());
    let receipts = friend.query(json!({ "kinds": [9_735], "#p": [hex_of(&bob)] }));
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    let tags = receipts[0]["tags"].as_array().unwrap();
    assert!(tags.contains(&json!(["P", hex_of(&world.npub)])), "{tags:?}");
    assert_eq!(receipts[0]["verified"], true);
    assert!(friend.query(json!({ "kinds": [9_734] })).is_empty(), "a request is never published");
    assert_eq!(world.settled_zaps(), 1);
    world.books_balance("zapped");

    // It zaps nobody without a profile, and not itself.
    let nobody = Friend::new(&place.relay());
    assert!(world.zap(&host, &nobody.npub, 5).starts_with("refused: payee cannot be zapped"));
    assert_eq!(world.zap(&host, &world.npub, 5), "refused: an agent does not zap itself");
    assert_eq!(world.zap(&host, &bob, 2_000), "refused: more than the limits allow");
    assert_eq!((world.settled_zaps(), host.interrupt()), (1, 0));
}

#[test]
fn whom_the_policy_does_not_name_is_refused_and_what_asks_is_approved() {
    let (world, host) = World::new(&json!({}));
    let place = &world.place;
    let (ada, eve) = (Payee::new(&place.relay(), &place.devnet), Payee::new(&place.relay(), &place.devnet));
    world.policy(&json!({ "payees": [ada.friend.npub] }));
    assert_eq!(world.zap(&host, &eve.friend.npub, 5), "refused: its recipient is not among the policy's payees");

    // Bounded asks; what the owner approves is carried out by a tick of its own.
    let asks = world.zap(&host, &ada.friend.npub, 5);
    assert_eq!(asks, "parked: zaps ask");
    assert!(ada.questions().is_empty() && eve.questions().is_empty(), "nobody was asked for anything");
    let waiting = list(&place.ok(&["agent", "approvals", "ada"]));
    assert_eq!((waiting.len(), &waiting[0]["action"], &waiting[0]["amount_sats"]), (1, &json!("zap"), &json!(5)));
    let id = waiting[0]["id"].as_str().unwrap();
    let payments = world.one::<i64>("SELECT COUNT(*) FROM payment");
    let answer = place.ok(&["agent", "approve", "ada", id]);
    assert_eq!(
        (&answer["state"], &answer["ended"]),
        (&json!("executed"), &json!("done")),
        "{answer}\n{}",
        host.logged()
    );
    assert_eq!(world.zaps()[0], "paid");
    assert_eq!((ada.paid(), world.settled_zaps()), (1, 1));
    assert_eq!(world.one::<i64>("SELECT COUNT(*) FROM payment"), payments + 1, "nothing was bought for it");

    // An address is as good as a key, if the profile names it; another's is not.
    world.policy(&json!({ "autonomy": "autonomous", "payees": [eve.address()] }));
    assert_eq!(world.zap(&host, &eve.friend.npub, 5), "paid");
    assert_eq!(world.zap(&host, &ada.friend.npub, 5), "refused: its recipient is not among the policy's payees");
    assert_eq!((ada.paid(), eve.paid(), ada.questions().len()), (1, 1, 1));

    // Blocked, above the threshold, and above what a payment may be with its fee.
    world.policy(&json!({ "autonomy": "autonomous", "payees": [], "blocked": [eve.friend.npub] }));
    assert_eq!(world.zap(&host, &eve.friend.npub, 5), "refused: its recipient is blocked");
    assert!(world.zap(&host, &ada.friend.npub, 600).starts_with("parked: more than the approval threshold"));
    let limits = json!({ "payment_msat": 30_000 });
    world.policy(&json!({ "autonomy": "autonomous", "blocked": [], "limits": limits }));
    assert_eq!(world.zap(&host, &ada.friend.npub, 30), "refused: with its fee it is more than one payment may be");
    assert_eq!((ada.paid(), eve.paid()), (1, 1));
    world.books_balance("the end");
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn a_hostile_service_gets_nothing_that_was_not_asked_for() {
    let (world, host) = World::new(&autonomous());
    let payee = Payee::new(&world.place.relay(), &world.place.devnet);
    for (service, word) in [
        (Service::AnotherAmount, "refused: an invoice over 5.001 sats, asked for was 5 sats"),
        (Service::AnotherHash, "refused: the invoice does not commit to the zap request"),
        (Service::AnotherNetwork, "refused: an invoice for bitcoin, this wallet is on regtest"),
        (Service::FarExpiry, "refused: the invoice expires too far ahead"),
        (Service::NoReceipts, "refused: payee cannot be zapped"),
        (Service::Redirect, "failed: what the payee's service answers redirects"),
        (Service::Endless, "failed: the payee's service: no answer: more than 256 KiB"),
        (Service::Refuses, "failed: the payee's service says: not today"),
    ] {
        payee.becomes(service);
        let told = world.zap(&host, &payee.friend.npub, 5);
        assert!(told.starts_with(word), "{service:?}: {told}");
    }
    assert!(!payee.trapped(), "a redirect was followed");
    assert_eq!((payee.paid(), world.settled_zaps()), (0, 0));
    // An invoice that was paid is not paid again, for whatever it comes.
    payee.becomes(Service::Honest);
    assert_eq!(world.zap(&host, &payee.friend.npub, 5), "paid");
    payee.becomes(Service::Again);
    assert!(world.zap(&host, &payee.friend.npub, 5).starts_with("refused: the invoice does not commit"));
    assert_eq!((payee.paid(), world.settled_zaps()), (1, 1));
    assert_eq!(world.one::<i64>("SELECT COUNT(*) FROM payment WHERE purpose = 'zap'"), 1);
    world.books_balance("the end");
    assert_eq!(host.interrupt(), 0);
}

/// Tells the development network what goes wrong, or how it ends.
fn devnet(host: &Host, command: &Value) {
    let url = host.ready["devnet"].as_str().unwrap();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    let body = command.to_string();
    write!(
        stream,
        "POST /v1/faults HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}

#[test]
fn a_zap_in_flight_holds_its_budget_and_not_its_tick() {
    let (world, host) = World::new(&autonomous());
    let payee = Payee::new(&world.place.relay(), &world.place.devnet);
    // The tick's own thinking is paid first.
    devnet(&host, &json!({ "command": "rule", "call": "pay", "fault": "settle", "times": 1 }));
    devnet(&host, &json!({ "command": "rule", "call": "pay", "fault": "stuck", "times": 1 }));
    assert!(world.zap(&host, &payee.friend.npub, 7).starts_with("unresolved: "), "{}", host.logged());
    let open = "SELECT COUNT(*) FROM payment WHERE purpose = 'zap' AND state IN ('dispatched', 'pending', 'unknown')";
    assert_eq!(world.one::<i64>(open), 1);
    let held: i64 = world.one("SELECT CAST(SUM(held_msat) AS INTEGER) FROM budget WHERE win LIKE 'day:%'");
    assert!(held >= 7_000, "{held}");
    // What comes after it is not held up, and the same zap is another one.
    assert_eq!(world.zap(&host, &payee.friend.npub, 7), "paid");
    let hash: String = world.one(&open.replace("COUNT(*)", "lower(hex(hash))"));
    devnet(&host, &json!({ "command": "settle", "hash": hash }));
    let settled = eventually(60, || (world.settled_zaps() == 2).then_some(()));
    assert!(settled.is_some(), "{}", host.logged());
    assert_eq!(payee.paid(), 2);
    world.books_balance("settled");
    assert_eq!(host.interrupt(), 0);
}

/// Every point of a tick that zaps, from its decision on. The first dispatch is that of its thinking.
const POINTS: [&str; 16] = [
    "before:append:decided",
    "after:append:decided",
    "before:ask_zap",
    "before:append:zap_invoiced",
    "after:append:zap_invoiced",
    "after:ask_zap",
    "before:pay_zap",
    "before:append:zap_paying",
    "after:append:zap_paying",
    "before:dispatch#2",
    "after:dispatch#2",
    "before:append:zap_paid",
    "after:append:zap_paid",
    "after:pay_zap",
    "before:commit",
    "after:commit",
];

/// One host, killed again and again; its payee stays and counts.
fn killed_at(points: impl Iterator<Item = &'static str>) {
    let (world, host) = World::new(&autonomous());
    let payee = Payee::new(&world.place.relay(), &world.place.devnet);
    assert_eq!(host.interrupt(), 0);
    for (number, point) in points.enumerate() {
        let (before, told) = (payee.questions().len(), world.settled_zaps());
        let host = world.place.start(&[("NEXUS_FAULT", point)]);
        world.tell(&format!("zap {} 5 for the {number}. time", payee.friend.npub));
        let reached = format!("fault reached: {}", point.split('#').next().unwrap());
        assert!(host.says(&reached, 60), "{point} was not reached: {}", host.logged());
        host.kill();
        let host = world.place.start(&[]);
        let settled = eventually(60, || (world.settled_zaps() > told).then_some(()));
        assert!(settled.is_some(), "{point}: {:?}\n{}", world.zaps(), host.logged());
        let ended = eventually(60, || {
            let ticks = world.place.ticks("ada");
            ticks.iter().all(|tick| tick["status"] != "open").then_some(ticks)
        });
        assert!(ended.is_some(), "{point}: {}", host.logged());
        std::thread::sleep(Duration::from_millis(300));
        // One request, however often it was asked with; one invoice of all that were given was paid.
        let questions = payee.questions().split_off(before);
        let ids: std::collections::BTreeSet<String> =
            questions.iter().map(|one| one.request["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 1, "{point}: {questions:?}");
        // Asked again only while no invoice was on record.
        let asked = if *point == *"before:append:zap_invoiced" { 2 } else { 1 };
        assert_eq!(questions.len(), asked, "{point}: {questions:?}");
        assert_eq!(world.settled_zaps(), told + 1, "{point}");
        assert_eq!(payee.paid() as i64, told + 1, "{point}");
        assert_eq!(world.zaps()[0], "paid", "{point}");
        world.books_balance(point);
        assert!(!host.logged().contains("panicked"), "{point}: {}", host.logged());
        assert_eq!(host.interrupt(), 0);
    }
}

/// Half of the points in each of two tests, so that they run side by side.
#[test]
fn killed_at_every_even_point_a_zap_is_paid_once() {
    killed_at(POINTS.into_iter().step_by(2));
}

#[test]
fn killed_at_every_odd_point_a_zap_is_paid_once() {
    killed_at(POINTS.into_iter().skip(1).step_by(2));
}
