//! Reading the layers, each over the one before, and remembering where every value came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Config;

/// Environment variables of ours that are not configuration keys.
const OTHER_VARIABLES: [&str; 4] = ["NEXUS_CONFIG", "NEXUS_CONFIG_DIR", "NEXUS_CONTEXT", "NEXUS_EDITOR"];
/// Read by builds for tests, which can stop a worker at a named point; others never look at it.
const FAULTS: &str = "NEXUS_FAULT";
const MAX_FILE: u64 = 1024 * 1024;

/// A configuration that is refused, with the key's name.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading {path}: {source}\n  next: check the path given with --config or NEXUS_CONFIG", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{from}: {why}\n  next: correct it; `nexus config` prints every key")]
    Malformed { from: String, why: String },
    #[error("unknown key `{key}` in {from}{hint}\n  next: correct or remove it; `nexus config` prints every key", hint = hint(near.as_deref()))]
    Unknown { key: String, from: String, near: Option<String> },
    #[error("{0}\n  next: correct it; `nexus config --sources` shows where each value comes from")]
    Refused(String),
}

fn hint(near: Option<&str>) -> String {
    near.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

/// Values from flags, by key.
pub type Overrides = Vec<(&'static str, Value)>;

/// A checked configuration and the origin of each value that is not a default.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Key to origin, for example `api.port` to `NEXUS_API_PORT`.
    pub sources: BTreeMap<String, String>,
}

impl Loaded {
    /// Reads every layer. Any unknown key, from wherever, refuses the whole.
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Overrides,
    ) -> Result<Self, ConfigError> {
        let mut tree = tree_of(&Config::default())?;
        let leaves = leaves(&tree);
        let mut sources = BTreeMap::new();
        if let Some(path) = file {
            let from = path.display().to_string();
            for (key, value) in from_file(path, &from, &leaves)? {
                place(&mut tree, &mut sources, key, value, &from);
            }
        }
        for (variable, text) in environment {
            let Some(key) = key_of(&variable, &leaves)? else { continue };
            let value = parse_text(&text, leaves.get(&key).unwrap_or(&Value::Null));
            place(&mut tree, &mut sources, key, value, &variable);
        }
        for (key, value) in flags {
            place(&mut tree, &mut sources, key.to_owned(), value, "flag");
        }
        let config: Config = serde_path_to_error::deserialize(tree).map_err(|error| {
            let key = error.path().to_string();
            let from = sources.get(&key).cloned().unwrap_or_else(|| "configuration".to_owned());
            ConfigError::Malformed { from, why: format!("{key}: {}", error.inner()) }
        })?;
        config.check().map_err(ConfigError::Refused)?;
        Ok(Self { config, sources })
    }
}

/// The environment of this process.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

pub(super) fn tree_of(config: &Config) -> Result<Value, ConfigError> {
    serde_json::to_value(config).map_err(|error| ConfigError::Refused(error.to_string()))
}

