//! Where blobs go that are too large for a row, and how long to wait for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::StoreError;

/// A credentials file at most, in bytes.
const MAX_CREDENTIALS: u64 = 16 * 1024;

/// The object store. Unknown keys are refused; nothing in it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectConfig {
    pub kind: ObjectKind,
    /// Sealed blobs of so many bytes and more go to the object store, smaller ones into their row. 0: all of them.
    pub threshold_bytes: u64,
    /// For `directory`: where; `objects` in the data directory when unset. Every process must see the same.
    pub directory: Option<PathBuf>,
    /// One request may take so long, its repetitions included.
    pub timeout_ms: u64,
    /// What no row names any more is kept this long: longer than any tick.
    pub grace_ms: u64,
    pub s3: S3Config,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Every blob is in the database.
    #[default]
    None,
    /// A directory of this machine, or one that all machines have mounted.
    Directory,
    /// Whatever speaks the S3 protocol.
    S3,
}

/// A bucket. Its key comes from `credentials_file`, or else from `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
/// `AWS_SESSION_TOKEN`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// `https://host[:port]`; Amazon's own for the region when unset.
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    /// Before every key, so that installations can share a bucket: words of a-z, 0-9, `-`, `_` and `.` between slashes.
    pub prefix: String,
    /// A file with the access key's id, the secret key and, if there is one, a session token, each in a line of its own.
    pub credentials_file: Option<PathBuf>,
    /// The bucket stands in the path (`https://host/bucket/key`), as most servers but Amazon's want it.
    pub path_style: bool,
    /// Lets `endpoint` be `http://`: what is sent is ciphertext, but whoever listens sees who is active.
    pub allow_http: bool,
}

impl Default for ObjectConfig {
    fn default() -> Self {
        Self {
            kind: ObjectKind::None,
            threshold_bytes: 64 * 1024,
            directory: None,
            timeout_ms: 10_000,
            grace_ms: 3_600_000,
            s3: S3Config::default(),
        }
    }
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".into(),
            bucket: String::new(),
            prefix: String::new(),
            credentials_file: None,
            path_style: true,
            allow_http: false,
        }
    }
}

impl ObjectConfig {
    /// # Errors
    /// [`StoreError::Settings`] says which setting and why.
    pub fn check(&self) -> Result<(), StoreError> {
        if !(100..=60_000).contains(&self.timeout_ms) {
            return refuse("timeout_ms: use 100 to 60000");
        }
        if !(1_000..=604_800_000).contains(&self.grace_ms) {
            return refuse("grace_ms: use 1000 to 604800000 (a week)");
        }
        match self.kind {
            ObjectKind::None | ObjectKind::Directory => Ok(()),
            ObjectKind::S3 => self.s3.check(),
        }
    }

    /// Whether what no row names stays for longer than any tick may take.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check_tick(&self, tick_timeout_ms: u64) -> Result<(), String> {
        if self.kind == ObjectKind::None || self.grace_ms > tick_timeout_ms.saturating_mul(2) {
            return Ok(());
        }
        Err(format!("grace_ms is {}, but must be more than twice a tick ({tick_timeout_ms})", self.grace_ms))
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl S3Config {
    fn check(&self) -> Result<(), StoreError> {
        if self.bucket.is_empty() || self.bucket.len() > 63 || !self.bucket.chars().all(is_plain) {
            return refuse("s3.bucket: name the bucket");
        }
        let parts = || self.prefix.split('/');
        if !self.prefix.is_empty() && parts().any(|part| part.is_empty() || part == ".." || !part.chars().all(is_plain))
        {
            return refuse("s3.prefix: words of a-z, 0-9, '-', '_' and '.' between slashes, none at the ends");
        }
        match &self.endpoint {
            None => Ok(()),
            Some(url) if url.contains('@') => refuse("s3.endpoint: no user or password in it; use credentials_file"),
            Some(url) if url.starts_with("https://") => Ok(()),
            Some(url) if url.starts_with("http://") && self.allow_http => Ok(()),
            Some(_) => refuse("s3.endpoint: https://host[:port], or set s3.allow_http for a network of your own"),
        }
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')
}

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Settings { message: why.into() })
}

