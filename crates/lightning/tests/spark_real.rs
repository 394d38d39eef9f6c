//! The shipped sidecar on the published SDK, with operators that do not answer: nothing listens at the address that they
//! are given. `scripts/setup` installs the SDK into `tests/spark/venv`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nexus_core::payment::Outcome;
use nexus_core::{Clock, Hash32, Msat};
use nexus_lightning::spark::{Places, Sidecar, SidecarConfig, SparkWallet, WalletWords};
use nexus_lightning::storage::MemoryStorage;
use nexus_lightning::{
    Dispatch, Driver, InvoiceRequest, Network, Pay, PayRequest, Receive, WalletError, WalletStorage,
};
use nexus_testkit::TestClock;
use serde_json::{Value, json};
use zeroize::Zeroizing;

const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
/// `m/8797555'/0'/0'` of these words.
const IDENTITY: &str = "02698b27ac308b275671b3ca25436346469d04a5bba578ae39feba1d65897a6abc";
const OTHER: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const API_KEY: &str = "an-api-key-that-nobody-may-see";

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/spark/venv/bin/python");
    assert!(python.exists(), "the Spark SDK is not installed: run scripts/setup");
    python
}

/// A port that nothing listens at.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn config(dir: &Path) -> SidecarConfig {
    let mut config = SidecarConfig::new(python(), dir.join("sidecar"), Network::Regtest, None);
    let nowhere = nowhere();
    config.places = Some(Places { operators: nowhere.clone(), provider: nowhere.clone(), chain: nowhere });
    config
}

fn wallet(sidecar: &Sidecar, text: &str, storage: &MemoryStorage) -> SparkWallet {
    let words = WalletWords::new(Zeroizing::new(text.to_owned())).unwrap();
    SparkWallet::new(sidecar.clone(), words, Arc::new(storage.clone()))
}

async fn identity(storage: &MemoryStorage) -> Option<String> {
    let found = storage.get("spark_wallet", "identity").await.unwrap();
    found.map(|it| serde_json::from_slice(&it).unwrap())
}

/// Several wallets in one process: each is its own, and whatever needs the operators says that they do not answer.
#[tokio::test]
async fn wallets_boot_and_operators_that_do_not_answer_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<TestClock> = Arc::default();
    let sidecar = Sidecar::new(config(dir.path()), clock.clone()).unwrap();
    let storages = [MemoryStorage::default(), MemoryStorage::default()];
    let wallets = [wallet(&sidecar, WORDS, &storages[0]), wallet(&sidecar, OTHER, &storages[1])];
    for wallet in &wallets {
        let error = wallet.health().await.unwrap_err();
        // Not `Protocol`: this SDK says whether a sync reached the operators.
        assert!(matches!(error, WalletError::Unreachable(_)), "{error:?}");
    }
    let pid = sidecar.process_id().unwrap();
    assert_eq!(identity(&storages[0]).await.as_deref(), Some(IDENTITY));
    let other = identity(&storages[1]).await.unwrap();
    assert!(other != IDENTITY && other.len() == 66, "{other}");
    for identity in [IDENTITY, &other] {
        assert!(dir.path().join("sidecar").join(identity).is_dir());
    }
    let error = wallets[0].create_invoice(InvoiceRequest::new(Msat::sats(100), "offline")).await.unwrap_err();
    assert!(matches!(error, WalletError::Unreachable(_)), "{error:?}");
    let (bolt11, hash) = foreign_invoice();
    let quote = wallets[0].quote(PayRequest { bolt11: bolt11.clone(), amount: None }).await.unwrap_err();
    assert!(matches!(quote, WalletError::Unreachable(_)), "{quote:?}");
    let send = Dispatch {
        payment_id: "offline".to_owned(),
        attempt: 1,
        key: "offline".to_owned(),
        bolt11,
        amount: None,
        max_fee: Msat::sats(10),
        deadline: clock.mono().plus_ms(60_000),
        handle: None,
    };
    let outcome = wallets[0].dispatch(send.clone()).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    // What could not be looked up is not "not there".
    let outcome = wallets[0].resolve(send.resolve(hash)).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    assert_eq!(sidecar.process_id(), Some(pid), "one process for all of it");
    for shown in
        [format!("{sidecar:?} {:?}", wallets[0]), format!("{:?}", WalletWords::new(Zeroizing::new(WORDS.into())))]
    {
        assert!(!shown.contains("abandon"), "{shown}");
    }
    assert_nothing_on_disk(dir.path());
}

/// Killed, it is started again, and the wallet is opened in it.
#[tokio::test]
async fn a_killed_sidecar_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::new(config(dir.path()), Arc::<TestClock>::default()).unwrap();
    let wallet = wallet(&sidecar, WORDS, &MemoryStorage::default());
    assert!(matches!(wallet.health().await, Err(WalletError::Unreachable(_))));
    let pid = sidecar.process_id().unwrap();
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    while sidecar.process_id() == Some(pid) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let error = wallet.health().await.unwrap_err().to_string();
    assert!(error.contains("operators did not answer"), "{error}");
    assert!(sidecar.process_id().is_some_and(|it| it != pid));
}

