//! A host whose agents' states are objects: killed between put and commit, cut off from its object store, restarted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::path::PathBuf;

use common::secrets::secrets_are_nowhere;
use common::{Friend, Place, eventually, find, hex_of};
use nexus_testkit::proxy::Rule;
use nexus_testkit::s3::{KEY, S3Server, SECRET};

const GOAL: &str = "zebra-goal: keep the lighthouse keepers company";
const SECRET_DM: &str = "zebra-message: the key is under the third stone";

/// Everything is an object, in a directory.
const OBJECTS: [(&str, &str); 2] = [("NEXUS_OBJECTS_KIND", "directory"), ("NEXUS_OBJECTS_THRESHOLD_BYTES", "0")];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    OBJECTS.iter().chain(more).copied().collect()
}

fn objects(place: &Place) -> PathBuf {
    place.path("data").join("objects")
}

/// Blobs of an agent that are there.
fn held(place: &Place, hex: &str) -> usize {
    std::fs::read_dir(objects(place).join(hex)).map_or(0, |entries| entries.flatten().count())
}

/// How many blobs rows keep, how many are to go, and how many states are bytes in a row.
fn rows(place: &Place) -> (i64, i64, i64) {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = rusqlite::Connection::open_with_flags(place.database(), flags).unwrap();
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    (
        count("SELECT COUNT(*) FROM blob WHERE dropped_at IS NULL"),
        count("SELECT COUNT(*) FROM blob WHERE dropped_at IS NOT NULL"),
        count("SELECT COUNT(*) FROM agent_state WHERE object IS NULL"),
    )
}

fn completed(place: &Place) -> usize {
    place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count()
}

#[test]
fn an_agent_lives_in_an_object_store() {
    let place = Place::new();
    let host = place.start(&with(&[("NEXUS_FAULT", "after:stage#3")]));
    let npub = place.agent("ada", &["--goal", GOAL, "--heartbeat", "1d"]);
    let hex = hex_of(&npub);
    // Stopped for good with the object put and no row naming it; killed there.
    assert!(host.says("fault reached: after:stage", 40), "{}", host.logged());
    let before = rows(&place);
    assert!(before.1 > 0 && held(&place, &hex) >= 3, "{before:?}");
    host.kill();

    let host = place.start(&with(&[]));
    let first = eventually(40, || (completed(&place) >= 1).then_some(()));
    assert!(first.is_some(), "{:?}", place.ticks("ada"));
    let friend = Friend::new(&place.relay());
    friend.send(17, &hex, SECRET_DM);
    friend.answer(17, &hex, None);
    let (kept, to_go, in_rows) = rows(&place);
    assert!(kept >= 2 && to_go >= 1 && in_rows == 0, "{kept} kept, {to_go} to go, {in_rows} in rows");
    let doctor = place.command().args(["doctor", "--data-dir"]).arg(place.path("data")).envs(OBJECTS).output().unwrap();
    let found = String::from_utf8_lossy(&doctor.stdout);
    assert!(found.contains("read and deleted a probe"), "{found}");

    // What people may read of a tick is served from the object, and is ciphertext there.
    let tick = place.ticks("ada").into_iter().find(|tick| tick["status"] == "completed").unwrap();
    assert!(tick["sealed"].is_null() && tick["sealed_bytes"].as_u64() > Some(0), "{tick}");
    secrets_are_nowhere(&place, &host, &npub, &friend);

    // The store is gone for a while: the agent says so, and goes on when it is back.
    let away = place.path("away");
    std::fs::rename(objects(&place), &away).unwrap();
    friend.send(17, &hex, "Are you there?");
    let parked = eventually(20, || {
        let reason = find(&place.status("ada")["reason"], "code");
        (reason.as_deref() == Some("object_store_unreachable")).then_some(place.status("ada"))
    });
    assert!(parked.is_some(), "{}", place.status("ada"));
    assert!(!objects(&place).exists(), "nothing is put where the store was");
    std::fs::rename(&away, objects(&place)).unwrap();
    friend.answer(17, &hex, None);

    // A blob that is damaged parks its agent, under another name; as it was, it goes on.
    let current = place.path("current");
    let dir = objects(&place).join(&hex);
    std::fs::rename(&dir, &current).unwrap();
    friend.send(17, &hex, "And now?");
    let parked = eventually(20, || {
        let reason = find(&place.status("ada")["reason"], "code");
        (reason.as_deref() == Some("state_missing")).then_some(())
    });
    assert!(parked.is_some(), "{}", place.status("ada"));
    assert_eq!(host.interrupt(), 0);
    std::fs::rename(&current, &dir).unwrap();
    let host = place.start(&with(&[]));
    friend.answer(17, &hex, None);
    assert!(!host.logged().contains("panicked"));
    drop(host);

    // Without the object store nobody takes the state for lost, or starts afresh.
    let host = place.start(&[]);
    friend.send(17, &hex, "Do you remember?");
    let parked = eventually(20, || {
        let reason = find(&place.status("ada")["reason"], "code");
        (reason.as_deref() == Some("object_store_unset")).then_some(())
    });
    assert!(parked.is_some(), "{}", place.status("ada"));
    drop(host);
}

