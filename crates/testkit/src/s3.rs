//! A real S3 server: keeps each bucket as a directory, and checks signatures. It is reached over a wire that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::proxy::{Proxy, Upstream};

pub const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret-of-the-bucket";

/// Ends when it is dropped.
pub struct S3Server {
    pub wire: Proxy,
    root: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3Server {
    /// Serves the directories under `root`; `bucket` is made.
    ///
    /// # Panics
    /// When there is no free port or the directory cannot be made.
    pub async fn start(root: &Path, bucket: &str) -> Self {
        std::fs::create_dir_all(root.join(bucket)).expect("a directory for the bucket");
        let (address, task) = serve(root).await;
        Self { wire: Proxy::start(Upstream::Tcp(address)).await, root: root.to_owned(), task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.wire.port())
    }

    /// Where the objects of a bucket are, as files.
    pub fn directory(&self, bucket: &str) -> PathBuf {
        self.root.join(bucket)
    }
}

async fn serve(root: &Path) -> (SocketAddr, JoinHandle<()>) {
    let service: S3Service = {
        let files = s3s_fs::FileSystem::new(root).expect("a directory to serve");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        builder.build()
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
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
