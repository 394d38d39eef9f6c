//! Agents that come from Pylon and OpenAgents, and go there, told to the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::path::Path;

use common::{Place, eventually, list};
use serde_json::Value;

const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
const HEX: &str = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";
/// A file as OpenAgents writes it: password `strong_password_123`, salt and nonce counted up from 0.
const IDENTITY: &str = r#"{"ciphertext":"yurgzgV+xouo3lHq1v0iV6X4eleycOucA+aTDz8MxomMAuWGWP+s99JwlCfPg7Ozv58k/WGhSJndMI9FSZf/DYi2R2mHvyAXFfawEnmwST6wzbfV/BJxOwaY3kRIxrrzfb0t3z5v1W+Nty2J0A==","nonce":"AAECAwQFBgcICQoL","salt":"AAECAwQFBgcICQoLDA0ODw","version":1,"argon2_params":null}"#;
const CONFIG: &str = "name = \"Old Pylon\"\ndescription = \"helps\"\nrelays = [\"wss://relay.example\"]\nmin_price_msats = 1000\nspark_token = \"t0k3n\"\n";
/// Where the old money is, on mainnet.
const SPARK: &str = "0281363910b0dc0015a4a25e758da30f0e28388ea5252c0e3713936f2d4ef7d3d5";

fn file(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn import(place: &Place, files: &[&str], more: &[&str]) -> (i32, Value, String) {
    let passphrase = place.path("passphrase");
    let mut args = vec!["agent", "import"];
    args.extend(files);
    args.extend(["--passphrase-file", passphrase.to_str().unwrap(), "--yes"]);
    args.extend(more);
    place.run(&args)
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn an_agent_comes_and_goes_with_its_key() {
    let place = Place::new();
    let host = place.start(&[]);
    let (identity, config) = (file(&place, "identity.enc", IDENTITY), file(&place, "config.toml", CONFIG));
    let password = file(&place, "identity-password", "strong_password_123");
    let with = ["--identity-password-file", password.as_str(), "--start"];
    let (code, imported, errors) = import(&place, &[&identity, &config], &with);
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains(SPARK) && errors.contains("old-pylon") && !errors.contains("t0k3n"), "{errors}");
    let status = place.status("old-pylon");
    let npub: nexus_core::Npub = status["npub"].as_str().unwrap().parse().unwrap();
    assert_eq!(npub.to_hex(), HEX, "{imported}");
    assert_eq!(status["config"]["relays"], serde_json::json!(["wss://relay.example"]));
    place.ok(&["agent", "set", "old-pylon", "--relay", &place.relay()]);
    place.ok(&["agent", "fund", "old-pylon", "--sats", "5000"]);
    let done = || place.ticks("old-pylon").iter().any(|tick| tick["status"] == "completed").then_some(());
    assert!(eventually(60, done).is_some(), "{}", place.status("old-pylon"));

    // And out again; what is written opens as the old file did.
    let (out, passphrase) = (place.path("pylon"), place.path("passphrase"));
    let (out, passphrase) = (out.to_str().unwrap(), passphrase.to_str().unwrap());
    let export = ["agent", "export", "old-pylon", "--format", "pylon", "--out", out, "--passphrase-file", passphrase];
    let written = place.ok(&[&export[..], &["--identity-password-file", &password]].concat());
    assert_eq!(list(&written["files"]).len(), 2, "{written}");
    for name in ["identity.enc", "config.toml"] {
        assert!(!holds(&Path::new(out).join(name), "abandon"), "{name}");
    }
    let (code, _, errors) = place.run(&export);
    assert!(code == 2 && errors.contains("is there already"), "{errors}");
    let clear = place.path("clear");
    let mut again = export.map(str::to_owned);
    again[6] = clear.to_str().unwrap().to_owned();
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    place.ok(&[&again[..], &["--with-clear-words"]].concat());
    assert_eq!(std::fs::read_to_string(clear.join("identity.mnemonic")).unwrap(), WORDS);
    #[cfg(unix)]
    for name in ["identity.mnemonic", "identity.enc"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(clear.join(name)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // Elsewhere it is the same agent.
    let other = Place::new();
    let there = other.start(&[]);
    let (identity, config) = (format!("{out}/identity.enc"), format!("{out}/config.toml"));
    let (code, _, errors) = import(&other, &[&identity, &config], &["--identity-password-file", &password]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(other.status("old-pylon")["npub"], npub.to_string());

    // The words are nowhere in clear but where they were asked for.
    for path in [place.database(), place.database().with_extension("db-wal"), place.path("log-1"), other.path("log-1")]
    {
        assert!(!holds(&path, "abandon abandon"), "{}", path.display());
    }
    assert_eq!((host.interrupt(), there.interrupt()), (0, 0));
}

#[test]
fn bad_files_are_told() {
    let place = Place::new();
    let host = place.start(&[]);
    let agent = |words: &str| format!("name = \"a\"\npubkey = \"{HEX}\"\nmnemonic_encrypted = \"{words}\"\n");
    let good = file(&place, "agent.toml", &agent(WORDS));
    let words = file(&place, "identity.mnemonic", WORDS);
    let other =
        file(&place, "other.mnemonic", "legal winner thank year wave sausage worth useful legal winner thank yellow");
    let config = file(&place, "config.toml", CONFIG);
    let identity = file(&place, "identity.enc", IDENTITY);
    let wrong = file(&place, "wrong", "not the password");
    let mismatch = file(
        &place,
        "mismatch.toml",
        &agent("legal winner thank year wave sausage worth useful legal winner thank yellow"),
    );
    let note = file(&place, "note", "dear diary");
    for (files, more, code, says) in [
        (&[&config][..], &[][..], 2, "holds a key"),
        (&[&words], &[], 2, "--name"),
        (&[&words, &other], &["--name", "x"], 4, "two agents"),
        (&[&words, &note], &["--name", "x"], 2, "note"),
        (&[&mismatch], &[], 4, "names"),
        (&[&identity], &["--name", "x", "--identity-password-file", &wrong], 6, "password"),
        (&[&identity], &["--name", "x"], 2, "--identity-password-file"),
        (&[&words], &["--name", "x", "--bunker-file", &wrong], 2, "signer"),
    ] {
        let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
        let (found, _, errors) = import(&place, &files, more);
        assert_eq!(found, code, "{files:?} {more:?}: {errors}");
        assert!(errors.contains(says) && !errors.contains("abandon") && !errors.contains("legal winner"), "{errors}");
    }
    assert!(list(&place.ok(&["agent", "list"])).is_empty());
    // Two files of one agent are one agent, named by the one that has a name.
    let (code, _, errors) = import(&place, &[&words, &good], &[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(place.status("a")["npub"].as_str().unwrap().parse::<nexus_core::Npub>().unwrap().to_hex(), HEX);
    assert_eq!(host.interrupt(), 0);
}
