//! Custody, told to the real binary: who can use an agent's key, and who tries to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::io::BufRead;
use std::sync::Arc;

use common::secrets::{secrets_are_nowhere, these_are_nowhere};
use common::{Friend, Host, PASSPHRASE, Place, eventually, find, hex_of};
use nexus_client::{Api, Auth, Contexts, OwnerKeys};
use nexus_core::policy::Custody;
use nexus_core::{Clock, Entropy, Npub, UnixMs};
use nexus_seal::event::tag;
use nexus_seal::proof::{Request, unsigned_request};
use nexus_seal::unlock::{Offered, Unlock, path};
use nexus_seal::{OwnerCommand, Passphrase, SealedKey, SignedPool, Signer, UnlockOffer, seal_unlock, verify_offer};
use nexus_testkit::{SystemEntropy, TestClock};
use nexus_vault::{LocalSigner, Mnemonic, open_mnemonic};
use serde_json::{Value, json};

const GOAL: &str = "zebra-goal: keep the lighthouse keepers company";

/// Creates an agent whose key nobody stores, and starts it.
fn attended(place: &Place) -> String {
    let passphrase = place.path("passphrase");
    let passphrase = passphrase.to_str().unwrap();
    let custody = ["--custody", "attended", "--heartbeat", "1d", "--goal", GOAL];
    let mut args = vec!["agent", "create", "ada", "--start", "--passphrase-file", passphrase];
    args.extend(custody);
    find(&place.ok(&args), "npub").unwrap()
}

fn shows(place: &Place, code: &str) -> Value {
    let shown = eventually(60, || {
        let status = place.status("ada");
        (status["reason"]["code"] == code).then_some(status)
    });
    shown.unwrap_or_else(|| panic!("expected {code}: {}", place.status("ada")))
}

fn unlock(place: &Place) -> Value {
    place.ok(&["agent", "unlock", "ada", "--passphrase-file", place.path("passphrase").to_str().unwrap()])
}

fn database(place: &Place) -> rusqlite::Connection {
    let database = rusqlite::Connection::open(place.database()).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    database
}

fn completed(place: &Place) -> usize {
    place.ticks("ada").iter().filter(|tick| tick["status"] == "completed").count()
}

#[test]
fn an_attended_agent_is_unlocked_after_each_placement() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = attended(&place);
    let hex = hex_of(&npub);
    let stored: Option<String> =
        database(&place).query_row("SELECT sealed_key FROM agent_sealed", [], |row| row.get(0)).unwrap();
    assert_eq!(stored, None);

    // Locked: it says so, and what to do; everything that needs the key says the same at once.
    let locked = shows(&place, "locked");
    assert_eq!(locked["custody"], "locked", "{locked}");
    assert!(locked["reason"]["text"].as_str().unwrap().contains("nexus agent unlock ada"), "{locked}");
    assert!(!locked["next_attempt_at_ms"].is_null(), "{locked}");
    let (code, _, errors) = place.run(&["agent", "fund", "ada"]);
    assert_eq!(code, 5, "{errors}");
    assert!(errors.contains("nexus agent unlock ada"), "{errors}");
    let wrong = place.path("wrong");
    std::fs::write(&wrong, "another passphrase altogether").unwrap();
    let (code, _, errors) = place.run(&["agent", "unlock", "ada", "--passphrase-file", wrong.to_str().unwrap()]);
    assert_eq!(code, 6, "{errors}");
    let (code, _, errors) = place.run(&["agent", "unlock", "ada"]);
    assert_eq!(code, 2, "no terminal and no passphrase file: {errors}");

    // A message waits for the owner, and is answered once it is unlocked and funded.
    let friend = Friend::new(&place.relay());
    let waiting = friend.send(1, &hex, "Are you in there?");
    assert_eq!(unlock(&place)["sent"], true);
    assert_eq!(unlock(&place)["sent"], false, "it is unlocked already");
    place.ok(&["agent", "fund", "ada", "--sats", "10000"]);
    friend.answer(1, &hex, Some(&waiting));
    assert_eq!(place.status("ada")["custody"], "ready");
    friend.send(17, &hex, "zebra-message: the key is under the third stone");
    friend.answer(17, &hex, None);
    assert!(eventually(30, || (completed(&place) >= 2).then_some(())).is_some());

    // The host is killed: what it knew is gone. Ticks wait.
    host.kill();
    let host = place.start(&[]);
    let waiting = friend.send(1, &hex, "And now?");
    assert_eq!(shows(&place, "locked")["custody"], "locked");
    let before = place.ticks("ada").len();
    assert_eq!(unlock(&place)["sent"], true);
    friend.answer(1, &hex, Some(&waiting));
    assert!(place.ticks("ada").len() > before);

    // A stop ends the placement, and so the worker's knowledge.
    place.ok(&["agent", "stop", "ada"]);
    let (code, _, errors) =
        place.run(&["agent", "unlock", "ada", "--passphrase-file", place.path("passphrase").to_str().unwrap()]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("nexus agent start"), "{errors}");
    let unplaced = eventually(30, || (place.status("ada")["placement"] == "unplaced").then_some(()));
    assert!(unplaced.is_some(), "{}", place.status("ada"));
    place.ok(&["agent", "start", "ada"]);
    shows(&place, "locked");
    secrets_are_nowhere(&place, &host, &npub, &friend);
    drop(host);
}

