//! Paid and not served, with real binaries: a provider that takes the money and stays silent, its evidence, who is asked
//! next, a late result; and providers that hold money, give it back, or die on the way.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Friend, Host, Place, eventually, list};
use serde_json::{Value, json};

/// What a model server does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Nothing, until it is in another mood.
    Silent,
    /// A definite no.
    Refuses,
    Answers,
}

/// An OpenAI-compatible server in the mood that a test wants.
#[derive(Clone)]
struct Model {
    url: String,
    mood: Arc<Mutex<Mood>>,
}

impl Model {
    fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let model = Self { url, mood: Arc::new(Mutex::new(mood)) };
        let serving = model.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        model
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        while *self.mood.lock().unwrap() == Mood::Silent {
            std::thread::sleep(Duration::from_millis(50));
        }
        let (status, body) = match *self.mood.lock().unwrap() {
            Mood::Refuses => ("400 Bad Request", json!({})),
            Mood::Silent | Mood::Answers => {
                let content = json!({ "actions": [{ "type": "post", "text": "from the model" }] }).to_string();
                let message = json!({ "message": { "content": content }, "finish_reason": "stop" });
                ("200 OK", json!({ "choices": [message] }))
            }
        };
        let body = body.to_string();
        let head = "content-type: application/json\r\nconnection: close";
        write!(stream, "HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()
    }
}

/// A provider for one sat, ten times cheaper than the host's own, with this model behind it.
fn cheap(place: &Place, model: &Model, hold: bool) -> (Host, String) {
    let env = [
        ("NEXUS_PROVIDER_PRICE_MSAT", "1000"),
        ("NEXUS_PROVIDER_LLM_URL", model.url.as_str()),
        ("NEXUS_PROVIDER_LLM_MODEL", "mood"),
        ("NEXUS_PROVIDER_HOLD", if hold { "true" } else { "false" }),
    ];
    let (provider, npub) = place.provider("cheap", &env);
    assert!(provider.says("announced", 30), "{}", provider.logged());
    (provider, npub)
}

/// A host that waits three seconds for a result.
const IMPATIENT: (&str, &str) = ("NEXUS_WORKER_JOB_TIMEOUT_MS", "3000");
const PATIENT: (&str, &str) = ("NEXUS_WORKER_JOB_TIMEOUT_MS", "60000");

fn ended(place: &Place, agent: &str, status: &str, count: usize) -> Vec<Value> {
    let found = eventually(60, || {
        let ticks = place.ticks(agent);
        (ticks.iter().filter(|tick| tick["status"] == status).count() >= count).then_some(ticks)
    });
    found.unwrap_or_else(|| panic!("{count} {status}: {:?}", place.ticks(agent)))
}

fn disputes(place: &Place, agent: &str) -> Vec<Value> {
    list(&place.ok(&["agent", "disputes", agent, "--all"]))
}

fn number(place: &Place, sql: &str) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
    database.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Payments to a provider that settled.
fn paid_to(place: &Place, npub: &str) -> i64 {
    let hex = common::hex_of(npub);
    number(place, &format!("SELECT COUNT(*) FROM payment WHERE state = 'settled' AND hex(payee) = upper('{hex}')"))
}

fn balance_msat(place: &Place, agent: &str) -> i64 {
    let balance = place.ok(&["agent", "balance", agent]);
    balance["balance_msat"].as_i64().or_else(|| balance["balance_sats"].as_i64().map(|sats| sats * 1_000)).unwrap()
}

