//! A manifest: what many agents should be, and what there is to do about it. Nothing here asks a host.

use std::collections::BTreeMap;
use std::fmt;

use nexus_core::agent::validate_name;
use nexus_core::policy::{Custody, Policy};
use nexus_core::{AgentConfig, Npub};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::policy;

/// Agents of one manifest at most.
pub const MAX_AGENTS: usize = 10_000;
/// Largest manifest, in bytes.
pub const MAX_BYTES: u64 = 8 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    defaults: Wanted,
    agents: BTreeMap<String, Wanted>,
}

/// Whether an agent should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    Running,
    Stopped,
}

/// What an agent should be. What is not named is left as it is; a new agent gets the usual defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub state: Option<Run>,
    pub custody: Option<Custody>,
    /// Of a new agent alone: later it is in the agent's encrypted state.
    pub persona: Option<String>,
    /// Of a new agent alone, as the persona.
    pub goals: Option<Vec<String>>,
    /// Fields of [`AgentConfig`].
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Fields of the policy document.
    #[serde(default)]
    pub policy: Map<String, Value>,
}

/// A manifest that was read and whose every agent was checked.
#[derive(Debug)]
pub struct Manifest {
    pub agents: BTreeMap<String, Wanted>,
}

/// An agent as the host has it.
#[derive(Debug, Clone)]
pub struct Existing {
    pub npub: Npub,
    pub desired: Run,
    pub config: AgentConfig,
    pub policy: Option<Policy>,
}

/// One thing to do about an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Create,
    /// A JSON merge patch of the configuration.
    Configure(Map<String, Value>),
    /// The next version, to be signed, and what it changes.
    Sign(Box<Policy>, String),
    Start,
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create"),
            Self::Configure(patch) => {
                let fields: Vec<String> = patch.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                write!(f, "set {}", fields.join(", "))
            }
            Self::Sign(policy, changes) => write!(f, "sign policy version {}: {changes}", policy.version),
            Self::Start => f.write_str("start"),
            Self::Stop => f.write_str("stop"),
        }
    }
}

fn usage(text: impl fmt::Display) -> Error {
    Error::Usage(format!("{text}\n  next: correct the manifest and run the command again; nothing was changed"))
}

impl Manifest {
    /// Reads TOML. Whatever a host would refuse of it is refused here, with the agent's name.
    pub fn read(text: &str) -> Result<Self, Error> {
        let document: Document = toml::from_str(text).map_err(|error| usage(error.to_string().trim()))?;
        if document.agents.len() > MAX_AGENTS {
            return Err(usage(format!("{} agents are more than {MAX_AGENTS}", document.agents.len())));
        }
        let mut agents = BTreeMap::new();
        for (name, wanted) in document.agents {
            let at = |what: &dyn fmt::Display| usage(format!("agents.{name}: {what}"));
            validate_name(&name).map_err(|error| at(&error))?;
            let wanted = over(&document.defaults, wanted);
            for field in ["agent", "version", "custody"] {
                if wanted.policy.contains_key(field) {
                    return Err(at(&format!("policy.{field} is not set here")));
                }
            }
            match wanted.custody {
                None | Some(Custody::Sealed | Custody::Attended) => {}
                Some(custody @ (Custody::Bunker | Custody::Threshold)) => {
                    let text = format!("custody {custody:?} needs a signer: make it with `nexus agent create`");
                    return Err(at(&text));
                }
            }
            configured(&AgentConfig::default(), &wanted.config).map_err(|why| at(&why))?;
            Policy::parse(&wanted.document(&Npub::from_bytes([1; 32]), 1).to_string()).map_err(|why| at(&why))?;
            agents.insert(name, wanted);
        }
        Ok(Self { agents })
    }
}

impl Wanted {
    /// Of a new agent.
    pub fn custody(&self) -> Custody {
        self.custody.unwrap_or_default()
    }

    /// Of a new agent: the policy document to sign; what it does not name has its default.
    pub fn document(&self, npub: &Npub, version: u64) -> Value {
        let mut document = self.policy.clone();
        document.insert("agent".to_owned(), json!(npub));
        document.insert("version".to_owned(), json!(version));
        document.insert("custody".to_owned(), json!(self.custody()));
        Value::Object(document)
    }

    /// Of a new agent.
    pub fn config(&self) -> Result<AgentConfig, Error> {
        configured(&AgentConfig::default(), &self.config).map_err(usage)
    }

