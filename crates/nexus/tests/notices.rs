//! An owner hears, unasked, that an agent needs them: told to the real binary, heard by an independent client.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Friend, Place, eventually, find, hex_of, nostr};
use serde_json::{Value, json};

/// The owner as `nexus dev` made them.
fn owner(place: &Place) -> Friend {
    let nsec = find_nsec(&place.path("config")).unwrap();
    Friend { sk: nsec, ..Friend::new(&place.relay()) }
}

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

/// The next private message of the installation that was not heard yet.
fn heard(owner: &Friend, runner: &str, known: &mut Vec<String>) -> Option<String> {
    let options =
        json!({ "relay": owner.relay, "sk": owner.sk, "from": runner, "kind": 17, "not": known, "ms": 45_000 });
    let message: Value = nostr("wait", options).ok()?.remove(0);
    known.push(message["id"].as_str()?.to_owned());
    Some(message["text"].as_str()?.to_owned())
}

#[test]
fn an_owner_is_told_what_an_agent_needs() {
    let place = Place::new();
    let host = place.start(&[]);
    let runner = eventually(30, || {
        let (code, pool, _) = place.run(&["pool"]);
        (code == 0).then(|| find(&pool, "runner")).flatten()
    });
    let runner = hex_of(&runner.expect("the installation's key"));
    let passphrase = place.path("passphrase");
    let passphrase = passphrase.to_str().unwrap();
    place.ok(&["agent", "create", "ada", "--start", "--custody", "attended", "--passphrase-file", passphrase]);
    let (owner, mut known) = (owner(&place), Vec::new());
    let locked = heard(&owner, &runner, &mut known).unwrap_or_else(|| panic!("{}", host.logged()));
    assert!(
        locked.starts_with("ada needs you: it waits for its key") && locked.contains("agent unlock ada"),
        "{locked}"
    );

    // Asked before everything that others can see.
    let policy = place.path("supervised.json");
    std::fs::write(&policy, json!({ "autonomy": "supervised" }).to_string()).unwrap();
    let npub = place.agent("bob", &["--heartbeat", "1d", "--policy-file", policy.to_str().unwrap()]);
    let calm = || place.ticks("bob").iter().any(|tick| tick["status"] == "completed").then_some(());
    assert!(eventually(60, calm).is_some(), "{}", place.status("bob"));
    Friend::new(&place.relay()).send(1, &hex_of(&npub), "zebra: will you answer?");
    let asks = heard(&owner, &runner, &mut known)
        .unwrap_or_else(|| panic!("{:?}\n{:?}", place.ok(&["agent", "approvals", "bob", "--all"]), place.ticks("bob")));
    assert!(asks.starts_with("bob asks you: reply") && !asks.contains("zebra"), "{asks}");

    // At eleven sats every ten seconds its money lasts some hours.
    place.agent("eve", &["--heartbeat", "10s"]);
    let poor =
        heard(&owner, &runner, &mut known).unwrap_or_else(|| panic!("{}\n{}", place.status("eve"), host.logged()));
    assert!(poor.starts_with("eve needs you: it") && poor.contains("nexus agent fund eve"), "{poor}");

    // Told once, however often the agent is looked at, and after a restart.
    host.kill();
    let host = place.start(&[]);
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let noticed = || {
        let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
        let sql =
            "SELECT COUNT(*) FROM publication p JOIN agent a ON a.npub = p.npub WHERE a.name = 'ada' AND p.kind = 1059";
        database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let locked = eventually(60, || (place.status("ada")["reason"]["code"] == "locked").then_some(()));
    assert!(locked.is_some(), "{}", place.status("ada"));
    assert_eq!(noticed(), 1);
    assert_eq!(host.interrupt(), 0);
}