#[test]
fn a_provider_that_takes_the_money_and_says_nothing() {
    let place = Place::new();
    let model = Model::start(Mood::Silent);
    let _host = place.start(&[IMPATIENT]);
    let (_cheat, cheat) = cheap(&place, &model, false);
    place.agent("ada", &["--heartbeat", "1d"]);
    let ticks = ended(&place, "ada", "failed", 1);
    assert!(ticks.iter().any(|tick| tick["reason"] == "paid_not_served"), "{ticks:?}");

    // The dispute, its event, and what proves it.
    let rows = disputes(&place, "ada");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["state"], &rows[0]["provider"]), (&json!("open"), &json!(cheat)));
    assert_eq!((&rows[0]["amount_msat"], &rows[0]["sealed"]), (&json!(1_000), &Value::Null));
    let told = place.events("ada").into_iter().filter(|event| event["type"] == "dispute").collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
    let id = rows[0]["id"].as_str().unwrap().to_owned();
    let file = place.path("evidence.json");
    let path = file.to_str().unwrap();
    place.ok(&["agent", "disputes", "ada", &id, "--out", path]);
    let proven = place.ok(&["agent", "disputes", "verify", path]);
    assert_eq!((&proven["provider"], &proven["amount_msat"]), (&json!(cheat), &json!(1_000)));
    assert_eq!(proven["payment_hash"], rows[0]["payment_hash"]);
    assert_ne!(place.run(&["agent", "disputes", "ada", &id, "--out", path]).0, 0, "nothing is written over");
    // What the database has of it opens for nobody without the key.
    let bundle: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let preimage = hex::decode(bundle["preimage"].as_str().unwrap()).unwrap();
    for name in ["nexus.db", "nexus.db-wal"] {
        let bytes = std::fs::read(place.path("data").join(name)).unwrap_or_default();
        assert!(!bytes.windows(32).any(|window| window == preimage), "the preimage lies in {name}");
        let hex = bundle["preimage"].as_str().unwrap().as_bytes();
        assert!(!bytes.windows(64).any(|window| window == hex), "the preimage lies in {name}");
    }

    // A changed file proves nothing.
    let other = place.path("changed.json");
    for (name, value) in [
        ("preimage", json!("00".repeat(32))),
        ("agent", json!(cheat)),
        ("amount_msat", json!(2_000)),
        ("heard", json!([])),
        ("nexus_dispute", json!(2)),
    ] {
        let mut changed = bundle.clone();
        changed[name] = value;
        std::fs::write(&other, changed.to_string()).unwrap();
        let (code, _, errors) = place.run(&["agent", "disputes", "verify", other.to_str().unwrap()]);
        assert!(code != 0 && errors.contains("proves nothing"), "{name}: {code} {errors}");
    }

    // Neither this agent nor another of the account asks it again, cheap as it is.
    place.ok(&["agent", "tick", "ada"]);
    ended(&place, "ada", "completed", 1);
    place.agent("bob", &["--heartbeat", "1d"]);
    ended(&place, "bob", "completed", 1);
    assert!(disputes(&place, "bob").is_empty());
    assert_eq!(paid_to(&place, &cheat), 1);

    // It answers after all: that is recorded, and pays nothing a second time.
    model.is(Mood::Answers);
    let answered = eventually(60, || {
        place.ok(&["agent", "tick", "ada"]);
        let rows = disputes(&place, "ada");
        (rows[0]["state"] == "answered").then_some(rows)
    });
    assert_eq!(answered.map(|rows| rows.len()), Some(1), "{:?}", disputes(&place, "ada"));
    let bundle = place.ok(&["agent", "disputes", "ada", &id]);
    assert_eq!(bundle["late"]["kind"], 6_050);
    assert_eq!(paid_to(&place, &cheat), 1, "once for one job");
    assert_eq!(number(&place, "SELECT SUM(disputed) * 10 + SUM(answered) FROM provider_week"), 11);

    // The owner's word ends it.
    let over = place.ok(&["agent", "disputes", "ada", &id, "--settled"]);
    assert_eq!(over["state"], "settled_elsewhere");
    assert!(list(&place.ok(&["agent", "disputes", "ada"])).is_empty());
}

/// Points around a dispute: killed there, it is one dispute of one payment.
#[test]
fn killed_around_a_dispute() {
    for point in ["before:append:disputed", "after:append:disputed", "before:commit", "after:commit"] {
        let place = Place::new();
        let model = Model::start(Mood::Silent);
        let host = place.start(&[IMPATIENT, ("NEXUS_FAULT", point)]);
        let (_cheat, cheat) = cheap(&place, &model, false);
        place.agent("ada", &["--heartbeat", "1d"]);
        assert!(host.says(&format!("fault reached: {point}"), 40), "{point} was not reached");
        host.kill();
        let _host = place.start(&[IMPATIENT]);
        ended(&place, "ada", "failed", 1);
        let rows = disputes(&place, "ada");
        assert_eq!(rows.len(), 1, "{point}: {rows:?}");
        assert_eq!(paid_to(&place, &cheat), 1, "{point}");
        assert_eq!(number(&place, "SELECT SUM(disputed) FROM provider_week"), 1, "{point}");
        let told = place.events("ada").iter().filter(|event| event["type"] == "dispute").count();
        assert_eq!(told, 1, "{point}");
    }
}

