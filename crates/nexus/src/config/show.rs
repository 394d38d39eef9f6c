//! Printing the configuration as it would run, in the form of the file.

use nexus_bus::NatsConfig;
use nexus_store::PostgresConfig;
use serde_json::Value;

use super::layer::{leaves, tree_of, variable_of};
use super::{ConfigError, Loaded};

impl Loaded {
    /// TOML; what is unset stands as a comment. With `sources`, each value says where it comes from.
    pub fn to_toml(&self, sources: bool) -> Result<String, ConfigError> {
        let all = leaves(&tree_of(&self.config)?);
        let mut text = String::new();
        // TOML wants the keys of the root before the first section.
        let (root, mut inner): (Vec<_>, Vec<_>) = all.iter().partition(|(key, _)| !key.contains('.'));
        // And every key of a section together, also when a section stands inside another.
        inner.sort_by_key(|(key, _)| key.rsplit_once('.'));
        let mut section = "";
        for (key, value) in root.into_iter().chain(inner) {
            let (group, name) = key.rsplit_once('.').unwrap_or(("", key));
            if group != section {
                section = group;
                text.push_str(&format!("\n[{section}]\n"));
            }
            let line = match value {
                Value::Null => format!("# {name} ="),
                value => format!("{name} = {value}"),
            };
            let from = match self.sources.get(key) {
                Some(from) if sources => Some(from.clone()),
                None if sources => Some(format!("default; {}", variable_of(key))),
                _ => None,
            };
            let remarks: Vec<String> = from.into_iter().chain(note(key).map(str::to_owned)).collect();
            let remarks = if remarks.is_empty() { String::new() } else { format!("  # {}", remarks.join("; ")) };
            text.push_str(&format!("{line}{remarks}\n"));
        }
        Ok(text.trim_end().to_owned())
    }

    /// The same tree as JSON.
    pub fn to_json(&self, sources: bool) -> Result<Value, ConfigError> {
        let tree = tree_of(&self.config)?;
        Ok(if sources { serde_json::json!({ "config": tree, "sources": self.sources }) } else { tree })
    }
}

/// What a key takes, where that is not plain from its name.
fn note(key: &str) -> Option<&'static str> {
    let among = |section: &str, notes: &'static [(&'static str, &'static str)]| {
        let name = key.strip_prefix(section)?;
        notes.iter().find(|(noted, _)| *noted == name).map(|(_, text)| *text)
    };
    among("database.postgres.", PostgresConfig::NOTES).or_else(|| among("bus.nats.", NatsConfig::NOTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_database_and_the_bus_says_what_it_takes() {
        let loaded = Loaded::read(None, [], vec![]).unwrap();
        let keys = leaves(&tree_of(&loaded.config).unwrap());
        let (mut said, known) = (0, PostgresConfig::NOTES.len() + NatsConfig::NOTES.len());
        for key in keys.keys().filter(|key| key.starts_with("database.postgres.") || key.starts_with("bus.nats.")) {
            assert!(note(key).is_some(), "{key}");
            said += 1;
        }
        assert_eq!(said, known, "a note of a key that is gone");
        let text = loaded.to_toml(false).unwrap();
        assert!(text.contains("writers = 1  # connections that write, 1 to 64"), "{text}");
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let loaded = Loaded::read(None, [("NEXUS_API_PORT".to_owned(), "9".to_owned())], vec![]).unwrap();
        let text = loaded.to_toml(true).unwrap();
        assert!(text.contains("port = 9  # NEXUS_API_PORT"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("again.toml");
        std::fs::write(&path, &text).unwrap();
        let again = Loaded::read(Some(&path), [], vec![]).unwrap();
        assert_eq!(again.to_json(false).unwrap(), loaded.to_json(false).unwrap());
    }
}
