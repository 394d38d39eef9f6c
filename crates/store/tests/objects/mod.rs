//! Places for objects that a test can look into, damage and take away: a directory, and a real S3 server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use nexus_core::Npub;
use nexus_store::blob::Blob;
use nexus_store::{ObjectConfig, ObjectKind, Objects, S3Config};
use nexus_testkit::proxy::{Proxy, Rule, Upstream};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret-of-the-bucket";
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
    server: Option<Server>,
}

/// Keeps each bucket as a directory, and checks signatures. It is reached over a wire that can be cut.
struct Server {
    wire: Proxy,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Place {
    pub async fn new(kept: Kept) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let server = match kept {
            Kept::Directory => None,
            Kept::S3 => {
                std::fs::create_dir_all(dir.path().join("s3").join(BUCKET)).unwrap();
                let (address, task) = serve(&dir.path().join("s3")).await;
                Some(Server { wire: Proxy::start(Upstream::Tcp(address)).await, task })
            }
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
                    endpoint: Some(format!("http://127.0.0.1:{}", server.wire.port())),
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
            Some(_) => self.dir.path().join("s3").join(BUCKET).join("nexus/one"),
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

async fn serve(root: &Path) -> (SocketAddr, JoinHandle<()>) {
    let service: S3Service = {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        builder.build()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, task)
}
