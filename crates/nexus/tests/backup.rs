//! A host that is backed up, lost and put back, told to the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::path::PathBuf;

use common::{Host, Place, eventually, list};
use serde_json::Value;

const GOAL: &str = "zebra-goal: keep the lighthouse keepers company";
const PASSPHRASE: &str = "seven lanterns on the northern mole";

fn completed(place: &Place) -> usize {
    place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count()
}

fn ticked(place: &Place, least: usize) {
    let done = eventually(60, || (completed(place) >= least).then_some(()));
    assert!(done.is_some(), "{:?}\n{}", place.ticks("ada"), place.status("ada"));
}

fn data(place: &Place) -> String {
    place.path("data").to_str().unwrap().to_owned()
}

fn passphrase(place: &Place) -> String {
    let path = place.path("backup-passphrase");
    std::fs::write(&path, PASSPHRASE).unwrap();
    path.to_str().unwrap().to_owned()
}

fn back_up(place: &Place) -> PathBuf {
    let (data, passphrase, dir) = (data(place), passphrase(place), place.path("backups"));
    let args = [
        "backup",
        "--data-dir",
        &data,
        "--dir",
        dir.to_str().unwrap(),
        "--passphrase-file",
        &passphrase,
        "--with-keys",
    ];
    let made = place.ok(&args);
    let made = list(&made).first().cloned().unwrap_or(made);
    assert_eq!(made["agents"], 1, "{made}");
    PathBuf::from(made["file"].as_str().unwrap())
}

fn restore(place: &Place, file: &std::path::Path, more: &[&str]) -> (i32, Value, String) {
    let (data, passphrase) = (data(place), passphrase(place));
    let mut args = vec!["restore", file.to_str().unwrap(), "--data-dir", &data, "--passphrase-file", &passphrase];
    args.extend(more);
    place.run(&args)
}

fn lose(place: &Place, host: Host) {
    host.kill();
    std::fs::rename(place.path("data"), place.path("lost")).unwrap();
}

/// The event that says that wallet and books were compared, and how much was missing.
fn restored(place: &Place) -> Option<u64> {
    let event = place.events("ada").into_iter().find(|event| event["type"] == "restored")?;
    event["missing_sats"].as_u64()
}

fn balance(place: &Place) -> u64 {
    eventually(30, || place.status("ada")["balance_sats"].as_u64()).expect("a balance")
}

fn doctor(place: &Place) -> String {
    let found = place.command().args(["doctor", "--data-dir", &data(place)]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[test]
fn a_lost_host_comes_back_and_spends_nothing_twice() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = place.agent("ada", &["--goal", GOAL, "--heartbeat", "1d"]);
    ticked(&place, 1);
    assert!(doctor(&place).contains("none was ever made"), "{}", doctor(&place));
    // While it runs.
    let file = back_up(&place);
    let then = balance(&place);
    assert!(!doctor(&place).contains("none was ever made"), "{}", doctor(&place));

    // What the backup will not know of.
    for more in 2..=3 {
        place.ok(&["agent", "tick", "ada"]);
        ticked(&place, more);
    }
    let now = balance(&place);
    assert!(now < then, "{then} and {now}: {:?}", place.events("ada"));
    let spent = then - now;

    // A restore never goes over a database, and nothing of a changed file is taken.
    let (code, _, errors) = restore(&place, &file, &["--yes"]);
    assert!(code == 1 && errors.contains("is there already"), "{errors}");
    let keys = std::fs::read(place.path("data").join("keys").join("pool.age")).unwrap();
    lose(&place, host);
    let whole = std::fs::read(&file).unwrap();
    let changed = place.path("changed.age");
    for at in [0, 20, 100, 200, whole.len() / 3, whole.len() / 2, whole.len() - 20, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&changed, bytes).unwrap();
        let (code, _, errors) = restore(&place, &changed, &["--yes"]);
        assert!(code == 1 && errors.contains("changed.age"), "byte {at}: {code} {errors}");
        assert!(!place.database().exists(), "byte {at}");
    }
    std::fs::write(&changed, &whole[..whole.len() - 100]).unwrap();
    assert_eq!(restore(&place, &changed, &["--yes"]).0, 1);
    let (code, _, errors) = restore(&place, &file, &[]);
    assert!(code == 2 && errors.contains("--yes"), "{errors}");
    let (code, seen, errors) = restore(&place, &file, &["--check"]);
    assert!(code == 0 && seen["whole"] == true && seen["agents"] == 1, "{seen} {errors}");
    assert!(!place.database().exists());

    // No secret in clear.
    for secret in [GOAL.as_bytes(), npub.as_bytes(), keys.trim_ascii(), b"AGE-SECRET-KEY", b"nsec1"] {
        assert!(!whole.windows(secret.len()).any(|window| window == secret), "{}", String::from_utf8_lossy(secret));
    }

    // On an empty host.
    let (code, answer, errors) = restore(&place, &file, &["--yes"]);
    assert!(code == 0 && answer["agents"] == 1 && answer["epoch"] == 2, "{answer} {errors}");
    assert_eq!(std::fs::read(place.path("data").join("keys").join("pool.age")).unwrap(), keys);
    let host = place.start(&[]);
    let missing = eventually(60, || restored(&place));
    assert_eq!(missing, Some(spent), "{}\n{}", place.status("ada"), host.logged());
    assert_eq!(balance(&place), then - spent, "the wallet's own word");
    assert_eq!(completed(&place), 1, "the history is the backup's");
    place.ok(&["agent", "tick", "ada"]);
    ticked(&place, 2);
    assert!(balance(&place) < then - spent);
    place.ok(&["agent", "events", "ada", "--verify"]);
    assert_eq!(host.interrupt(), 0);
}

