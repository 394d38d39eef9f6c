//! A wire that can be cut: a TCP forwarder in front of a server.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct Wire {
    pub url: String,
    connections: Arc<Mutex<JoinSet<()>>>,
    listener: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub async fn to(port: u16) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", socket.local_addr().unwrap());
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let all = connections.clone();
        let listener = tokio::spawn(async move {
            while let Ok((near, _)) = socket.accept().await {
                all.lock().unwrap().spawn(forward(near, port));
            }
        });
        Self { url, connections, listener }
    }

    /// Every connection ends; new ones are let through.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

async fn forward(mut near: TcpStream, port: u16) {
    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}