/// Somebody else's signer, and one made of somebody else's parts.
const NDK: &str = "ndk-signer.mjs";
const NOSTR_TOOLS: &str = "signer.mjs";

/// A signer of the owner's own, in a process of its own.
struct Bunker {
    child: std::process::Child,
    said: Value,
}

/// The keys of a person and of their signer, which outlive the signer's process.
struct Keys {
    user: Friend,
    signer: Friend,
    state: std::path::PathBuf,
}

impl Keys {
    fn new(place: &Place) -> Self {
        let relay = place.relay();
        Self { user: Friend::new(&relay), signer: Friend::new(&relay), state: place.path("signer.json") }
    }

    fn run(&self, place: &Place, program: &str, how: (&str, &str)) -> Bunker {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/independent").join(program);
        let options = json!({
            "relay": place.relay(), "sk": self.user.sk, "signer": self.signer.sk, "state": self.state, how.0: how.1,
        });
        let mut child = std::process::Command::new("node")
            .arg(script)
            .arg(options.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Bunker { child, said: serde_json::from_str(&line).unwrap() }
    }
}

impl Drop for Bunker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_that_stays_in_its_owners_signer() {
    let place = Place::new();
    let host = place.start(&[]);
    let keys = Keys::new(&place);
    let secret = ("secret", "zebra-connection-secret");
    let bunker = keys.run(&place, NDK, secret);
    let uri = place.path("bunker");
    std::fs::write(&uri, bunker.said["uri"].as_str().unwrap()).unwrap();
    let passphrase = place.path("passphrase");
    let created = place.ok(&[
        "agent",
        "create",
        "ada",
        "--custody",
        "bunker",
        "--bunker-file",
        uri.to_str().unwrap(),
        "--heartbeat",
        "1d",
        "--goal",
        GOAL,
        "--start",
        "--passphrase-file",
        passphrase.to_str().unwrap(),
    ]);
    let npub = find(&created, "npub").unwrap();
    assert_eq!(npub, keys.user.npub, "the agent is who its signer is");
    place.ok(&["agent", "fund", "ada", "--sats", "10000"]);
    let friend = Friend::new(&place.relay());
    let hex = hex_of(&npub);
    let mention = friend.send(1, &hex, "Hello there");
    friend.answer(1, &hex, Some(&mention));
    friend.send(17, &hex, "zebra-message: the key is under the third stone");
    friend.answer(17, &hex, None);

