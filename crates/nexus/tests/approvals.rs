//! What an agent asks its owner: parked, answered by command line and by Nostr, carried out once, whatever crashes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::process::{Child, Stdio};

use common::{Friend, Host, Place, eventually, hex_of, list, nostr};
use serde_json::{Value, json};

/// A host with an agent that asks before everything that others can see. Its first tick is over.
struct Asking {
    place: Place,
    hex: String,
}

impl Asking {
    fn new() -> (Self, Host) {
        let place = Place::new();
        let host = place.start(&[]);
        let policy = place.path("supervised.json");
        std::fs::write(&policy, json!({ "autonomy": "supervised" }).to_string()).unwrap();
        let npub = place.agent("ada", &["--heartbeat", "1d", "--policy-file", policy.to_str().unwrap()]);
        let asking = Self { hex: hex_of(&npub), place };
        asking.until(40, "its first tick", || asking.ticks("completed") >= 1);
        (asking, host)
    }

    fn until(&self, secs: u64, what: &str, done: impl Fn() -> bool) {
        let seen = eventually(secs, || done().then_some(()));
        assert!(seen.is_some(), "{what}: {:?}\n{:?}", self.all(), self.place.ticks("ada"));
    }

    fn ticks(&self, status: &str) -> usize {
        self.place.ticks("ada").iter().filter(|tick| tick["status"] == status).count()
    }

    fn all(&self) -> Vec<Value> {
        list(&self.place.ok(&["agent", "approvals", "ada", "--all"]))
    }