/// The same over the network: every state an object of a bucket, by a signature, over a wire that is cut and comes back.
#[test]
fn an_agent_lives_in_a_bucket() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let place = Place::new();
    let server = runtime.block_on(S3Server::start(&place.path("s3"), "agents"));
    let key = place.path("bucket-key");
    std::fs::write(&key, format!("{KEY}\n{SECRET}\n")).unwrap();
    let (endpoint, key) = (server.endpoint(), key.display().to_string());
    let bucket = [
        ("NEXUS_OBJECTS_KIND", "s3"),
        ("NEXUS_OBJECTS_THRESHOLD_BYTES", "0"),
        ("NEXUS_OBJECTS_S3_BUCKET", "agents"),
        ("NEXUS_OBJECTS_S3_ENDPOINT", endpoint.as_str()),
        ("NEXUS_OBJECTS_S3_ALLOW_HTTP", "true"),
        ("NEXUS_OBJECTS_S3_CREDENTIALS_FILE", key.as_str()),
    ];
    let host = place.start(&bucket);
    let npub = place.agent("ada", &["--goal", GOAL, "--heartbeat", "1d"]);
    let hex = hex_of(&npub);
    let friend = Friend::new(&place.relay());
    friend.send(17, &hex, SECRET_DM);
    friend.answer(17, &hex, None);
    let (kept, _, in_rows) = rows(&place);
    let files = std::fs::read_dir(server.directory("agents").join(&hex)).map_or(0, |entries| entries.flatten().count());
    assert!(kept >= 2 && in_rows == 0 && files >= 2, "{kept} kept, {in_rows} in rows, {files} objects");
    secrets_are_nowhere(&place, &host, &npub, &friend);
    assert!(!host.logged().contains(SECRET), "{}", host.logged());

    server.wire.set(Rule::Cut);
    friend.send(17, &hex, "Are you there?");
    let parked = eventually(40, || {
        let reason = find(&place.status("ada")["reason"], "code");
        (reason.as_deref() == Some("object_store_unreachable")).then_some(())
    });
    assert!(parked.is_some(), "{}", place.status("ada"));
    server.wire.set(Rule::Pass);
    friend.answer(17, &hex, None);
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn credentials_are_shown_nowhere() {
    let place = Place::new();
    let key = place.path("bucket-key");
    std::fs::write(&key, "zebra-access-key\nzebra-secret-key\n").unwrap();
    let shown = place
        .command()
        .args(["config", "--sources"])
        .env("NEXUS_OBJECTS_KIND", "s3")
        .env("NEXUS_OBJECTS_S3_BUCKET", "agents")
        .env("NEXUS_OBJECTS_S3_CREDENTIALS_FILE", &key)
        .env("AWS_SECRET_ACCESS_KEY", "zebra-secret-of-the-environment")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success() && text.contains("bucket-key"), "{text}");
    assert!(!text.contains("zebra"), "{text}");
    for (name, value, wanted) in [
        ("NEXUS_OBJECTS_GRACE_MS", "5000", "objects: grace_ms"),
        ("NEXUS_OBJECTS_S3_PREFIX", "/a", "objects: "),
        ("NEXUS_OBJECTS_KIND", "tape", "objects.kind"),
    ] {
        let mut command = place.command();
        command.arg("config").env("NEXUS_OBJECTS_KIND", "s3").env("NEXUS_OBJECTS_S3_BUCKET", "agents");
        let refused = command.env(name, value).output().unwrap();
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && errors.contains(wanted), "{name}: {errors}");
    }
}