    // The signer goes away: everything waits under that reason, and goes on by itself when it is back.
    drop(bunker);
    let waiting = friend.send(1, &hex, "Are you there?");
    let shown = shows(&place, "signer_offline");
    assert_eq!(shown["custody"], "signer_offline", "{shown}");
    assert!(!shown["next_attempt_at_ms"].is_null(), "{shown}");
    let (code, _, errors) = place.run(&["agent", "fund", "ada"]);
    assert_eq!(code, 5, "{errors}");
    let bunker = keys.run(&place, NDK, secret);
    friend.answer(1, &hex, Some(&waiting));
    assert_eq!(place.status("ada")["custody"], "ready");

    // So it does after the host was killed, without anybody's help.
    host.kill();
    drop(bunker);
    let host = place.start(&[]);
    let bunker = keys.run(&place, NDK, secret);
    let mention = friend.send(1, &hex, "And now?");
    friend.answer(1, &hex, Some(&mention));

    let client: Vec<String> = serde_json::from_slice(&std::fs::read(&keys.state).unwrap()).unwrap();
    assert_eq!(client.len(), 1, "one client, however often it comes back");
    let envelope = std::fs::read_to_string(place.path("config").join("agents").join(format!("{npub}.age"))).unwrap();
    let wallet = open_mnemonic(&envelope, &Passphrase::existing(PASSPHRASE)).unwrap();
    let words = wallet.expose();
    assert_ne!(wallet.npub().unwrap().to_string(), npub, "the envelope holds the wallet's words alone");
    let needles = vec![
        ("the user's key", keys.user.sk.clone()),
        ("the signer's key", keys.signer.sk.clone()),
        ("the connection's secret", secret.1.to_owned()),
        ("the wallet's words", words.expose().to_owned()),
        ("the wallet's seed", hex::encode(wallet.wallet_seed().unwrap().expose_seed().expose())),
    ];
    these_are_nowhere(&place, &host, &friend, needles);
    drop((bunker, host));
}

#[test]
fn a_signer_that_is_given_the_hosts_text() {
    let place = Place::new();
    let host = place.start(&[]);
    let keys = Keys::new(&place);
    let (passphrase, relay) = (place.path("passphrase"), place.relay());
    let mut create = place
        .command()
        .args(["agent", "create", "ada", "--custody", "bunker", "--nostrconnect", &relay, "--passphrase-file"])
        .arg(&passphrase)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let errors = std::io::BufReader::new(create.stderr.take().unwrap());
    let uri = errors.lines().map_while(Result::ok).find(|line| line.trim().starts_with("nostrconnect://")).unwrap();
    let bunker = keys.run(&place, NOSTR_TOOLS, ("connect", uri.trim()));
    assert!(create.wait().unwrap().success());
    assert_eq!(find(&place.status("ada"), "npub").unwrap(), keys.user.npub);
    drop((bunker, host));
}

/// The agent in a file, its host stopped, and nothing else left of it: neither the host's data nor the owner's own copy of
/// the envelope.
fn exported_and_wiped(place: &Place, host: Host) -> String {
    let file = place.path("ada.backup").to_str().unwrap().to_owned();
    place.ok(&["agent", "export", "ada", "--move", "--out", &file]);
    assert_eq!(host.interrupt(), 0);
    std::fs::remove_dir_all(place.path("data")).unwrap();
    std::fs::remove_dir_all(place.path("config").join("agents")).unwrap();
    file
}

fn import(place: &Place, file: &str, more: &[&str]) -> (i32, Value, String) {
    let passphrase = place.path("passphrase");
    let mut args = vec!["agent", "import", file, "--start", "--old-host-is-gone", "--passphrase-file"];
    args.push(passphrase.to_str().unwrap());
    args.extend(more);
    place.run(&args)
}

fn answers(place: &Place, npub: &str) {
    let friend = Friend::new(&place.relay());
    let mention = friend.send(1, &hex_of(npub), "Are you still you?");
    friend.answer(1, &hex_of(npub), Some(&mention));
}

#[test]
fn an_attended_agent_is_unlocked_where_it_comes_to() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = attended(&place);
    shows(&place, "locked");
    unlock(&place);
    place.ok(&["agent", "fund", "ada", "--sats", "10000"]);
    answers(&place, &npub);
    host.kill();
    let host = place.start(&[]);
    shows(&place, "locked");
    unlock(&place);
    answers(&place, &npub);
    let file = exported_and_wiped(&place, host);