/// The host was backed up in the middle of paying, and had paid by the time it was lost.
#[test]
fn a_payment_of_the_gap_is_found_and_never_sent_again() {
    for point in ["after:append:paying", "before:dispatch", "after:dispatch"] {
        let place = Place::new();
        let host = place.start(&[("NEXUS_FAULT", point)]);
        place.agent("ada", &["--goal", GOAL, "--heartbeat", "1d"]);
        assert!(host.says(&format!("fault reached: {point}"), 60), "{}", host.logged());
        let file = back_up(&place);
        host.kill();
        // It came back and went on: paid, once.
        let host = place.start(&[]);
        ticked(&place, 1);
        let left = balance(&place);
        assert!(left < 10_000, "{point}");
        lose(&place, host);

        let (code, _, errors) = restore(&place, &file, &["--yes"]);
        assert_eq!(code, 0, "{errors}");
        let host = place.start(&[]);
        let missing = eventually(90, || restored(&place));
        assert!(missing.is_some(), "{point}: {}\n{}", place.status("ada"), host.logged());
        assert_eq!(missing, Some(0), "{point}: the payment explains it all");
        let payments: Vec<Value> = place.events("ada").into_iter().filter(|event| event["type"] == "payment").collect();
        assert_eq!(payments.len(), 1, "{point}: {payments:?}");
        assert_eq!(payments[0]["state"], "settled", "{point}");
        let ticks = place.ticks("ada");
        let ended = ticks.iter().find(|tick| tick["status"] == "failed");
        assert_eq!(ended.unwrap_or(&Value::Null)["reason"], "restored", "{point}: {ticks:?}");
        assert_eq!(balance(&place), left, "{point}: nothing was paid again");
        place.ok(&["agent", "tick", "ada"]);
        ticked(&place, 1);
        assert!(balance(&place) < left, "{point}");
    }
}

#[test]
fn bad_input_is_told() {
    let place = Place::new();
    let (data, dir) = (data(&place), place.path("backups"));
    let dir = dir.to_str().unwrap();
    let weak = place.path("weak");
    std::fs::write(&weak, "hunter2").unwrap();
    let weak = weak.to_str().unwrap();
    let backup = |more: &[&str]| {
        let mut args = vec!["backup", "--data-dir", &data, "--dir", dir];
        args.extend(more);
        place.run(&args)
    };
    let (code, _, errors) = backup(&["--passphrase-file", weak]);
    assert!(code == 1 && errors.contains("there is no database"), "{errors}");
    let host = place.start(&[]);
    for (more, says) in [
        (&["--passphrase-file", weak][..], "at least 12 characters"),
        (&[], "--passphrase-file"),
        (&["--recipient", "age1nonsense"], "not an age X25519 recipient"),
        (&["--passphrase-file", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let (code, _, errors) = backup(more);
        assert!(code == 2 || code == 1, "{more:?}: {errors}");
        assert!(errors.contains(says), "{more:?}: {errors}");
    }
    assert_eq!(backup(&["--every", "1s", "--passphrase-file", weak]).0, 2);

    // To a key, which opens it without a passphrase; and a note is no backup.
    let key = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    let (code, made, errors) = backup(&["--recipient", recipient]);
    assert_eq!(code, 0, "{errors}");
    let made = list(&made).first().cloned().unwrap_or(made);
    let identity = place.path("identity");
    std::fs::write(&identity, key).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(&identity, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let identity = identity.to_str().unwrap();
    let file = made["file"].as_str().unwrap();
    let (code, seen, errors) = place.run(&["restore", file, "--check", "--identity-file", identity]);
    assert!(code == 0 && seen["agents"] == 0 && seen["keys"].as_array().unwrap().is_empty(), "{seen} {errors}");
    let wrong = passphrase(&place);
    let (code, _, errors) = place.run(&["restore", file, "--check", "--passphrase-file", &wrong]);
    assert!(code == 1 && errors.contains("passphrase"), "{errors}");
    let (code, _, errors) = place.run(&["restore", identity, "--check", "--identity-file", identity]);
    assert!(code == 1, "{errors}");
    assert_eq!(host.interrupt(), 0);
}
