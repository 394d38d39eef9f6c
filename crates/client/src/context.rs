//! Contexts: which host the commands talk to, and as whom.
//!
//! One file each, `contexts/NAME.toml` (0600) in the user's configuration directory, and `current` beside them.

use std::path::{Path, PathBuf};

use nexus_core::Npub;
use nexus_seal::PoolPin;
use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::file;
use crate::owner::OwnerKey;

/// The context that `nexus dev` writes, and that is used when none was chosen.
pub const DEV: &str = "dev";
const MAX_NAME: usize = 64;

/// A host, and who the owner is there.
#[derive(Clone)]
pub struct Context {
    pub name: String,
    /// Origin of the API, as the host knows itself: signed requests name it.
    pub url: Url,
    pub owner: Option<OwnerKey>,
    /// The operator's root key and the last pool document that was believed. Another root is refused; later documents
    /// must follow from this one.
    pub pool: Option<PoolPin>,
    /// For everyday calls, so that the owner key stays closed.
    pub token: Option<Zeroizing<String>>,
    /// Directory or URL of the development network.
    pub devnet: Option<String>,
    /// The key of this context's own account on the development network, as hex. It holds no real money.
    pub devnet_key: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name)
            .field("url", &self.url.as_str())
            .field("owner", &self.owner)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub fn new(name: impl Into<String>, url: Url) -> Self {
        Self { name: name.into(), url, owner: None, pool: None, token: None, devnet: None, devnet_key: None }
    }
}

/// What stands in a context's file. Private: in memory its secrets are never plain strings.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    url: Url,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devnet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devnet_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<OwnerDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<PoolPin>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum OwnerDocument {
    /// In clear: for development only.
    Development { npub: Npub, nsec: String },
    /// Under a passphrase (NIP-49).
    Encrypted { npub: Npub, ncryptsec: String },
}

impl From<&OwnerKey> for OwnerDocument {
    fn from(key: &OwnerKey) -> Self {
        match key {
            OwnerKey::Development { npub, nsec } => Self::Development { npub: *npub, nsec: nsec.as_str().to_owned() },
            OwnerKey::Encrypted { npub, ncryptsec } => Self::Encrypted { npub: *npub, ncryptsec: ncryptsec.clone() },
        }
    }
}

impl From<OwnerDocument> for OwnerKey {
    fn from(document: OwnerDocument) -> Self {
        match document {
            OwnerDocument::Development { npub, nsec } => Self::Development { npub, nsec: Zeroizing::new(nsec) },
            OwnerDocument::Encrypted { npub, ncryptsec } => Self::Encrypted { npub, ncryptsec },
        }
    }
}

/// All contexts of this user.
#[derive(Debug, Clone)]
pub struct Contexts {
    dir: PathBuf,
}

impl Contexts {
    /// The contexts under a configuration directory; nothing is read or made yet.
    pub fn at(config_dir: impl Into<PathBuf>) -> Self {
        Self { dir: config_dir.into() }
    }

    /// The platform's configuration directory of this user.
    pub fn default_dir() -> Result<PathBuf, Error> {
        directories::ProjectDirs::from("", "", "nexus")
            .map(|dirs| dirs.config_dir().to_owned())
            .ok_or_else(|| Error::Failed("no home directory is known\n  next: set NEXUS_CONFIG_DIR".to_owned()))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join("contexts").join(format!("{name}.toml"))
    }

    fn current_path(&self) -> PathBuf {
        self.dir.join("current")
    }

    /// Every context's name, sorted.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let dir = self.dir.join("contexts");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(Error::File { attempted: "reading", path: dir, source }),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The context that was chosen with `use_context`, if it still exists.
    pub fn chosen(&self) -> Option<String> {
        let name = std::fs::read_to_string(self.current_path()).ok()?;
        let name = name.trim();
        (check_name(name).is_ok() && self.path(name).exists()).then(|| name.to_owned())
    }

    /// The context to use: the named one, else the chosen one, else the development context, else the only one.
    pub fn select(&self, named: Option<&str>) -> Result<Context, Error> {
        if let Some(name) = named {
            return self.load(name);
        }
        if let Some(name) = self.chosen() {
            return self.load(&name);
        }
        let names = self.names()?;
        match names.as_slice() {
            _ if names.iter().any(|name| name == DEV) => self.load(DEV),
            [only] => self.load(only),
            [] => Err(Error::Usage(
                "no context yet: nothing says which host to talk to\n  next: `nexus dev` starts a host and makes one, `nexus login --url URL --new` joins a host".to_owned(),
            )),
            _ => Err(Error::Usage(format!(
                "several contexts and none chosen: {}\n  next: `nexus context use NAME`",
                names.join(", ")
            ))),
        }
    }

