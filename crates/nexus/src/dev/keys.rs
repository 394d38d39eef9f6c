//! The keys of a host, made at its first start. Each in a file of its own, for its owner's eyes alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use nexus_client::file;
use nexus_core::time::random;
use nexus_core::{Clock, Entropy, UnixMs, WorkerId};
use nexus_seal::operator::OperatorKey;
use nexus_seal::{SecretText, SignedPool};
use nexus_vault::{LocalSigner, PoolIdentity, sign_first_pool};
use nostr::event::Event;

/// The pool that `nexus dev` makes.
pub const POOL_ID: &str = "default";

const ROOT: &str = "root.nsec";
const POOL: &str = "pool.age";
const OPERATOR: &str = "operator.key";
const PROVIDER: &str = "provider.nsec";
const PROVIDER_WALLET: &str = "provider-wallet.key";
const POOL_CHAIN: &str = "pool.json";
const WORKER: &str = "worker.id";

/// The files in the keys' directory that must be nobody else's to read.
pub const PRIVATE: [&str; 5] = [ROOT, POOL, OPERATOR, PROVIDER, PROVIDER_WALLET];

/// Everything that a development host holds in one process; in production these are on different machines.
pub struct Keys {
    /// Signed pool documents, oldest first.
    pub pool_chain: Vec<Event>,
    pub pool: SignedPool,
    pub identity: Arc<PoolIdentity>,
    pub provider: Arc<LocalSigner>,
    /// The provider's account on the development network.
    pub provider_wallet: [u8; 32],
    pub worker: WorkerId,
    operator: SecretText,
}

impl Keys {
    /// Reads the keys under `dir`; makes those that are missing.
    pub async fn open(dir: &Path, clock: &dyn Clock, entropy: &Arc<dyn Entropy>) -> anyhow::Result<Self> {
        let root = nsec(dir, ROOT, entropy)?;
        let identity = text(dir, POOL, || PoolIdentity::generate(&**entropy).expose_text())?;
        let identity = PoolIdentity::parse(identity.expose()).with_context(|| damaged(dir, POOL))?;
        let operator = text(dir, OPERATOR, || OperatorKey::generate(&**entropy).expose_text())?;
        OperatorKey::parse(operator.expose()).with_context(|| damaged(dir, OPERATOR))?;
        let pool_chain = chain(dir, &root, &identity, clock.now()).await?;
        let pool = SignedPool::first_use(&pool_chain, clock.now()).with_context(|| damaged(dir, POOL_CHAIN))?;
        if !identity.recipients().contains(pool.recipient()) {
            bail!("{} is not the key of {}\n  next: restore both from the same backup", POOL, POOL_CHAIN);
        }
        let wallet = text(dir, PROVIDER_WALLET, || SecretText::new(hex::encode(random::<32>(&**entropy))))?;
        let mut provider_wallet = [0; 32];
        hex::decode_to_slice(wallet.expose(), &mut provider_wallet).with_context(|| damaged(dir, PROVIDER_WALLET))?;
        Ok(Self {
            operator,
            pool_chain,
            pool,
            identity: Arc::new(identity),
            provider: Arc::new(nsec(dir, PROVIDER, entropy)?),
            provider_wallet,
            worker: worker_id(dir, clock.now(), &**entropy)?,
        })
    }
}

impl Keys {
    pub fn operator_key(&self) -> anyhow::Result<OperatorKey> {
        Ok(OperatorKey::parse(self.operator.expose())?)
    }
}

/// A Nostr key in a file; made if missing.
pub fn nsec(dir: &Path, name: &str, entropy: &Arc<dyn Entropy>) -> anyhow::Result<LocalSigner> {
    let kept = text(dir, name, || LocalSigner::generate(Arc::clone(entropy)).expose_nsec())?;
    LocalSigner::parse(kept.expose(), Arc::clone(entropy)).with_context(|| damaged(dir, name))
}