    fn state_of(&self, id: &str) -> String {
        let all = self.all();
        let one = all.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} is gone: {all:?}"));
        one["state"].as_str().unwrap().to_owned()
    }

    /// Mentions the agent and waits until it asks for its reply. Returns the mention and the approval.
    fn mention(&self, friend: &Friend, text: &str) -> (String, Value) {
        let before = self.all().len();
        let mention = friend.send(1, &self.hex, text);
        (mention, self.asked(before))
    }

    fn asked(&self, before: usize) -> Value {
        let one = eventually(40, || {
            let all = self.all();
            (all.len() > before).then(|| all[0].clone())
        });
        let one = one.unwrap_or_else(|| panic!("nothing is asked: {:?}", self.place.ticks("ada")));
        assert_eq!((&one["action"], &one["state"]), (&json!("reply"), &json!("requested")), "{one}");
        one
    }

    fn replies(&self, friend: &Friend, mention: &str) -> usize {
        friend.query(json!({ "authors": [self.hex], "kinds": [1], "#e": [mention] })).len()
    }

    fn payments(&self) -> i64 {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = rusqlite::Connection::open_with_flags(self.place.database(), flags).unwrap();
        database.query_row("SELECT COUNT(*) FROM payment", [], |row| row.get(0)).unwrap()
    }

    /// The command, not waited for: its host may be about to be killed.
    fn approve_aside(&self, id: &str) -> Child {
        let mut command = self.place.command();
        command.args(["--json", "agent", "approve", "ada", id]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// The owner's key as `nexus dev` made it.
    fn owner(&self) -> Friend {
        let nsec = find_nsec(&self.place.path("config")).unwrap();
        Friend { sk: nsec, ..Friend::new(&self.place.relay()) }
    }

    /// A 39213 over that approval's digest.
    fn decide(&self, by: &Friend, one: &Value, decision: &str) {
        let (id, digest) = (one["id"].as_str().unwrap(), one["digest"].as_str().unwrap());
        let tags = json!([["d", id], ["x", digest], ["decision", decision]]);
        let options = json!({
            "relay": self.place.relay(), "sk": by.sk, "to": self.hex, "text": "", "kind": 39213, "tags": tags,
        });
        nostr("send", options).unwrap();
    }
}

/// The first secret key in a directory's files.
fn find_nsec(dir: &std::path::Path) -> Option<String> {
    std::fs::read_dir(dir).ok()?.filter_map(Result::ok).find_map(|entry| {
        if entry.path().is_dir() {
            return find_nsec(&entry.path());
        }
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let start = text.find("nsec1")?;
        text.get(start..start + 63).map(str::to_owned)
    })
}

fn id_of(one: &Value) -> &str {
    one["id"].as_str().unwrap()
}

#[test]
fn asked_and_answered_by_command_line() {
    let (asking, host) = Asking::new();
    let friend = Friend::new(&asking.place.relay());
    let (first, one) = asking.mention(&friend, "Hello, who are you?");
    // Nothing else is blocked by it: the next message is thought about, and asks for itself.
    let (second, other) = asking.mention(&friend, "And what do you do?");
    assert_ne!(one["digest"], other["digest"]);
    let said = one["opened"]["asked"]["action"]["text"].as_str().unwrap_or_default();
    assert!(!said.is_empty() && one["opened"]["why"] == "autonomy is supervised", "{one}");
    let events = asking.place.events("ada");
    assert!(events.iter().any(|event| event["type"] == "approval_requested" && event["approval_id"] == one["id"]));

    // The wait survives a crash.
    host.kill();
    let _host = asking.place.start(&[]);
    assert_eq!(asking.state_of(id_of(&one)), "requested");
    assert_eq!(asking.replies(&friend, &first), 0);
    let (thought, tried) = (asking.payments(), asking.ticks("failed"));
    let answer = asking.place.ok(&["agent", "approve", "ada", id_of(&one)]);
    assert_eq!((&answer["state"], &answer["ended"]), (&json!("executed"), &json!("done")), "{answer}");
    let reply = friend.answer(1, &asking.hex, Some(&first));
    assert_eq!(reply["text"].as_str().unwrap(), said, "what was shown is what was said");
    assert_eq!(asking.payments(), thought, "nothing is bought for what is decided");
    assert_eq!(asking.ticks("failed"), tried);
    assert!(asking.place.ticks("ada").iter().any(|tick| tick["trigger"] == "approval"));

    // A second answer changes nothing, whichever it is.
    for answer in ["approve", "refuse"] {
        assert_eq!(asking.place.ok(&["agent", answer, "ada", id_of(&one)])["changed"], false);
    }
    let refused = asking.place.ok(&["agent", "refuse", "ada", id_of(&other), "--reason", "not now"]);
    assert_eq!(refused["state"], "denied", "{refused}");
    assert_eq!(asking.place.ok(&["agent", "approve", "ada", id_of(&other)])["changed"], false);
    assert_eq!((asking.replies(&friend, &first), asking.replies(&friend, &second)), (1, 0));
    assert_eq!(list(&asking.place.ok(&["agent", "approvals", "ada"])), Vec::<Value>::new());
    let (code, _, errors) = asking.place.run(&["agent", "approve", "ada", "0199d0a2"]);
    assert_eq!(code, 3, "{errors}");
}

#[test]
fn asked_and_answered_by_nostr() {
    let (asking, host) = Asking::new();
    let (friend, owner) = (Friend::new(&asking.place.relay()), asking.owner());
    let (mention, one) = asking.mention(&friend, "Hello, who are you?");
    // The question is on the relay, to the owner, over the same digest.
    let asked = eventually(20, || friend.query(json!({ "kinds": [39212] })).pop()).unwrap();
    let tag = |name: &str| {
        let tags = asked["tags"].as_array().unwrap();
        tags.iter().find(|tag| tag[0] == name).and_then(|tag| tag[1].as_str()).unwrap_or_default().to_owned()
    };
    assert_eq!((asked["verified"].clone(), tag("d")), (json!(true), id_of(&one).to_owned()));
    assert_eq!((tag("x").as_str(), tag("agent")), (one["digest"].as_str().unwrap(), asking.hex.clone()));
    assert_eq!(asked["id"], one["request"]);
    assert!(!asked.to_string().contains(one["opened"]["asked"]["action"]["text"].as_str().unwrap()));

    // A stranger's answer is no answer, nor is the agent woken to think by it.
    let ticks = asking.place.ticks("ada").len();
    asking.decide(&friend, &one, "approved");
    asking.until(20, "the stranger's answer is looked at", || asking.unhandled() == 0);
    assert_eq!((asking.state_of(id_of(&one)).as_str(), asking.place.ticks("ada").len()), ("requested", ticks));

    asking.decide(&owner, &one, "approved");
    asking.until(30, "carried out", || asking.state_of(id_of(&one)) == "executed");
    friend.answer(1, &asking.hex, Some(&mention));

    // Whoever writes the rows can have it shown as waiting, and the owner's answer come again: it is not done again.
    assert_eq!(host.interrupt(), 0);
    let database = rusqlite::Connection::open(asking.place.database()).unwrap();
    assert_eq!(database.execute("UPDATE approval SET state = 'requested', ended = NULL", []).unwrap(), 1);
    let again = database.execute(
        "UPDATE inbox SET handled = 0, note = NULL, tick_id = NULL,
            payload = (SELECT CAST(json AS BLOB) FROM relay_event e WHERE lower(hex(e.id)) = inbox.external_id)
         WHERE class = 'approval' AND note = 'approved'",
        [],
    );
    assert_eq!(again.unwrap(), 1);
    drop(database);
    let _host = asking.place.start(&[]);
    asking.until(30, "the answer is looked at again", || asking.unhandled() == 0);
    let (other, two) = asking.mention(&friend, "Are you there?");
    assert_eq!(asking.replies(&friend, &mention), 1);
    asking.decide(&owner, &two, "denied");
    asking.until(30, "denied", || asking.state_of(id_of(&two)) == "denied");
    assert_eq!(asking.replies(&friend, &other), 0);
}

impl Asking {
    fn unhandled(&self) -> i64 {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = rusqlite::Connection::open_with_flags(self.place.database(), flags).unwrap();
        let sql = "SELECT COUNT(*) FROM inbox WHERE class = 'approval' AND handled = 0";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// Where the tick that asks can die, and what follows from an approval.
const ASKING: [&str; 3] = ["after:append:decided", "before:commit", "after:commit"];
const EXECUTING: [&str; 12] = [
    "before:approval",
    "after:approval",
    "before:append:began",
    "after:append:began",
    "before:append:decided",
    "after:append:decided",
    "before:act",
    "before:append:acted",
    "after:append:acted",
    "after:act",
    "before:commit",
    "after:commit",
];

#[test]
fn killed_at_every_point_it_is_asked_once_and_done_once() {
    let (asking, host) = Asking::new();
    assert_eq!(host.interrupt(), 0);
    for (number, point) in ASKING.iter().chain(&EXECUTING).enumerate() {
        let text = format!("Hello for the {number}. time");
        let asks = number < ASKING.len();
        let before = if asks { asking.place.start(&[("NEXUS_FAULT", point)]) } else { asking.place.start(&[]) };
        let friend = Friend::new(&asking.place.relay());
        let (mention, one) = if asks {
            let known = asking.all().len();
            let mention = friend.send(1, &asking.hex, &text);
            assert!(before.says(&format!("fault reached: {point}"), 40), "{point} was not reached");
            before.kill();
            let host = asking.place.start(&[]);
            let one = asking.asked(known);
            assert_eq!(asking.all().len(), known + 1, "{point}");
            assert_eq!(host.interrupt(), 0);
            (mention, one)
        } else {
            let asked = asking.mention(&friend, &text);
            assert_eq!(before.interrupt(), 0);
            asked
        };
        let point = if asks { "" } else { point };
        let host = asking.place.start(&[("NEXUS_FAULT", point)]);
        let mut command = asking.approve_aside(id_of(&one));
        if !asks {
            assert!(host.says(&format!("fault reached: {point}"), 40), "{point} was not reached");
            host.kill();
            command.wait().unwrap();
            drop(asking.place.start(&[]).done(&asking, &one));
        } else {
            drop(host.done(&asking, &one));
            command.wait().unwrap();
        }
        let host = asking.place.start(&[]);
        assert_eq!(asking.replies(&friend, &mention), 1, "{point}");
        assert!(!host.logged().contains("panicked"), "{point}: {}", host.logged());
    }
    // One thought for each message and one before them, none for an answer.
    let _host = asking.place.start(&[]);
    assert_eq!(asking.payments(), (ASKING.len() + EXECUTING.len() + 1) as i64);
}

trait Done {
    fn done(self, asking: &Asking, one: &Value) -> Self;
}

impl Done for Host {
    /// Waits until it is carried out.
    fn done(self, asking: &Asking, one: &Value) -> Self {
        asking.until(40, "carried out", || asking.state_of(id_of(one)) == "executed");
        self
    }
}

/// The host is lost after the owner has answered and the answer was carried out; its backup knows of neither.
#[test]
fn a_host_that_is_put_back_does_nothing_of_before_again() {
    let (asking, host) = Asking::new();
    let (place, friend) = (&asking.place, Friend::new(&asking.place.relay()));
    let (first, asked) = asking.mention(&friend, "zebra one");
    let (data, dir, passphrase) = (place.path("data"), place.path("backups"), place.path("backup-passphrase"));
    std::fs::write(&passphrase, "seven lanterns on the northern mole").unwrap();
    let (data, dir, passphrase) = (data.to_str().unwrap(), dir.to_str().unwrap(), passphrase.to_str().unwrap());
    let common = ["--data-dir", data, "--passphrase-file", passphrase];
    let made = place.ok(&[&["backup", "--dir", dir, "--with-keys"], &common[..]].concat());
    let file = list(&made).first().cloned().unwrap_or(made)["file"].as_str().unwrap().to_owned();

    // What the backup does not know of: the owner's word, the reply, and another message with its own.
    asking.decide(&asking.owner(), &asked, "approved");
    asking.until(60, "the reply", || asking.replies(&friend, &first) == 1);
    let (second, again) = asking.mention(&friend, "zebra two");
    place.ok(&["agent", "approve", "ada", id_of(&again)]);
    asking.until(60, "the second reply", || asking.replies(&friend, &second) == 1);
    let raw = |filter: Value| friend.query(filter);
    let mut before = raw(json!({ "ids": [first, second] }));
    before.extend(raw(json!({ "kinds": [39213] })));
    assert!(before.len() >= 3, "{before:?}");
    host.kill();
    std::fs::rename(data, place.path("lost")).unwrap();

    place.ok(&[&["restore", file.as_str(), "--yes"], &common[..]].concat());
    let host = place.start(&[]);
    let restored = || place.events("ada").iter().any(|event| event["type"] == "restored");
    asking.until(60, "wallet and books", restored);
    assert_eq!(asking.state_of(id_of(&asked)), "expired");
    // Whoever has seen them brings them again.
    for event in before {
        let mut event = event;
        event.as_object_mut().unwrap().remove("verified");
        nostr("publish", json!({ "relay": place.relay(), "event": event })).unwrap();
    }
    // And the agent hears what is new.
    let (third, _) = asking.mention(&friend, "zebra three");
    let all = asking.all();
    assert_eq!(all.len(), 2, "one of before, which is over, and one for the third: {all:?}");
    for mention in [&first, &second, &third] {
        assert_eq!(asking.replies(&friend, mention), 0);
    }
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT COUNT(*) FROM inbox WHERE note = 'sent_before_restore'"), 1, "the second mention");
    assert_eq!(host.interrupt(), 0);
}
