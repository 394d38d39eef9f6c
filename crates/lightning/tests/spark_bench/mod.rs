//! The shipped sidecar on a stand-in for the SDK (`fake.py`), whose operators are one file that processes share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use nexus_core::Clock;
use nexus_lightning::Network;
use nexus_lightning::WalletStorage;
use nexus_lightning::spark::{Script, Sidecar, SidecarConfig, SparkWallet, WalletWords};
use nexus_lightning::storage::{Change, Record, StorageError};
use zeroize::Zeroizing;

pub const PAYER: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
pub const PAYEE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
/// What the payer begins with.
pub const FUNDS_SATS: u64 = 1_000_000;

pub fn words(text: &str) -> WalletWords {
    WalletWords::new(Zeroizing::new(text.to_owned())).unwrap()
}

/// The file of the operators.
#[derive(Clone)]
pub struct Ledger(pub PathBuf);

impl Ledger {
    /// A new one, in which the payer has its money.
    pub fn create(dir: &Path) -> Self {
        let ledger = Self(dir.join("ledger"));
        ledger.ask(&["create"]);
        ledger.ask(&["fund", PAYER, &FUNDS_SATS.to_string()]);
        ledger
    }

    pub fn ask(&self, what: &[&str]) -> String {
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark_bench/fake.py");
        let done = Command::new("python3").arg("-IB").arg(fake).arg(&self.0).args(what).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// What happens to the next payment.
    pub fn rule(&self, rule: serde_json::Value) {
        self.ask(&["rule", &rule.to_string()]);
    }

    /// No money came or went but from one wallet to another and to the provider, and no invoice was paid twice.
    pub fn assert_sound(&self) {
        let told: serde_json::Value = serde_json::from_str(&self.ask(&["look"])).unwrap();
        assert_eq!(told["sats"], FUNDS_SATS, "{told}");
        assert!(told["most"].as_u64().unwrap() <= 1, "paid twice: {told}");
    }
}

/// A sidecar on a ledger, with what it keeps in `dir`.
pub fn config(ledger: &Ledger, dir: &Path) -> SidecarConfig {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = dir.join("stand-in.py");
    std::fs::create_dir_all(dir).unwrap();
    let program = format!(
        "import runpy, sys\nsys.path.insert(0, {:?})\nimport fake\nfake.LEDGER = {:?}\nsys.modules['breez_sdk_spark'] = fake\n\
         runpy.run_path({:?}, run_name='__main__')\n",
        here.join("tests/spark_bench"),
        ledger.0,
        here.join("sidecar/spark.py"),
    );
    // Whole or not there: another process may be starting from it.
    let next = dir.join(format!("stand-in.{}", std::process::id()));
    std::fs::write(&next, program).unwrap();
    std::fs::rename(next, &script).unwrap();
    let mut config = SidecarConfig::new("python3".into(), dir.join("storage"), Network::Regtest, None);
    config.script = Script::File(script);
    config.settle_s = 1;
    config.poll_ms = 50;
    config
}

pub fn wallet(
    config: &SidecarConfig,
    clock: Arc<dyn Clock>,
    whose: &str,
    storage: Arc<dyn WalletStorage>,
) -> SparkWallet {
    SparkWallet::new(Sidecar::new(config.clone(), clock).unwrap(), words(whose), storage)
}

type Rows = std::collections::BTreeMap<String, Vec<u8>>;

/// Records in a file, for processes that are killed. One writes at a time.
pub struct FileStorage(PathBuf, Mutex<()>);

impl FileStorage {
    pub fn new(path: PathBuf) -> Self {
        Self(path, Mutex::new(()))
    }

    fn rows(&self) -> Rows {
        std::fs::read(&self.0).map(|it| serde_json::from_slice(&it).unwrap()).unwrap_or_default()
    }
}

impl WalletStorage for FileStorage {
    fn list(&self, space: &'static str) -> BoxFuture<'_, Result<Vec<Record>, StorageError>> {
        let prefix = format!("{space}/");
        let rows = self.rows().into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(&prefix)?.to_owned();
            Some(Record { key, value: Zeroizing::new(value) })
        });
        let rows = rows.collect();
        Box::pin(async { Ok(rows) })
    }

    fn get<'a>(
        &'a self,
        space: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Zeroizing<Vec<u8>>>, StorageError>> {
        let row = self.rows().remove(&format!("{space}/{key}")).map(Zeroizing::new);
        Box::pin(async { Ok(row) })
    }

    fn write(&self, changes: Vec<Change>) -> BoxFuture<'_, Result<(), StorageError>> {
        let _alone = self.1.lock().unwrap();
        let mut rows = self.rows();
        for change in changes {
            match change {
                Change::Put { space, key, value } => drop(rows.insert(format!("{space}/{key}"), value.to_vec())),
                Change::Insert { space, key, value } => {
                    if rows.insert(format!("{space}/{key}"), value.to_vec()).is_some() {
                        return Box::pin(async { Err(StorageError::Exists) });
                    }
                }
                Change::Delete { space, key } => drop(rows.remove(&format!("{space}/{key}"))),
            }
        }
        let next = self.0.with_extension(format!("next{}", std::process::id()));
        let mut file = std::fs::File::create(&next).unwrap();
        std::io::Write::write_all(&mut file, &serde_json::to_vec(&rows).unwrap()).unwrap();
        file.sync_all().unwrap();
        std::fs::rename(next, &self.0).unwrap();
        Box::pin(async { Ok(()) })
    }
}
