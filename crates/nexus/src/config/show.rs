//! Printing the configuration as it would run, in the form of the file.

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
                Some(from) if sources => format!("  # {from}"),
                None if sources => format!("  # default; {}", variable_of(key)),
                _ => String::new(),
            };
            text.push_str(&format!("{line}{from}\n"));
        }
        Ok(text.trim_end().to_owned())
    }

    /// The same tree as JSON.
    pub fn to_json(&self, sources: bool) -> Result<Value, ConfigError> {
        let tree = tree_of(&self.config)?;
        Ok(if sources { serde_json::json!({ "config": tree, "sources": self.sources }) } else { tree })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