    /// What there is to do about an agent, in the order in which it is done. Nothing when it is as it should be.
    pub fn plan(&self, name: &str, existing: Option<&Existing>) -> Result<Vec<Step>, Error> {
        let at = |what: &dyn fmt::Display| usage(format!("agents.{name}: {what}"));
        let mut steps = Vec::new();
        let runs = match existing {
            None => {
                steps.push(Step::Create);
                Run::Stopped
            }
            Some(existing) => {
                let has = existing.policy.as_ref().map_or(Custody::Sealed, |policy| policy.custody);
                if self.custody.is_some_and(|custody| custody != has) {
                    return Err(at(&format!("its custody is {has:?}, and stays so for its life")));
                }
                let target = configured(&existing.config, &self.config).map_err(|why| at(&why))?;
                let patch = patch(&existing.config, &target);
                if !patch.is_empty() {
                    steps.push(Step::Configure(patch));
                }
                if let Some((next, changes)) = self.next_policy(existing).map_err(|why| at(&why))? {
                    steps.push(Step::Sign(Box::new(next), changes));
                }
                existing.desired
            }
        };
        match (self.state, runs) {
            (Some(Run::Running), Run::Stopped) => steps.push(Step::Start),
            (Some(Run::Stopped), Run::Running) => steps.push(Step::Stop),
            (Some(_) | None, _) => {}
        }
        Ok(steps)
    }

    fn next_policy(&self, existing: &Existing) -> Result<Option<(Policy, String)>, Error> {
        if self.policy.is_empty() {
            return Ok(None);
        }
        let current = existing.policy.clone().unwrap_or_else(|| Policy::default_for(existing.npub));
        let mut document: Value = serde_json::from_str(&policy::editable(&current)?)
            .map_err(|error| Error::Failed(format!("reading the policy: {error}")))?;
        merge(&mut document, &Value::Object(self.policy.clone()));
        let next = policy::next_version(&document.to_string(), &existing.npub, existing.policy.as_ref())?;
        let before = Policy { version: next.version, ..current };
        if existing.policy.is_some() && before == next {
            return Ok(None);
        }
        let changes = policy::changes(&before, &next)?;
        let changes: Vec<&str> = changes.lines().map(str::trim).collect();
        let changes = if changes.is_empty() { "with the defaults".to_owned() } else { changes.join(", ") };
        Ok(Some((next, changes)))
    }
}