/// An interpreter without the SDK, and one that is not there.
#[tokio::test]
async fn what_is_missing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (python, says) in [("/usr/bin/env", "sidecar"), ("/nonexistent/python", "/nonexistent/python")] {
        let config = SidecarConfig { python: python.into(), ..config(dir.path()) };
        let sidecar = Sidecar::new(config, Arc::<TestClock>::default()).unwrap();
        let error = wallet(&sidecar, WORDS, &MemoryStorage::default()).health().await.unwrap_err();
        assert!(matches!(&error, WalletError::Unreachable(why) if why.contains(says)), "{error:?}");
    }
    let config = SidecarConfig { python: "/usr/bin/python3".into(), ..config(dir.path()) };
    let sidecar = Sidecar::new(config, Arc::<TestClock>::default()).unwrap();
    let error = wallet(&sidecar, WORDS, &MemoryStorage::default()).health().await.unwrap_err().to_string();
    assert!(error.contains("breez-sdk-spark is not installed"), "{error}");
}

/// What the process says on both of its outputs: each request has one reply, errors are typed, nothing secret is repeated.
#[test]
fn no_secret_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("sidecar/spark.py");
    let mut process = Command::new(python())
        .args(["-I", "-B"])
        .arg(script)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let nowhere = nowhere();
    let places = json!({ "operators": nowhere, "provider": nowhere, "chain": nowhere });
    let storage = dir.path().to_str().unwrap();
    let bad = WORDS.replace("about", "abandon");
    let asks = [
        json!({ "id": 1, "method": "hello", "params": { "protocol": 1, "network": "regtest", "storage_dir": storage,
            "idle_ms": 300_000, "places": places, "api_key": API_KEY } }),
        json!({ "id": 2, "method": "open", "params": { "mnemonic": WORDS } }),
        json!({ "id": 3, "method": "open", "params": { "mnemonic": bad } }),
        json!({ "id": 4, "method": "open", "params": { "mnemonic": "abandon abandon sausages" } }),
        json!({ "id": 5, "method": "info", "params": { "wallet": IDENTITY } }),
        json!({ "id": 6, "method": "info", "params": { "wallet": "unknown" } }),
        json!({ "id": 7, "method": "invoice", "params": { "wallet": IDENTITY } }),
        json!({ "id": 8, "method": WORDS, "params": { "wallet": IDENTITY, "mnemonic": WORDS } }),
        json!({ "id": 9, "method": "quote", "params": { "wallet": IDENTITY, "bolt11": WORDS } }),
        json!({ "id": 10, "method": "pay", "params": { "wallet": IDENTITY, "key": WORDS, "bolt11": WORDS,
            "left_ms": 0, "deadline_ms": 0, "max_fee_sats": 1, "at_most_sats": 1, "settle_s": 1 } }),
        json!({ "id": 11, "method": "open", "params": { "mnemonic": ["abandon"] } }),
        json!(["not a request", WORDS]),
    ];
    let mut stdin = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    for ask in &asks {
        writeln!(stdin, "{ask}").unwrap();
        said.push(lines.next().unwrap().unwrap());
    }
    // A line without end ends it.
    drop(stdin.write_all(&vec![b'x'; 300_000]));
    assert!(process.wait().unwrap().success());
    assert!(lines.next().is_none(), "more replies than requests");
    let replies: Vec<Value> = said.iter().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!(replies[1]["result"]["identity"], IDENTITY, "{}", replies[1]);
    let classes: Vec<_> =
        replies[2..].iter().map(|it| it["error"]["data"]["class"].as_str().unwrap_or("none")).collect();
    assert_eq!(
        classes,
        [
            "refused",
            "refused",
            "unreachable",
            "closed",
            "protocol",
            "refused",
            "refused",
            "unreachable",
            "refused",
            "protocol"
        ],
        "{said:?}"
    );
    let mut all = said.join("\n");
    process.stderr.take().unwrap().read_to_string(&mut all).unwrap();
    for secret in ["abandon", "sausages", API_KEY] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    assert_nothing_on_disk(dir.path());
}

/// The SDK's own word for what it has not stored, on which "not found" rests.
#[test]
fn the_sdk_says_what_it_has_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let probe = "
import asyncio, sys, breez_sdk_spark as b
async def main():
    config = b.default_server_config(b.Network.REGTEST)
    for it in config.spark_config.signing_operators: it.address = sys.argv[2]
    config.spark_config.ssp_config.base_url = sys.argv[2]
    builder = b.SdkBuilder(config, b.Seed.MNEMONIC(sys.argv[3], None))
    await builder.with_default_storage(sys.argv[1])
    sdk = await builder.build()
    try:
        await sdk.get_payment(b.GetPaymentRequest(payment_id='11111111-1111-4111-8111-111111111111'))
    except b.SdkError.StorageError as error:
        print(error)
asyncio.run(main())
";
    let told = Command::new(python()).args(["-IBc", probe]).arg(dir.path()).args([&nowhere(), WORDS]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("no rows"), "{told}");
}

/// No file of the sidecar's holds the words.
fn assert_nothing_on_disk(dir: &Path) {
    let mut seen = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            seen += 1;
            let bytes = std::fs::read(&path).unwrap();
            for secret in ["abandon abandon", API_KEY] {
                let found = bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
                assert!(!found, "{} holds a secret", path.display());
            }
        }
    }
    assert!(seen > 0);
}

/// An invoice that somebody else made.
fn foreign_invoice() -> (String, Hash32) {
    let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark_bench");
    let make = "
import sys, time
sys.path.insert(0, sys.argv[1])
import fake, hashlib
digest = hashlib.sha256(b'offline').digest()
print(fake.bolt11(digest, 100, 'offline', int(time.time()), 3600), digest.hex())
";
    let made = Command::new("python3").args(["-IBc", make]).arg(fake).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let (bolt11, hash) = made.trim().split_once(' ').unwrap();
    (bolt11.to_owned(), hash.parse().unwrap())
}