    pub fn load(&self, name: &str) -> Result<Context, Error> {
        check_name(name)?;
        let path = self.path(name);
        if !path.exists() {
            return Err(Error::NotFound(format!(
                "no context `{name}`\n  next: `nexus context list` shows those there are"
            )));
        }
        if file::readable_by_others(&path) {
            return Err(Error::Malformed {
                path: path.clone(),
                why: format!("others may read it, and it holds keys; run `chmod 600 {}`", path.display()),
            });
        }
        let text = file::read_secret(&path)?;
        let document: Document =
            toml::from_str(&text).map_err(|error| Error::Malformed { path, why: error.message().to_owned() })?;
        Ok(Context {
            name: name.to_owned(),
            url: document.url,
            owner: document.owner.map(OwnerKey::from),
            pool: document.pool,
            token: document.token.map(Zeroizing::new),
            devnet: document.devnet,
            devnet_key: document.devnet_key.map(Zeroizing::new),
        })
    }

    /// Writes a context, whole or not at all, readable by its user alone.
    pub fn save(&self, context: &Context) -> Result<(), Error> {
        check_name(&context.name)?;
        let document = Document {
            url: context.url.clone(),
            pool: context.pool.clone(),
            token: context.token.as_ref().map(|token| token.as_str().to_owned()),
            devnet: context.devnet.clone(),
            devnet_key: context.devnet_key.as_ref().map(|key| key.as_str().to_owned()),
            owner: context.owner.as_ref().map(OwnerDocument::from),
        };
        let text = toml::to_string(&document)
            .map(Zeroizing::new)
            .map_err(|error| Error::Failed(format!("writing the context `{}`: {error}", context.name)))?;
        let head = match context.owner {
            Some(OwnerKey::Development { .. }) => "# DEVELOPMENT: the owner key below is not encrypted.\n",
            _ => "",
        };
        let text = Zeroizing::new(format!("{head}{}", text.as_str()));
        file::write_private(&self.path(&context.name), text.as_bytes())
    }

    /// Makes a context the one that is used when none is named.
    pub fn use_context(&self, name: &str) -> Result<(), Error> {
        self.load(name)?;
        file::write_private(&self.current_path(), format!("{name}\n").as_bytes())
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fine {
        Ok(())
    } else {
        Err(Error::Usage("a context's name is 1 to 64 of a-z, A-Z, 0-9, '-', '_' and '.'".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str) -> Context {
        let mut context = Context::new(name, "http://127.0.0.1:7777".parse().unwrap());
        context.owner =
            Some(OwnerKey::Development { npub: Npub::from_bytes([7; 32]), nsec: Zeroizing::new("11".repeat(32)) });
        context.token = Some(Zeroizing::new("token-text".to_owned()));
        context
    }

    #[test]
    fn a_context_comes_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::at(dir.path());
        contexts.save(&context("work")).unwrap();
        let back = contexts.load("work").unwrap();
        assert_eq!(back.url.as_str(), "http://127.0.0.1:7777/");
        assert_eq!(back.token.unwrap().as_str(), "token-text");
        assert!(matches!(back.owner, Some(OwnerKey::Development { .. })));
        assert!(!file::readable_by_others(&contexts.path("work")));
        let text = std::fs::read_to_string(contexts.path("work")).unwrap();
        assert!(text.starts_with("# DEVELOPMENT"));
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", context("dev"));
        assert!(!text.contains("1111") && !text.contains("token-text"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_context_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::at(dir.path());
        contexts.save(&context("dev")).unwrap();
        std::fs::set_permissions(contexts.path("dev"), std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(contexts.load("dev").unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn the_context_used_is_named_then_chosen_then_dev_then_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::at(dir.path());
        assert_eq!(contexts.select(None).unwrap_err().exit().code(), 2);
        contexts.save(&context("work")).unwrap();
        assert_eq!(contexts.select(None).unwrap().name, "work");
        contexts.save(&context("home")).unwrap();
        assert!(contexts.select(None).unwrap_err().to_string().contains("home, work"));
        contexts.save(&context("dev")).unwrap();
        assert_eq!(contexts.select(None).unwrap().name, "dev");
        contexts.use_context("home").unwrap();
        assert_eq!(contexts.select(None).unwrap().name, "home");
        assert_eq!(contexts.select(Some("work")).unwrap().name, "work");
        assert_eq!(contexts.select(Some("gone")).unwrap_err().exit().code(), 3);
        assert_eq!(contexts.names().unwrap(), ["dev", "home", "work"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let contexts = Contexts::at(dir.path());
        file::write_private(&contexts.path("x"), b"url = \"http://h/\"\nurll = 1\n").unwrap();
        assert!(contexts.load("x").unwrap_err().to_string().contains("urll"));
        assert!(contexts.load("../x").is_err());
    }
}
