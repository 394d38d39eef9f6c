//! Places for objects that a test can look into, damage and take away: a directory, and a real S3 server.

use std::path::{Path, PathBuf};

use nexus_core::Npub;
use nexus_store::blob::Blob;
use nexus_store::{ObjectConfig, ObjectKind, Objects, S3Config};
use nexus_testkit::proxy::Rule;
pub use nexus_testkit::s3::SECRET;
use nexus_testkit::s3::{KEY, S3Server};

const BUCKET: &str = "agents";
/// Blobs of so many bytes and more are objects.
const THRESHOLD: u64 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Directory,
    S3,
}

pub struct Place {
    dir: tempfile::TempDir,
    server: Option<S3Server>,
}

impl Place {
    pub async fn new(kept: Kept) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let server = match kept {
            Kept::Directory => None,
            Kept::S3 => Some(S3Server::start(&dir.path().join("s3"), BUCKET).await),
        };
        Self { dir, server }
    }

    pub fn open(&self) -> Objects {
        self.opened(BUCKET, SECRET)
    }

    /// Another place of the same kind, with nothing in it.
    pub fn another(&self) -> Objects {
        self.opened("others", SECRET)
    }

    pub fn with_wrong_key(&self) -> Objects {
        self.opened(BUCKET, "wrong-secret")
    }

    fn opened(&self, bucket: &str, secret: &str) -> Objects {
        let base = ObjectConfig { threshold_bytes: THRESHOLD, timeout_ms: 3_000, ..ObjectConfig::default() };
        let config = match &self.server {
            None => ObjectConfig { kind: ObjectKind::Directory, directory: Some(self.dir.path().join(bucket)), ..base },
            Some(server) => {
                let credentials = self.dir.path().join(format!("key-{secret}"));
                std::fs::write(&credentials, format!("{KEY}\n{secret}\n")).unwrap();
                let s3 = S3Config {
                    endpoint: Some(server.endpoint()),
                    bucket: bucket.into(),
                    prefix: "nexus/one".into(),
                    credentials_file: Some(credentials),
                    allow_http: true,
                    ..S3Config::default()
                };
                ObjectConfig { kind: ObjectKind::S3, s3, ..base }
            }
        };
        Objects::open(&config, Path::new("/nowhere")).unwrap().unwrap()
    }

    /// Where the objects are, as files.
    fn root(&self) -> PathBuf {
        match &self.server {
            None => self.dir.path().join(BUCKET),
            Some(server) => server.directory(BUCKET).join("nexus/one"),
        }
    }

    fn file(&self, npub: Npub, blob: &Blob) -> PathBuf {
        self.root().join(npub.to_hex()).join(hex::encode(blob.digest().as_bytes()))
    }

    pub async fn holds(&self, npub: Npub, blob: &Blob) -> bool {
        self.file(npub, blob).exists()
    }

    pub fn read(&self, npub: Npub, blob: &Blob) -> Vec<u8> {
        std::fs::read(self.file(npub, blob)).unwrap()
    }

    pub fn write(&self, npub: Npub, blob: &Blob, bytes: &[u8]) {
        std::fs::write(self.file(npub, blob), bytes).unwrap();
    }

    pub fn remove(&self, npub: Npub, blob: &Blob) {
        std::fs::remove_file(self.file(npub, blob)).unwrap();
    }

    /// Every file under the root.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![self.root()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    dirs.push(entry.path());
                } else {
                    found.push(entry.path().display().to_string());
                }
            }
        }
        found
    }

    /// How many blobs there are.
    pub fn objects(&self) -> usize {
        let is_hash = |file: &String| file.rsplit('/').next().is_some_and(|name| name.len() == 64);
        self.files().iter().filter(|file| is_hash(file)).count()
    }

    /// Takes it away, or brings it back.
    pub async fn down(&self, down: bool) {
        match &self.server {
            Some(server) => server.wire.set(if down { Rule::Cut } else { Rule::Pass }),
            None => {
                let (here, away) = (self.root(), self.dir.path().join("away"));
                let (from, to) = if down { (&here, &away) } else { (&away, &here) };
                std::fs::rename(from, to).unwrap();
            }
        }
    }
}
