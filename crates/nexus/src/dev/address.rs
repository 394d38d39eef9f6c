//! Where a running host is, for those who look at its data directory.

use std::path::Path;

use nexus_client::file;
use serde::{Deserialize, Serialize};
use url::Url;

const FILE: &str = "host.json";

/// Written when a host is ready. Believed only while its data directory is held.
#[derive(Debug, Serialize, Deserialize)]
pub struct Addresses {
    pub api: Url,
    pub relay: String,
    pub devnet: String,
    pub process: u32,
}

impl Addresses {
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        Ok(file::write_private(&data_dir.join(FILE), serde_json::to_string(self)?.as_bytes())?)
    }

    /// None where no host was ready yet, and after a clean stop.
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_str(&file::read_secret(&data_dir.join(FILE)).ok()?).ok()
    }

    /// Takes them back: the host is not ready any more.
    pub fn remove(data_dir: &Path) {
        let _ = std::fs::remove_file(data_dir.join(FILE));
    }
}
