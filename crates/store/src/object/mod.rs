//! Objects: sealed bytes under a name that says whose they are and what they hash to, in a directory or a bucket.
//!
//! Nothing in here is believed: whoever reads knows length and hash beforehand, and what does not fit is refused. Names
//! and sizes are all that the store's operator learns beside ciphertext.

mod config;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_core::{Hash32, Npub};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::sync::Mutex;
use tokio::time::Instant;

use config::{Credentials, refuse};
pub use config::{ObjectConfig, ObjectKind, S3Config};

use crate::StoreError;

/// Says that this is the store that was meant: without it, nothing that is missing is believed to be gone.
const MARKER: &str = "nexus-objects";
const MARKER_TEXT: &[u8] = b"Sealed blobs of a Nexus installation. Each is named by a row of its database.\n";
/// Repetitions of one request.
const RETRIES: usize = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After a failure nobody asks again for so long: waiting for a store that is down would keep others from their turns.
const PAUSE: Duration = Duration::from_secs(2);
/// Bytes of an error's text that are logged.
const MAX_LOGGED: usize = 400;

/// What is wrong with an object. No text of the store's own: that is in the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ObjectProblem {
    /// The store answers, is the one that was meant, and has it not.
    #[error("the object store has no such blob")]
    Missing,
    /// Of another length or hash than the row says: damaged, swapped, or an older one.
    #[error("the blob in the object store is not the one that was put there")]
    Damaged,
    /// It may be there or not, or may have been put or not.
    #[error("the object store cannot be reached, or refuses")]
    Unreachable,
    /// A row names an object, and this process has no object store.
    #[error("this process has no object store configured (objects.kind)")]
    NotConfigured,
}

/// An object store, opened.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    threshold: u64,
    timeout: Duration,
    /// Whether this process has seen or made the marker.
    marked: AtomicBool,
    /// A directory is asked each time: one that is not mounted any more would be made anew.
    mark_each: bool,
    failing_until: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

impl Objects {
    /// None when every blob stays in the database. Reaches nothing yet: a store that is down at start may come.
    ///
    /// # Errors
    /// [`StoreError::Settings`], also when credentials or the directory can't be read.
    pub fn open(config: &ObjectConfig, default_directory: &Path) -> Result<Option<Self>, StoreError> {
        config.check()?;
        let (store, mark_each): (Arc<dyn ObjectStore>, bool) = match config.kind {
            ObjectKind::None => return Ok(None),
            ObjectKind::Directory => {
                (Arc::new(directory(config.directory.as_deref().unwrap_or(default_directory))?), true)
            }
            ObjectKind::S3 => (bucket(config)?, false),
        };
        Ok(Some(Self::over(store, mark_each, config)))
    }

    /// In memory, gone with the last handle: for tests and simulation. Blobs of `threshold_bytes` and more go there.
    pub fn in_memory(threshold_bytes: u64) -> Self {
        let config = ObjectConfig { threshold_bytes, ..ObjectConfig::default() };
        Self::over(Arc::new(InMemory::new()), false, &config)
    }

    fn over(store: Arc<dyn ObjectStore>, mark_each: bool, config: &ObjectConfig) -> Self {
        Self {
            store,
            threshold: config.threshold_bytes,
            timeout: config.timeout(),
            marked: AtomicBool::new(false),
            mark_each,
            failing_until: Mutex::new(None),
        }
    }