#[test]
fn a_provider_that_holds_and_fails_gives_the_money_back() {
    let place = Place::new();
    let model = Model::start(Mood::Refuses);
    let _host = place.start(&[PATIENT]);
    let (_cheap, cheap) = cheap(&place, &model, true);
    place.agent("ada", &["--heartbeat", "1d"]);
    // The job is over for certain, and another provider does it in the same tick.
    let ticks = ended(&place, "ada", "completed", 1);
    assert!(ticks.iter().all(|tick| tick["status"] != "failed"), "{ticks:?}");
    let returned = number(&place, "SELECT COUNT(*) FROM payment WHERE state = 'failed'");
    assert_eq!((returned, paid_to(&place, &cheap)), (1, 0));
    assert_eq!(number(&place, "SELECT SUM(held_msat) FROM budget"), 0);
    assert_eq!(balance_msat(&place, "ada"), 10_000_000 - 11_000);
    assert!(disputes(&place, "ada").is_empty());
    // Who holds says so.
    let friend = Friend::new(&place.relay());
    let offers = friend.query(json!({ "kinds": [31_990], "authors": [common::hex_of(&cheap)] }));
    let tags = offers[0]["tags"].as_array().unwrap();
    assert!(tags.contains(&json!(["hold"])), "{tags:?}");
}

#[test]
fn held_money_of_a_silent_provider_is_disputed_only_once_it_is_taken() {
    let place = Place::new();
    let model = Model::start(Mood::Silent);
    let _host = place.start(&[IMPATIENT]);
    let (_cheap, cheap) = cheap(&place, &model, true);
    place.agent("ada", &["--heartbeat", "1d"]);
    let ticks = ended(&place, "ada", "failed", 1);
    assert!(ticks.iter().any(|tick| tick["reason"] == "payment_unresolved"), "{ticks:?}");
    let rows = disputes(&place, "ada");
    assert_eq!((rows.len(), &rows[0]["state"]), (1, &json!("unsettled")));
    assert_eq!(number(&place, "SELECT COALESCE(SUM(disputed), 0) FROM provider_week"), 0);
    // It works after all, publishes, and takes the money: recovery finishes the books and finds the result.
    model.is(Mood::Answers);
    let settled = eventually(60, || (paid_to(&place, &cheap) == 1).then_some(()));
    assert!(settled.is_some(), "{:?}", disputes(&place, "ada"));
    assert_eq!(disputes(&place, "ada")[0]["state"], "open");
    assert_eq!(number(&place, "SELECT SUM(held_msat) FROM budget WHERE win NOT LIKE 'tick:%'"), 0);
    let answered = eventually(60, || {
        place.ok(&["agent", "tick", "ada"]);
        (disputes(&place, "ada")[0]["state"] == "answered").then_some(())
    });
    assert!(answered.is_some(), "{:?}", disputes(&place, "ada"));
    let file = place.path("evidence.json");
    let id = disputes(&place, "ada")[0]["id"].as_str().unwrap().to_owned();
    place.ok(&["agent", "disputes", "ada", &id, "--out", file.to_str().unwrap()]);
    let proven = place.ok(&["agent", "disputes", "verify", file.to_str().unwrap()]);
    assert!(proven["answered"].is_string(), "{proven}");
    assert_eq!(paid_to(&place, &cheap), 1);
}

/// A provider that holds is killed with the money in its hands, and goes on after its restart: one payment, one answer.
#[test]
fn a_holding_provider_dies_on_the_way() {
    let place = Place::new();
    let model = Model::start(Mood::Silent);
    let _host = place.start(&[PATIENT]);
    let (provider, npub) = cheap(&place, &model, true);
    place.agent("ada", &["--heartbeat", "1d"]);
    let held =
        eventually(30, || (number(&place, "SELECT COUNT(*) FROM payment WHERE state = 'pending'") == 1).then_some(()));
    assert!(held.is_some(), "{}", provider.logged());
    provider.kill();
    model.is(Mood::Answers);
    let (_provider, again) = cheap(&place, &model, true);
    assert_eq!(npub, again);
    let ticks = ended(&place, "ada", "completed", 1);
    assert_eq!(ticks.iter().filter(|tick| tick["status"] == "failed").count(), 0, "{ticks:?}");
    let settled = eventually(30, || (paid_to(&place, &npub) == 1).then_some(()));
    assert!(settled.is_some());
    assert_eq!(number(&place, "SELECT COUNT(*) FROM payment"), 1);
    assert_eq!(balance_msat(&place, "ada"), 10_000_000 - 2_000);
    assert!(disputes(&place, "ada").is_empty());
}