/// The key to a bucket. Wiped when dropped.
pub(super) struct Credentials {
    pub id: Zeroizing<String>,
    pub secret: Zeroizing<String>,
    pub token: Option<Zeroizing<String>>,
}

impl Credentials {
    pub fn read(file: Option<&Path>, environment: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let texts = match file {
            Some(path) => from_file(path)?,
            None => ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
                .into_iter()
                .map_while(|name| environment(name).filter(|value| !value.is_empty()).map(Zeroizing::new))
                .collect(),
        };
        let mut texts = texts.into_iter();
        match (texts.next(), texts.next(), texts.next(), texts.next()) {
            (Some(id), Some(secret), token, None) => Ok(Self { id, secret, token }),
            _ if file.is_some() => {
                refuse("s3.credentials_file: wants the access key's id and the secret key, each in a line of its own")
            }
            _ => refuse("s3.credentials_file is not set, nor AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        }
    }
}

fn from_file(path: &Path) -> Result<Vec<Zeroizing<String>>, StoreError> {
    let cannot =
        |why: String| StoreError::Settings { message: format!("s3.credentials_file {}: {why}", path.display()) };
    let size = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    if size > MAX_CREDENTIALS {
        return Err(cannot(format!("{size} bytes are too many")));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(|line| Zeroizing::new(line.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        ObjectConfig::default().check().unwrap();
        let s3 = |change: fn(&mut S3Config)| {
            let mut config = ObjectConfig { kind: ObjectKind::S3, ..ObjectConfig::default() };
            config.s3.bucket = "agents".into();
            change(&mut config.s3);
            config
        };
        s3(|_| ()).check().unwrap();
        s3(|s3| s3.endpoint = Some("https://store.example:9000".into())).check().unwrap();
        for (bad, key) in [
            (ObjectConfig { timeout_ms: 0, ..ObjectConfig::default() }, "timeout_ms"),
            (ObjectConfig { grace_ms: 5, ..ObjectConfig::default() }, "grace_ms"),
            (s3(|s3| s3.bucket.clear()), "s3.bucket"),
            (s3(|s3| s3.prefix = "/a".into()), "s3.prefix"),
            (s3(|s3| s3.prefix = "a/../b".into()), "s3.prefix"),
            (s3(|s3| s3.endpoint = Some("http://store.example".into())), "allow_http"),
            (s3(|s3| s3.endpoint = Some("https://id:key@store.example".into())), "credentials_file"),
        ] {
            let error = bad.check().unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
        let short = ObjectConfig { kind: ObjectKind::Directory, grace_ms: 600_000, ..ObjectConfig::default() };
        assert!(short.check_tick(300_000).is_err());
        short.check_tick(299_999).unwrap();
        assert!(serde_json::from_str::<ObjectConfig>(r#"{"treshold_bytes": 1}"#).is_err());
    }

    #[test]
    fn credentials_come_from_a_file_or_else_from_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let environment = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("env-id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("env-secret".to_owned()),
            _ => None,
        };
        let read = Credentials::read(None, environment).unwrap();
        assert_eq!((read.id.as_str(), read.secret.as_str(), read.token.is_none()), ("env-id", "env-secret", true));
        std::fs::write(&path, "file-id\nfile-secret\n\nfile-token\n").unwrap();
        let read = Credentials::read(Some(&path), environment).unwrap();
        assert_eq!((read.id.as_str(), read.token.unwrap().as_str()), ("file-id", "file-token"));
        for text in ["", "only-one\n", "a\nb\nc\nd\n"] {
            std::fs::write(&path, text).unwrap();
            let error = Credentials::read(Some(&path), environment).err().unwrap().to_string();
            assert!(error.contains("credentials_file") && !error.contains("only-one"), "{error}");
        }
        assert!(Credentials::read(None, |_| None).err().unwrap().to_string().contains("AWS_ACCESS_KEY_ID"));
    }
}