/// Makes what a fleet's operator needs, under `dir`: the root key (to be kept offline), the pool's identity (for workers),
/// its signed document and the operator's key (for control planes). Files that are there stay.
pub async fn create_pool(dir: &Path, clock: &dyn Clock, entropy: &Arc<dyn Entropy>) -> anyhow::Result<PoolKeys> {
    let root = nsec(dir, ROOT, entropy)?;
    let identity = text(dir, POOL, || PoolIdentity::generate(&**entropy).expose_text())?;
    let identity = PoolIdentity::parse(identity.expose()).with_context(|| damaged(dir, POOL))?;
    let operator = text(dir, OPERATOR, || OperatorKey::generate(&**entropy).expose_text())?;
    OperatorKey::parse(operator.expose()).with_context(|| damaged(dir, OPERATOR))?;
    let documents = chain(dir, &root, &identity, clock.now()).await?;
    let pool = SignedPool::first_use(&documents, clock.now()).with_context(|| damaged(dir, POOL_CHAIN))?;
    let at = |name: &str| dir.join(name);
    Ok(PoolKeys { pool, root: at(ROOT), identity: at(POOL), documents: at(POOL_CHAIN), operator: at(OPERATOR) })
}

/// Where the keys of a pool are.
pub struct PoolKeys {
    pub pool: SignedPool,
    pub root: PathBuf,
    pub identity: PathBuf,
    pub documents: PathBuf,
    pub operator: PathBuf,
}

/// The text of a key file that has to be there, and that nobody else may read: otherwise its secret may be out already.
pub fn private_text(path: &Path) -> anyhow::Result<SecretText> {
    if path.exists() && file::readable_by_others(path) {
        bail!(
            "{path} can be read by others\n  next: `chmod 600 {path}`, and think about who may have read it",
            path = path.display()
        );
    }
    Ok(SecretText::new(file::read_secret(path)?.as_str()))
}

/// The text of a key file; made if missing. One that others may read is refused: its secret may be out already.
fn text(dir: &Path, name: &str, make: impl FnOnce() -> SecretText) -> anyhow::Result<SecretText> {
    let path = dir.join(name);
    if !path.exists() {
        let made = make();
        file::write_private(&path, format!("{}\n", made.expose()).as_bytes())?;
        return Ok(made);
    }
    private_text(&path)
}

async fn chain(dir: &Path, root: &LocalSigner, identity: &PoolIdentity, now: UnixMs) -> anyhow::Result<Vec<Event>> {
    let path = dir.join(POOL_CHAIN);
    if path.exists() {
        let kept = file::read_secret(&path)?;
        return serde_json::from_str(&kept).with_context(|| damaged(dir, POOL_CHAIN));
    }
    let chain = vec![sign_first_pool(root, POOL_ID, identity, now).await.context("signing the pool document")?];
    file::write_private(&path, serde_json::to_string(&chain)?.as_bytes())?;
    Ok(chain)
}

/// New at the first start of a data directory, kept across restarts.
fn worker_id(dir: &Path, now: UnixMs, entropy: &dyn Entropy) -> anyhow::Result<WorkerId> {
    let kept = text(dir, WORKER, || SecretText::new(WorkerId::new(now, random(entropy)).to_string()))?;
    kept.expose().parse().with_context(|| damaged(dir, WORKER))
}

fn damaged(dir: &Path, name: &str) -> String {
    format!(
        "{} is damaged\n  next: restore it from a backup; without it this host's agents can't be opened",
        dir.join(name).display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::{SeededEntropy, TestClock};

    #[tokio::test]
    async fn keys_are_made_once_private_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let clock = TestClock::default();
        let first = Keys::open(dir.path(), &clock, &entropy).await.unwrap();
        let again = Keys::open(dir.path(), &clock, &entropy).await.unwrap();
        assert_eq!(first.pool, again.pool);
        assert_eq!(first.worker, again.worker);
        assert_eq!(first.provider_wallet, again.provider_wallet);
        for name in PRIVATE {
            assert!(!file::readable_by_others(&dir.path().join(name)), "{name}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let clock = TestClock::default();
        Keys::open(dir.path(), &clock, &entropy).await.unwrap();
        std::fs::set_permissions(dir.path().join(POOL), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Keys::open(dir.path(), &clock, &entropy).await.err().unwrap().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