/// Every key that has a value of its own, with its default.
pub(super) fn leaves(tree: &Value) -> BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| walk(&join(prefix, name), value, into)),
            other => {
                into.insert(prefix.to_owned(), other.clone());
            }
        }
    }
    let mut into = BTreeMap::new();
    walk("", tree, &mut into);
    into
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn from_file(path: &Path, from: &str, known: &BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(ConfigError::Malformed { from: from.to_owned(), why: "larger than 1 MiB".to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    let tree: Value = toml::from_str(&text)
        .map_err(|error| ConfigError::Malformed { from: from.to_owned(), why: error.to_string() })?;
    let found = leaves(&tree);
    match found.keys().find(|key| !known.contains_key(*key) && !may_be(key, known)) {
        Some(key) => Err(ConfigError::Unknown {
            key: key.clone(),
            from: from.to_owned(),
            near: nearest(key, known.keys().map(String::as_str)),
        }),
        None => Ok(found),
    }
}

/// Tables whose entries the operator names.
const NAMED: &[&str] = &["hosting.plans."];

/// Whether a key may be in a section that is not there by default, or in one of the operator's naming. What is wrong in one is
/// found when it is read.
fn may_be(key: &str, known: &BTreeMap<String, Value>) -> bool {
    let absent = |(leaf, default): (&String, &Value)| {
        default.is_null() && key.strip_prefix(leaf.as_str()).is_some_and(|rest| rest.starts_with('.'))
    };
    known.iter().any(absent) || NAMED.iter().any(|section| key.starts_with(section))
}

/// The key of a section that is not there by default: `NEXUS_HOSTING_LND_URL` is `hosting.lnd.url`.
fn key_in_absent(variable: &str, known: &BTreeMap<String, Value>) -> Option<String> {
    let absent = known.iter().filter(|(_, default)| default.is_null());
    absent
        .filter_map(|(leaf, _)| {
            let rest = variable.strip_prefix(&variable_of(leaf))?.strip_prefix('_')?;
            Some((leaf.len(), format!("{leaf}.{}", rest.to_lowercase())))
        })
        .max()
        .map(|(_, key)| key)
}

/// `api.port` is `NEXUS_API_PORT`. None for what is not ours.
fn key_of(variable: &str, known: &BTreeMap<String, Value>) -> Result<Option<String>, ConfigError> {
    if !variable.starts_with("NEXUS_") || variable.starts_with(FAULTS) || OTHER_VARIABLES.contains(&variable) {
        return Ok(None);
    }
    if let Some(key) = known.keys().find(|key| variable_of(key) == variable) {
        return Ok(Some(key.clone()));
    }
    if let Some(key) = key_in_absent(variable, known) {
        return Ok(Some(key));
    }
    let variables: Vec<String> = known.keys().map(|key| variable_of(key)).collect();
    Err(ConfigError::Unknown {
        key: variable.to_owned(),
        from: "the environment".to_owned(),
        near: nearest(variable, variables.iter().map(String::as_str)),
    })
}

pub(super) fn variable_of(key: &str) -> String {
    format!("NEXUS_{}", key.replace('.', "_").to_uppercase())
}

/// A text from the environment as the kind of value that stands at this key.
fn parse_text(text: &str, default: &Value) -> Value {
    match default {
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        Value::String(_) => Value::String(text.to_owned()),
        Value::Null if text.is_empty() => Value::Null,
        Value::Null if matches!(text, "true" | "false") => Value::Bool(text == "true"),
        Value::Null => text.parse::<u64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        Value::Number(_) => text.parse::<u64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        Value::Bool(_) => text.parse::<bool>().map_or_else(|_| Value::String(text.to_owned()), Value::Bool),
        Value::Object(_) => Value::String(text.to_owned()),
    }
}

fn place(tree: &mut Value, sources: &mut BTreeMap<String, String>, key: String, value: Value, from: &str) {
    let mut slot = tree;
    for name in key.split('.') {
        if slot.is_null() {
            *slot = Value::Object(serde_json::Map::new());
        }
        // A value stands where a section was expected: the section is what is wrong, and is told by what reads it.
        let Value::Object(members) = slot else { return };
        slot = members.entry(name).or_insert(Value::Null);
    }
    *slot = value;
    sources.insert(key, from.to_owned());
}

/// A known key that the writer may have meant: the least edits away, at most three.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|candidate| (distance(key, candidate), candidate))
        .min()
        .filter(|(edits, _)| *edits <= 3)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: Option<&str>, environment: &[(&str, &str)], flags: Overrides) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nexus.toml");
        if let Some(text) = file {
            std::fs::write(&path, text).unwrap();
        }
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Loaded::read(file.map(|_| path.as_path()), environment, flags)
    }

    #[test]
    fn later_layers_win() {
        let file = "[api]\nport = 1000\nmax_streams = 5\n[relay]\nport = 2000\n";
        let loaded = read(
            Some(file),
            &[("NEXUS_API_PORT", "1001"), ("NEXUS_RELAY_PORT", "2001"), ("PATH", "/bin")],
            vec![("api.port", Value::from(1002))],
        )
        .unwrap();
        assert_eq!((loaded.config.api.port, loaded.config.relay.port, loaded.config.api.max_streams), (1002, 2001, 5));
        assert_eq!(loaded.sources["api.port"], "flag");
        assert_eq!(loaded.sources["relay.port"], "NEXUS_RELAY_PORT");
        assert!(loaded.sources["api.max_streams"].ends_with("nexus.toml"));
    }

    #[test]
    fn sections_that_are_absent_by_default_are_read_and_checked() {
        let lnd = "[hosting.lnd]\nurl = \"https://127.0.0.1:8080\"\nidentity = \"02aa\"\nnetwork = \"regtest\"\n";
        let file = format!("{lnd}macaroon_file = \"/m\"\n[hosting.plans.gold]\nfee_sats = 7\n");
        let loaded = read(Some(&file), &[("NEXUS_HOSTING_LND_IDENTITY", "02bb")], vec![]).unwrap();
        let node = loaded.config.hosting.lnd.as_ref().unwrap();
        assert_eq!((node.network.as_str(), node.identity.as_str()), ("regtest", "02bb"));
        assert_eq!(loaded.sources["hosting.lnd.identity"], "NEXUS_HOSTING_LND_IDENTITY");
        assert_eq!(loaded.config.hosting.plans["gold"].fee_sats, 7);
        assert!(loaded.config.hosting.plans.contains_key("hosted"));
        let misspelt = format!("{lnd}macaroon_fil = \"/m\"\n");
        let error = read(Some(&misspelt), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("hosting.lnd") && error.contains("macaroon_fil"), "{error}");
        let error = read(Some("[hosting.plans.gold]\nfee = 7\n"), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("hosting.plans.gold") && error.contains("`fee`"), "{error}");
        let error = read(Some("[data_dir]\nx = 1\n"), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("data_dir"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = read(Some("[api]\nprot = 1\n"), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("`api.prot`") && error.contains("did you mean `api.port`"), "{error}");
        let error = read(None, &[("NEXUS_API_PROT", "1")], vec![]).unwrap_err().to_string();
        assert!(error.contains("`NEXUS_API_PROT`") && error.contains("`NEXUS_API_PORT`"), "{error}");
        let error = read(Some("[ap]\n[ap.x]\ny = 1\n"), &[], vec![]).unwrap_err().to_string();
        assert!(error.contains("`ap.x.y`"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_by_key() {
        for (file, key) in [
            ("[api]\nport = \"x\"\n", "api.port"),
            ("[api]\nport = 70000\n", "api.port"),
            ("[worker]\nbeat_ms = 4000\n", "worker.beat_ms"),
            ("[log]\nlevel = \"loud\"\n", "log.level"),
            ("[relay]\nport = 7777\n", "relay.port"),
            ("[api]\npublic_origin = \"https://h/path\"\n", "api.public_origin"),
            (
                "[database]\nkind = \"postgres\"\npostgres.statement_timeout_ms = 2501\n",
                "at most half the lease (2500)",
            ),
            (
                "[database]\nkind = \"postgres\"\npostgres.idle_in_transaction_timeout_ms = 9999\n",
                "idle_in_transaction",
            ),
            ("[database]\nkind = \"postgres\"\n[worker]\nlease_ms = 4000\n", "at most half the lease (2000)"),
            (
                "[database]\nkind = \"postgres\"\npostgres.readers = 0\n",
                "database.postgres: database settings: readers",
            ),
            ("[bus]\nkind = \"nats\"\nnats.queue = 0\n", "bus.nats: nats queue: 1 to"),
            ("[bus]\nkind = \"nats\"\nnats.user = \"u\"\n", "nats password_file"),
        ] {
            let error = read(Some(file), &[], vec![]).unwrap_err().to_string();
            assert!(error.contains(key), "{file}: {error}");
        }
        let error = read(None, &[("NEXUS_API_PORT", "many")], vec![]).unwrap_err().to_string();
        assert!(error.contains("api.port") && error.contains("NEXUS_API_PORT"), "{error}");
    }

    #[test]
    fn every_key_can_come_from_the_environment() {
        let loaded = read(
            None,
            &[
                ("NEXUS_DATA_DIR", "/srv/nexus"),
                ("NEXUS_API_MAX_AGENTS_PER_ACCOUNT", "7"),
                ("NEXUS_API_TRUSTED_PROXIES", "10.0.0.1, 10.0.0.2"),
                ("NEXUS_PROVIDER_ENABLED", "false"),
                ("NEXUS_LIFECYCLE_FIRST_FUNDING_MSAT", "5000000"),
            ],
            vec![],
        )
        .unwrap();
        assert_eq!(loaded.config.api.max_agents_per_account, Some(7));
        assert_eq!(loaded.config.api.trusted_proxies.len(), 2);
        assert!(!loaded.config.provider.enabled);
        let keys = leaves(&tree_of(&Config::default()).unwrap());
        let variables: std::collections::BTreeSet<String> = keys.keys().map(|key| variable_of(key)).collect();
        assert_eq!(variables.len(), keys.len(), "two keys share a variable");
    }

    #[test]
    fn defaults_are_valid() {
        read(None, &[], vec![]).unwrap();
    }
}