    let other = Place::beside(&place);
    let there = other.start(&[]);
    let (code, _, errors) = import(&other, &file, &["--bunker-file", &file]);
    assert_eq!(code, 2, "it has no signer elsewhere: {errors}");
    let (code, _, errors) = import(&other, &file, &[]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(shows(&other, "locked")["npub"], npub.as_str());
    let count = |sql: &str| database(&other).query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT COUNT(*) FROM agent_sealed WHERE sealed_key IS NOT NULL"), 0);
    assert_eq!(count("SELECT COUNT(*) FROM agent_wrap WHERE recipient LIKE 'pool:%'"), 0);
    assert_eq!(unlock(&other)["sent"], true);
    answers(&other, &npub);
    drop(there);
}

#[test]
fn a_signers_agent_is_signed_for_where_it_comes_to() {
    let place = Place::new();
    let host = place.start(&[]);
    let keys = Keys::new(&place);
    let bunker = keys.run(&place, NDK, ("secret", "zebra-first-secret"));
    let uri = place.path("bunker").to_str().unwrap().to_owned();
    let written = |bunker: &Bunker| {
        std::fs::write(&uri, bunker.said["uri"].as_str().unwrap()).unwrap();
    };
    written(&bunker);
    let passphrase = place.path("passphrase");
    let create = ["agent", "create", "ada", "--custody", "bunker", "--bunker-file", &uri, "--start"];
    let created = place.ok(&[&create[..], &["--passphrase-file", passphrase.to_str().unwrap()]].concat());
    let npub = find(&created, "npub").unwrap();
    place.ok(&["agent", "fund", "ada", "--sats", "10000"]);
    answers(&place, &npub);
    host.kill();
    drop(bunker);
    let host = place.start(&[]);
    let bunker = keys.run(&place, NDK, ("secret", "zebra-first-secret"));
    answers(&place, &npub);
    let file = exported_and_wiped(&place, host);
    drop(bunker);

    let other = Place::beside(&place);
    let there = other.start(&[]);
    let (code, _, errors) = import(&other, &file, &[]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("--bunker-file"), "{errors}");
    let strangers = Keys::new(&other).run(&other, NDK, ("secret", "zebra-strangers-secret"));
    written(&strangers);
    let (code, _, errors) = import(&other, &file, &["--bunker-file", &uri]);
    assert_eq!(code, 4, "{errors}");
    assert!(errors.contains(&npub), "{errors}");
    let bunker = keys.run(&other, NDK, ("secret", "zebra-second-secret"));
    written(&bunker);
    let (code, _, errors) = import(&other, &file, &["--bunker-file", &uri]);
    assert_eq!(code, 0, "{errors}");
    answers(&other, &npub);
    assert_eq!(other.status("ada")["npub"], npub.as_str());
    drop((bunker, there));
}

/// Everything that the owner has, so that a test can misuse it.
struct Owner {
    api: Api,
    keys: OwnerKeys,
    pool: SignedPool,
    mnemonic: Mnemonic,
    npub: Npub,
    entropy: Arc<dyn Entropy>,
    runtime: tokio::runtime::Runtime,
}

fn now() -> UnixMs {
    TestClock::default().now()
}

impl Owner {
    fn of(place: &Place, npub: &str) -> Self {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let context = Contexts::at(place.path("config")).select(None).unwrap();
        let keys = context.owner.unwrap().open(None, Arc::clone(&entropy)).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = Api::new(context.url, Auth::Signer(keys.signer()), clock, Arc::clone(&entropy)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let offer = runtime.block_on(nexus_client::pool::fetch(&api)).unwrap();
        let pool = offer.verify(context.pool.as_ref(), None, now()).unwrap();
        let envelope =
            std::fs::read_to_string(place.path("config").join("agents").join(format!("{npub}.age"))).unwrap();
        let mnemonic = open_mnemonic(&envelope, &Passphrase::existing(PASSPHRASE)).unwrap();
        Self { api, keys, pool, mnemonic, npub: npub.parse().unwrap(), entropy, runtime }
    }

    fn ask(&self) -> Option<UnlockOffer> {
        let answer = self.runtime.block_on(self.api.get(&path(&self.npub))).unwrap();
        let offered: Offered = serde_json::from_value(answer).unwrap();
        offered.offer.map(|event| verify_offer(&event, &self.pool, &self.npub, now()).unwrap())
    }

    fn sealed(&self, offer: &UnlockOffer, owner: &Npub, mnemonic: &Mnemonic) -> String {
        let key = SealedKey {
            npub: self.npub,
            owner: *owner,
            custody: Custody::Attended,
            pool_id: self.pool.document.pool_id.clone(),
            mnemonic: mnemonic.expose(),
            stretched: None,
            min_policy_version: 1,
            with_state: true,
        };
        seal_unlock(offer, &key, now()).unwrap()
    }

    fn command(&self, signer: &dyn Signer, sealed: String, about: &Npub, at: UnixMs) -> OwnerCommand {
        let body = serde_json::to_string(&Unlock { sealed }).unwrap();
        let url = self.api.url(&path(&self.npub)).unwrap();
        let request = Request { method: "POST", url: url.as_str(), body: body.as_bytes() };
        let mut event = unsigned_request(&signer.public_key(), &request, at);
        event.tags.push(tag("p", [about.to_hex().as_str()]));
        OwnerCommand { event: self.runtime.block_on(signer.sign(event)).unwrap(), body }
    }

    /// As whoever writes the database would: past the API. Returns what the worker said.
    fn deliver(&self, place: &Place, command: &OwnerCommand) -> (String, String) {
        let id = hex::encode(nexus_core::time::random::<16>(&*self.entropy));
        let (npub, body) = (self.npub.as_bytes().to_vec(), serde_json::to_string(command).unwrap());
        let database = database(place);
        database
            .execute(
                "INSERT INTO wallet_request (request_id, npub, kind, body, created_at, expires_at)
                 VALUES (?1, ?2, 'unlock', ?3, ?4, ?5)",
                (&id, npub, body, now().0, now().0 + 60_000),
            )
            .unwrap();
        // Asking for an offer wakes the worker.
        let said = eventually(30, || {
            let _ = self.runtime.block_on(self.api.get(&path(&self.npub)));
            database
                .query_row("SELECT outcome, answer FROM wallet_request WHERE request_id = ?1", [&id], |row| {
                    Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
                })
                .map(|(outcome, answer)| Some((outcome?, answer.unwrap_or_default())))
                .unwrap()
        });
        said.expect("the worker answers")
    }
}

#[test]
fn nobody_but_the_owner_unlocks_and_only_once() {
    let place = Place::new();
    let host = place.start(&[]);
    let npub = attended(&place);
    shows(&place, "locked");
    let owner = Owner::of(&place, &npub);
    let own = owner.keys.signer();
    let (stranger, other) = (LocalSigner::generate(Arc::clone(&owner.entropy)), Npub::from_bytes([7; 32]));
    let theirs = Mnemonic::generate(&*owner.entropy);

    let offer = owner.ask().unwrap();
    assert_eq!(owner.ask().unwrap().id, offer.id, "one offer, however often it is asked for");
    let genuine = owner.sealed(&offer, &own.public_key(), &owner.mnemonic);
    let refusals = [
        ("sent by a stranger", owner.command(&stranger, genuine.clone(), &owner.npub, now()), "another owner"),
        (
            "a stranger's words",
            owner.command(&stranger, owner.sealed(&offer, &stranger.public_key(), &theirs), &owner.npub, now()),
            "its mnemonic is the key of",
        ),
        ("about another agent", owner.command(&*own, genuine.clone(), &other, now()), "command"),
        ("too old", owner.command(&*own, genuine.clone(), &owner.npub, now().plus_ms(-700_000)), "seconds off"),
        (
            "another body",
            OwnerCommand {
                body: serde_json::to_string(&Unlock { sealed: owner.sealed(&offer, &stranger.public_key(), &theirs) })
                    .unwrap(),
                ..owner.command(&*own, genuine.clone(), &owner.npub, now())
            },
            "payload",
        ),
    ];
    for (what, command, words) in &refusals {
        let (outcome, said) = owner.deliver(&place, command);
        assert_eq!(outcome, "failed", "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
    }
    assert_eq!(place.status("ada")["custody"], "locked");

    // None of that used the offer up.
    let genuine = owner.command(&*own, genuine, &owner.npub, now());
    assert_eq!(owner.deliver(&place, &genuine).0, "done");
    let (outcome, said) = owner.deliver(&place, &genuine);
    assert_eq!(outcome, "failed", "{said}");
    assert!(said.contains("used before"), "{said}");
    assert!(owner.ask().is_none(), "it is unlocked");

    // After a restart the same command opens nothing: the key it was sealed to is gone.
    host.kill();
    let host = place.start(&[]);
    shows(&place, "locked");
    let (outcome, said) = owner.deliver(&place, &genuine);
    assert_eq!(outcome, "failed", "{said}");
    owner.ask().unwrap();
    let (outcome, said) = owner.deliver(&place, &genuine);
    assert_eq!(outcome, "failed", "{said}");
    assert_eq!(place.status("ada")["custody"], "locked");
    drop(host);
}

#[test]
fn a_host_with_another_pool_gets_no_key() {
    let place = Place::new();
    let host = place.start(&[]);
    attended(&place);
    shows(&place, "locked");
    // The development host renews its own context; the owner's is another.
    let contexts = Contexts::at(place.path("config"));
    let mine = contexts.select(None).unwrap();
    contexts.save(&nexus_client::Context { name: "mine".into(), ..mine }).unwrap();
    // Whoever runs the host brings keys and documents of its own: the pinned root did not sign them.
    assert_eq!(host.interrupt(), 0);
    let elsewhere = Place::new();
    let other = elsewhere.start(&[]);
    assert_eq!(other.interrupt(), 0);
    let keys = |place: &Place| place.path("data").join("keys");
    std::fs::rename(keys(&place), place.path("keys-before")).unwrap();
    std::fs::rename(keys(&elsewhere), keys(&place)).unwrap();
    database(&place).execute("DELETE FROM installation_value WHERE name LIKE 'runner%'", []).unwrap();
    let host = place.start(&[]);
    shows(&place, "locked");
    let passphrase = place.path("passphrase");
    let (code, _, errors) =
        place.run(&["--context", "mine", "agent", "unlock", "ada", "--passphrase-file", passphrase.to_str().unwrap()]);
    assert_eq!(code, 6, "{errors}");
    assert!(errors.contains("pinned"), "{errors}");
    let sent: i64 = database(&place)
        .query_row("SELECT COUNT(*) FROM wallet_request WHERE kind = 'unlock'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sent, 0);
    drop(host);
}

#[test]
fn custody_that_is_not_there_is_refused_by_name() {
    let place = Place::new();
    let host = place.start(&[]);
    let passphrase = place.path("passphrase");
    let args = ["agent", "create", "ada", "--custody", "threshold", "--passphrase-file", passphrase.to_str().unwrap()];
    let (code, _, errors) = place.run(&args);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("threshold") && errors.contains("next"), "{errors}");
    // And what is sealed is not unlocked.
    place.agent("bob", &[]);
    let (code, _, errors) = place.run(&["agent", "unlock", "bob", "--passphrase-file", passphrase.to_str().unwrap()]);
    assert_eq!(code, 4, "{errors}");
    drop(host);
}