    /// Whether a blob of this size belongs here.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        u64::try_from(bytes).is_ok_and(|bytes| bytes >= self.threshold)
    }

    /// Puts a blob under its name. `Ok` means that it is durable.
    pub(crate) async fn put(&self, npub: Npub, hash: Hash32, bytes: Vec<u8>) -> Result<(), ObjectProblem> {
        self.bounded("put", async {
            self.mark().await?;
            self.store.put(&key(npub, hash), bytes.into()).await.map(drop)
        })
        .await
    }

    /// The blob of this name, of this length and hash and no other.
    pub(crate) async fn get(&self, npub: Npub, hash: Hash32, size: u64) -> Result<Vec<u8>, ObjectProblem> {
        let found = self
            .bounded("get", async {
                let got = self.store.get(&key(npub, hash)).await?;
                // Looked at before the body is: what somebody else put there may have any size.
                if got.meta.size != size { Ok(None) } else { got.bytes().await.map(Some) }
            })
            .await?;
        match found {
            Some(bytes) if bytes.len() as u64 == size && Hash32::sha256(&bytes) == hash => Ok(bytes.to_vec()),
            Some(_) | None => Err(ObjectProblem::Damaged),
        }
    }

    /// Takes a blob away. One that is not there is fine.
    pub(crate) async fn delete(&self, npub: Npub, hash: Hash32) -> Result<(), ObjectProblem> {
        match self.bounded("delete", self.store.delete(&key(npub, hash))).await {
            Ok(()) | Err(ObjectProblem::Missing) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    /// Whether this is the store that was meant. A bucket of another name says yes to every delete.
    pub(crate) async fn ready(&self) -> Result<(), ObjectProblem> {
        match self.bounded("look at the marker of", self.store.head(&Key::from(MARKER))).await {
            // Made between the two looks.
            Ok(_) | Err(ObjectProblem::Missing) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    /// Puts, reads and deletes a small object of its own: whether everything that is needed is allowed.
    ///
    /// # Errors
    /// What did not work, with the store's own words: for the operator.
    pub async fn probe(&self, name: &str) -> Result<(), String> {
        let key = Key::from_iter(["probe", name]);
        let text: &'static [u8] = b"probe";
        let all = async {
            self.mark().await.map_err(|error| format!("writing: {error}"))?;
            self.store.put(&key, text.into()).await.map_err(|error| format!("writing: {error}"))?;
            let got = async { self.store.get(&key).await?.bytes().await };
            let got = got.await.map_err(|error| format!("reading: {error}"))?;
            if got != text {
                return Err("reading: it gave back something else than was put there".to_owned());
            }
            self.store.delete(&key).await.map_err(|error| format!("deleting: {error}"))
        };
        let ended = tokio::time::timeout(self.timeout.saturating_mul(2), all).await;
        ended.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|why| shortened(&why))
    }

    /// Runs one request within its time, unless the store has just failed.
    async fn bounded<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, ObjectProblem> {
        if self.failing_until.lock().await.is_some_and(|until| Instant::now() < until) {
            return Err(ObjectProblem::Unreachable);
        }
        let why = match tokio::time::timeout(self.timeout, request).await {
            Ok(Ok(done)) => {
                *self.failing_until.lock().await = None;
                return Ok(done);
            }
            Ok(Err(object_store::Error::NotFound { .. })) => match self.is_the_one_meant().await {
                Ok(true) => return Err(ObjectProblem::Missing),
                Ok(false) => "this is not the store that was meant: its marker is missing".to_owned(),
                Err(why) => why,
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(what, error = shortened(&why), "the object store failed");
        *self.failing_until.lock().await = Some(Instant::now() + PAUSE);
        Err(ObjectProblem::Unreachable)
    }

    /// A bucket of another name and a directory that is not mounted have no blob either.
    async fn is_the_one_meant(&self) -> Result<bool, String> {
        match tokio::time::timeout(self.timeout, self.store.head(&Key::from(MARKER))).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(false),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Makes the marker once; where it was and is gone, nothing is put.
    async fn mark(&self) -> object_store::Result<()> {
        let marked = self.marked.load(Ordering::Acquire);
        if marked && !self.mark_each {
            return Ok(());
        }
        let marker = Key::from(MARKER);
        match self.store.head(&marker).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) if !marked => {
                self.store.put(&marker, MARKER_TEXT.into()).await?;
            }
            Err(error) => return Err(error),
        }
        self.marked.store(true, Ordering::Release);
        Ok(())
    }
}

/// Nothing secret: whose it is, and what its ciphertext hashes to.
fn key(npub: Npub, hash: Hash32) -> Key {
    Key::from_iter([npub.to_hex(), hex::encode(hash.as_bytes())])
}

fn directory(path: &Path) -> Result<LocalFileSystem, StoreError> {
    let cannot = |why: String| StoreError::Settings { message: format!("directory {}: {why}", path.display()) };
    if !path.is_dir() {
        std::fs::create_dir_all(path).map_err(|error| cannot(error.to_string()))?;
        keep_private(path).map_err(|error| cannot(error.to_string()))?;
    }
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| cannot(error.to_string()))?;
    Ok(store.with_fsync(true))
}

#[cfg(unix)]
fn keep_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

#[cfg(not(unix))]
fn keep_private(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn bucket(config: &ObjectConfig) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let s3 = &config.s3;
    let credentials = Credentials::read(s3.credentials_file.as_deref(), |name| std::env::var(name).ok())?;
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: RETRIES,
        retry_timeout: config.timeout(),
    };
    let client = ClientOptions::new()
        .with_timeout(config.timeout())
        .with_connect_timeout(CONNECT_TIMEOUT.min(config.timeout()))
        .with_allow_http(s3.allow_http);
    let mut builder = AmazonS3Builder::new()
        .with_region(&s3.region)
        .with_bucket_name(&s3.bucket)
        .with_access_key_id(credentials.id.as_str())
        .with_secret_access_key(credentials.secret.as_str())
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_client_options(client)
        .with_retry(retry);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint.as_str());
    }
    if let Some(token) = &credentials.token {
        builder = builder.with_token(token.as_str());
    }
    match builder.build() {
        Ok(store) if s3.prefix.is_empty() => Ok(Arc::new(store)),
        Ok(store) => Ok(Arc::new(PrefixStore::new(store, s3.prefix.as_str()))),
        Err(error) => refuse(format!("s3: {error}")),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_LOGGED).collect()
}
