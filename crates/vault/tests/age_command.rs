//! The owner's envelope opens with the `age` command, and one of the command's opens here.
//!
//! `age` reads passphrases from a terminal only; `script` gives it one. Without the two commands the test says so and
//! does nothing; `./scripts/setup` installs them.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test")]

use std::io::Write;
use std::process::{Command, Stdio};

use nexus_seal::{Passphrase, check_mnemonic_envelope, seal_mnemonic, seal_to_recipient_armored};
use nexus_testkit::SeededEntropy;
use nexus_vault::{Mnemonic, PoolIdentity, open_mnemonic};

fn have(command: &str) -> bool {
    Command::new(command).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Runs a command on a terminal of its own and types the passphrase when asked.
fn on_a_terminal(command: &str, passphrase: &str, answers: usize) -> bool {
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for _ in 0..answers {
        // age drops what was typed before it asked.
        std::thread::sleep(std::time::Duration::from_millis(700));
        let _ = stdin.write_all(format!("{passphrase}\n").as_bytes());
    }
    let status = child.wait().unwrap();
    drop(stdin);
    status.success()
}

#[test]
fn the_age_command_and_we_open_each_others_files() {
    if !have("age") || !have("script") {
        eprintln!("skipped: age or script is not installed");
        return;
    }
    let entropy = SeededEntropy::new(21);
    let mnemonic = Mnemonic::generate(&entropy);
    let passphrase = Passphrase::generate(&entropy);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();

    // Ours, opened by age.
    let ours = seal_mnemonic(&mnemonic.expose(), &passphrase).unwrap();
    std::fs::write(path("ours.age"), ours).unwrap();
    let command = format!("age -d -o {} {}", path("ours.txt"), path("ours.age"));
    assert!(on_a_terminal(&command, passphrase.expose(), 1));
    assert_eq!(std::fs::read_to_string(path("ours.txt")).unwrap(), mnemonic.expose().expose());

    // age's own, opened here: its work factor is ours too.
    std::fs::write(path("words.txt"), mnemonic.expose().expose()).unwrap();
    let command = format!("age -a -p -o {} {}", path("theirs.age"), path("words.txt"));
    assert!(on_a_terminal(&command, passphrase.expose(), 2));
    let theirs = std::fs::read_to_string(path("theirs.age")).unwrap();
    check_mnemonic_envelope(&theirs).unwrap();
    assert_eq!(open_mnemonic(&theirs, &passphrase).unwrap().expose(), mnemonic.expose());
}

#[test]
fn the_age_command_opens_what_is_sealed_to_a_pool() {
    if !have("age") {
        eprintln!("skipped: age is not installed");
        return;
    }
    let identity = PoolIdentity::generate(&SeededEntropy::new(22));
    let dir = tempfile::tempdir().unwrap();
    let (key, file) = (dir.path().join("key"), dir.path().join("file"));
    std::fs::write(&key, identity.expose_text().expose()).unwrap();
    std::fs::write(&file, seal_to_recipient_armored(&identity.recipient(), b"for the pool").unwrap()).unwrap();
    let output = Command::new("age").arg("-d").arg("-i").arg(&key).arg(&file).output().unwrap();
    assert_eq!(output.stdout, b"for the pool");
    assert_eq!(PoolIdentity::parse(identity.expose_text().expose()).unwrap().recipient(), identity.recipient());
}