/// What an agent names goes over the defaults, field by field; lists are replaced.
fn over(defaults: &Wanted, own: Wanted) -> Wanted {
    let merged = |defaults: &Map<String, Value>, own: Map<String, Value>| {
        let mut merged = Value::Object(defaults.clone());
        merge(&mut merged, &Value::Object(own));
        match merged {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    };
    Wanted {
        state: own.state.or(defaults.state),
        custody: own.custody.or(defaults.custody),
        persona: own.persona.or_else(|| defaults.persona.clone()),
        goals: own.goals.or_else(|| defaults.goals.clone()),
        config: merged(&defaults.config, own.config),
        policy: merged(&defaults.policy, own.policy),
    }
}

fn merge(target: &mut Value, wanted: &Value) {
    match (target, wanted) {
        (Value::Object(target), Value::Object(wanted)) => {
            for (name, value) in wanted {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, wanted) => *target = wanted.clone(),
    }
}

fn configured(config: &AgentConfig, fields: &Map<String, Value>) -> Result<AgentConfig, String> {
    let mut document = serde_json::to_value(config).map_err(|error| error.to_string())?;
    merge(&mut document, &Value::Object(fields.clone()));
    let config: AgentConfig = serde_json::from_value(document).map_err(|error| format!("config: {error}"))?;
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

/// The fields that differ.
fn patch(before: &AgentConfig, after: &AgentConfig) -> Map<String, Value> {
    match (serde_json::to_value(before), serde_json::to_value(after)) {
        (Ok(Value::Object(before)), Ok(Value::Object(after))) => {
            // What is at its default may not be written at all: null brings it there.
            let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name.clone(), Value::Null));
            let gone: Vec<_> = gone.collect();
            let changed = after.into_iter().filter(|(name, value)| before.get(name) != Some(value));
            changed.chain(gone).collect()
        }
        (_, _) => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [defaults]
        state = "running"
        goals = ["Be there"]
        [defaults.config]
        heartbeat_secs = 600
        labels = { team = "north" }
        [defaults.policy.limits]
        day_msat = 5_000_000

        [agents.ada]
        [agents.bob]
        state = "stopped"
        custody = "attended"
        [agents.bob.config]
        labels = { role = "clerk" }
    "#;

    fn existing(wanted: &Wanted) -> Existing {
        let npub = Npub::from_bytes([7; 32]);
        Existing {
            npub,
            desired: wanted.state.unwrap_or(Run::Stopped),
            config: wanted.config().unwrap(),
            policy: Some(Policy::parse(&wanted.document(&npub, 1).to_string()).unwrap()),
        }
    }

    #[test]
    fn a_manifest_is_brought_about_and_then_asks_for_nothing() {
        let manifest = Manifest::read(TEXT).unwrap();
        let (ada, bob) = (&manifest.agents["ada"], &manifest.agents["bob"]);
        assert_eq!(ada.plan("ada", None).unwrap(), [Step::Create, Step::Start]);
        assert_eq!(bob.plan("bob", None).unwrap(), [Step::Create]);
        assert_eq!(bob.config().unwrap().labels.keys().collect::<Vec<_>>(), ["role", "team"]);
        for (name, wanted) in &manifest.agents {
            assert_eq!(wanted.plan(name, Some(&existing(wanted))).unwrap(), [], "{name}");
        }
    }

    #[test]
    fn only_what_is_named_and_differs_is_changed() {
        let manifest = Manifest::read(TEXT).unwrap();
        let ada = &manifest.agents["ada"];
        let mut here = existing(ada);
        here.desired = Run::Stopped;
        here.config.about = "not named in the manifest".into();
        here.config.heartbeat_secs = 60;
        here.config.labels.insert("own".into(), "stays".into());
        let policy = here.policy.as_mut().unwrap();
        (policy.version, policy.limits.day_msat) = (4, nexus_core::Msat::sats(1));
        policy.limits.tick_msat = nexus_core::Msat::sats(1);
        let steps = ada.plan("ada", Some(&here)).unwrap();
        let [Step::Configure(patch), Step::Sign(next, changes), Step::Start] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(Value::Object(patch.clone()), json!({ "heartbeat_secs": 600 }));
        assert_eq!(
            (next.version, next.limits.day_msat.as_u64(), next.limits.tick_msat.as_u64()),
            (5, 5_000_000, 1_000)
        );
        assert_eq!(changes, "limits.day_msat: 1000 -> 5000000");
        here.desired = Run::Running;
        here.policy = None;
        let steps = ada.plan("ada", Some(&here)).unwrap();
        assert!(matches!(&steps[..], [Step::Configure(_), Step::Sign(next, _)] if next.version == 1), "{steps:?}");
    }

    #[test]
    fn what_a_host_would_refuse_is_refused_by_name_before_anything_is_done() {
        for (text, named) in [
            ("[agents.ada]\nstat = 'running'", "stat"),
            ("[agents.ada.config]\nheartbeat_secs = 1", "agents.ada"),
            ("[agents.ada.config]\nheartbeat = 60", "agents.ada"),
            ("[agents.ada.policy]\nversion = 3", "policy.version"),
            ("[agents.ada.policy.limits]\nday = 3", "agents.ada"),
            ("[agents.ada]\ncustody = 'bunker'", "nexus agent create"),
            ("[agents.'Bad Name']", "Bad Name"),
            ("agents = 3", "agents"),
            ("[defaults]", "agents"),
        ] {
            let error = Manifest::read(text).unwrap_err();
            assert_eq!(error.exit().code(), 2, "{text}");
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
        let manifest = Manifest::read("[agents.ada]\ncustody = 'attended'").unwrap();
        let sealed = existing(&Wanted::default());
        assert!(manifest.agents["ada"].plan("ada", Some(&sealed)).is_err(), "its custody is for life");
    }

    #[test]
    fn a_thousand_agents_are_planned() {
        let text: String = (0..1_000).map(|n| format!("[agents.agent-{n}]\n")).collect();
        let manifest = Manifest::read(&format!("[defaults]\nstate = 'running'\n{text}")).unwrap();
        let steps: usize = manifest.agents.iter().map(|(name, wanted)| wanted.plan(name, None).unwrap().len()).sum();
        assert_eq!(steps, 2_000);
    }
}
