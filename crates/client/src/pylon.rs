//! Agents that come from Pylon and OpenAgents: their files, read as they are found.
//!
//! What is read is closed again at once, as any agent is: the files themselves hold secrets in clear more often than
//! not, whatever their fields are called, and the owner is told which. Funds do not come along: they are in a Spark
//! wallet of keys that the same words give.

use nexus_core::AgentConfig;
use nexus_core::agent::HEARTBEAT_SECS;
use nexus_core::policy::{Autonomy, Limits};
use nexus_core::trigger::Trigger;
use nexus_core::{Msat, Npub};
use nexus_seal::{Passphrase, SecretText};
use nexus_vault::{Mnemonic, is_pylon_identity, open_pylon_identity};
use serde::Deserialize;

use crate::error::Error;

/// Largest file that is read, in bytes.
const MAX_FILE: usize = 256 * 1024;

/// What a file of Pylon's or OpenAgents' is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Artefact {
    /// `agents/<npub>.toml`: an agent, with its words in clear.
    Agent,
    /// `identity.enc`: words under a password.
    Identity,
    /// `identity.mnemonic` or `identity.seed`: words in clear.
    Words,
    /// `pylon/config.toml`: a name and relays, no key.
    Config,
}

/// An agent as it was found. Its words are a secret; everything else is a proposal that its owner may change.
#[derive(Debug)]
pub struct Found {
    pub name: Option<String>,
    pub mnemonic: SecretText,
    pub config: AgentConfig,
    pub autonomy: Autonomy,
    pub limits: Limits,
    /// What its owner has to know, a sentence each.
    pub warnings: Vec<String>,
}

/// Says what a file is.
pub fn detect(text: &str) -> Result<Artefact, Error> {
    let odd = || {
        Error::Usage("this is no file of Pylon or OpenAgents\n  next: give agents/<npub>.toml, identity.enc, identity.mnemonic or pylon/config.toml".to_owned())
    };
    if text.len() > MAX_FILE {
        return Err(odd());
    }
    if is_pylon_identity(text) {
        return Ok(Artefact::Identity);
    }
    if Mnemonic::parse(text).is_ok() {
        return Ok(Artefact::Words);
    }
    let table: toml::Table = toml::from_str(text).map_err(|_| odd())?;
    if table.contains_key("mnemonic_encrypted") {
        return Ok(Artefact::Agent);
    }
    let known = ["min_price_msats", "require_payment", "backend_preference", "default_model", "data_dir", "relays"];
    if known.iter().any(|name| table.contains_key(*name)) { Ok(Artefact::Config) } else { Err(odd()) }
}

#[derive(Deserialize)]
struct AgentFile {
    name: Option<String>,
    pubkey: Option<String>,
    npub: Option<String>,
    mnemonic_encrypted: SecretText,
    network: Option<String>,
    #[serde(default)]
    relays: Vec<String>,
    #[serde(default)]
    profile: ProfileTable,
    #[serde(default)]
    schedule: ScheduleTable,
    #[serde(default)]
    runway: RunwayTable,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ProfileTable {
    about: String,
    autonomy: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ScheduleTable {
    heartbeat_seconds: Option<i64>,
    triggers: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RunwayTable {
    daily_limit_sats: Option<u64>,
    per_tick_limit_sats: Option<u64>,
}

#[derive(Deserialize)]
struct ConfigFile {
    name: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    relays: Vec<String>,
    network: Option<String>,
}

/// Reads an agent's TOML. Refused when its words are not the key that it names.
pub fn read_agent(text: &str) -> Result<Found, Error> {
    // A parser's error could quote the line, and so the words.
    let file: AgentFile = toml::from_str(text).map_err(|_| unreadable("the agent's TOML"))?;
    let mnemonic = mnemonic(&file.mnemonic_encrypted)?;
    let warning = "mnemonic_encrypted in this file is the mnemonic in clear: whoever has read the file has the agent's key and money; delete the file and its copies once the agent runs here";
    let mut found = Found::new(file.name, file.mnemonic_encrypted, warning);
    let own = npub(&mnemonic)?;
    for named in [file.pubkey, file.npub].into_iter().flatten() {
        if named.parse() != Ok(own) {
            let named: String = named.chars().take(80).collect();
            return Err(Error::Refused(format!(
                "the file names {named}, but its words are the key of {own}\n  next: look for the file that belongs to these words"
            )));
        }
    }
    found.take_config(file.relays, file.profile.about);
    found.take_schedule(&file.schedule);
    found.take_limits(&file.runway);
    found.autonomy = match file.profile.autonomy.as_deref() {
        Some("supervised") => Autonomy::Supervised,
        Some("autonomous") => Autonomy::Autonomous,
        Some(_) | None => Autonomy::Bounded,
    };
    found.warn_of_funds(&mnemonic, file.network.as_deref())?;
    Ok(found)
}

/// Reads `identity.mnemonic` or `identity.seed`.
pub fn read_words(text: &str) -> Result<Found, Error> {
    let words = SecretText::new(text.trim());
    let mnemonic = mnemonic(&words)?;
    let warning = "this file holds the mnemonic in clear: delete it and its copies once the agent runs here";
    let mut found = Found::new(None, words, warning);
    found.warn_of_funds(&mnemonic, None)?;
    Ok(found)
}

/// Opens `identity.enc`. Takes a moment (Argon2): call it off the async executor.
pub fn read_identity(text: &str, password: &Passphrase) -> Result<Found, Error> {
    let mnemonic = open_pylon_identity(text, password).map_err(|error| {
        Error::NotAllowed(format!("identity.enc: {error}\n  next: check the password and the file"))
    })?;
    let warning = "a file identity.seed beside this one would hold the same words in clear: look for it and delete it";
    let mut found = Found::new(None, mnemonic.expose(), warning);
    found.warn_of_funds(&mnemonic, None)?;
    Ok(found)
}

/// Adds what Pylon's `config.toml` says. It holds no key, and never changes one.
pub fn add_config(found: &mut Found, text: &str) -> Result<(), Error> {
    let file: ConfigFile = toml::from_str(text).map_err(|_| unreadable("Pylon's config.toml"))?;
    if let Some(name) = file.name {
        found.take_name(&name);
    }
    found.take_config(file.relays, file.description);
    if text.contains("spark_token") {
        found.warnings.push("config.toml may hold a token of the Spark service: it is not taken over".to_owned());
    }
    if matches!(file.network.as_deref(), Some("testnet" | "signet")) {
        found.warnings.push(REALLY_REGTEST.to_owned());
    }
    Ok(())
}

const REALLY_REGTEST: &str = "testnet and signet were regtest in OpenAgents' code: its balance was not of that network";

fn unreadable(what: &str) -> Error {
    Error::Refused(format!("{what} cannot be read\n  next: check that the file is whole"))
}

fn mnemonic(words: &SecretText) -> Result<Mnemonic, Error> {
    Mnemonic::parse(words.expose())
        .map_err(|error| Error::Refused(format!("{error}\n  next: check that the file is whole")))
}

fn npub(mnemonic: &Mnemonic) -> Result<Npub, Error> {
    mnemonic.npub().map_err(|error| Error::Failed(format!("deriving the key: {error}")))
}

impl Found {
    fn new(name: Option<String>, mnemonic: SecretText, warning: &str) -> Self {
        let mut found = Self {
            name: None,
            mnemonic,
            config: AgentConfig::default(),
            autonomy: Autonomy::default(),
            limits: Limits::default(),
            warnings: vec![warning.to_owned()],
        };
        if let Some(name) = name {
            found.take_name(&name);
        }
        found
    }

    /// Names become lightning addresses here: what does not fit is replaced.
    fn take_name(&mut self, name: &str) {
        let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c) { c } else { '-' };
        let fitting: String = name.trim().to_ascii_lowercase().chars().map(fits).take(64).collect();
        let fitting = fitting.trim_start_matches(['-', '_', '.']).to_owned();
        if nexus_core::agent::validate_name(&fitting).is_ok() {
            if fitting != name {
                self.warnings.push(format!("its name becomes {fitting:?}: names here are a-z, 0-9, '-', '_' and '.'"));
            }
            self.name = Some(fitting);
        } else {
            self.warnings.push("its name cannot be used here: choose one".to_owned());
        }
    }

    fn take_config(&mut self, relays: Vec<String>, about: String) {
        for relay in relays {
            let with = AgentConfig {
                relays: [self.config.relays.clone(), vec![relay.clone()]].concat(),
                ..Default::default()
            };
            if self.config.relays.contains(&relay) {
            } else if with.validate().is_ok() {
                self.config.relays = with.relays;
            } else {
                let shown: String = relay.chars().take(80).collect();
                self.warnings.push(format!("the relay {shown:?} is left out: at most 16, ws:// or wss://"));
            }
        }
        let with = AgentConfig { about, ..AgentConfig::default() };
        if with.validate().is_ok() {
            self.config.about = with.about;
        } else {
            self.warnings.push("its description is longer than 2000 bytes and left out".to_owned());
        }
    }

    fn take_schedule(&mut self, schedule: &ScheduleTable) {
        match schedule.heartbeat_seconds.map(u32::try_from) {
            None => {}
            Some(Ok(secs)) if HEARTBEAT_SECS.contains(&secs) => self.config.heartbeat_secs = secs,
            Some(_) => self.warnings.push("its heartbeat is not within 10 s and 30 days: 900 s is used".to_owned()),
        }
        if schedule.triggers.is_empty() {
            return;
        }
        let mut triggers = [Trigger::Heartbeat].into_iter().collect::<std::collections::BTreeSet<_>>();
        for name in schedule.triggers.iter().take(16) {
            let kind = name.strip_prefix("custom:").and_then(|kind| kind.parse().ok()).map(Trigger::Kind);
            match kind.or_else(|| name.parse().ok()) {
                Some(trigger) if triggers.len() < 16 => drop(triggers.insert(trigger)),
                Some(_) | None => {
                    let shown: String = name.chars().take(80).collect();
                    self.warnings.push(format!("the trigger {shown:?} is not known here"));
                }
            }
        }
        self.config.triggers = triggers;
    }

    fn take_limits(&mut self, runway: &RunwayTable) {
        let sats = |sats: Option<u64>, default: Msat| sats.and_then(Msat::from_sats).unwrap_or(default);
        let day = sats(runway.daily_limit_sats, self.limits.day_msat);
        let tick = sats(runway.per_tick_limit_sats, self.limits.tick_msat);
        if tick > day {
            self.warnings.push("its limit of a tick was above that of a day: the day's counts for both".to_owned());
        }
        self.limits.day_msat = day;
        self.limits.tick_msat = tick.min(day);
    }

    fn warn_of_funds(&mut self, mnemonic: &Mnemonic, network: Option<&str>) -> Result<(), Error> {
        let mainnet = !matches!(network, Some("regtest" | "testnet" | "signet"));
        if matches!(network, Some("testnet" | "signet")) {
            self.warnings.push(REALLY_REGTEST.to_owned());
        }
        let key = mnemonic.spark_identity(mainnet).map_err(|error| Error::Failed(format!("deriving: {error}")))?;
        self.warnings.push(format!(
            "its old balance does not come along: it is in the Spark wallet with identity key {key}; open that with the same words and send it to the agent's new wallet"
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";
    const HEX: &str = "e8bcf3823669444d0b49ad45d65088635d9fd8500a75b5f20b59abefa56a144f";

    fn agent(extra: &str) -> String {
        format!(
            r#"name = "My Agent"
pubkey = "{HEX}"
mnemonic_encrypted = "{WORDS}"
spark_address = "sp1…"
network = "regtest"
relays = ["wss://relay.example", "https://not-a-relay", "wss://relay.example"]
created_at = 1766000000
state = "active"
tick_count = 12
{extra}
[profile]
name = "My Agent"
about = "helps"
autonomy = "supervised"
capabilities = ["x"]
[schedule]
heartbeat_seconds = 600
triggers = ["mention", "dm", "custom:30023", "full-moon"]
active = true
[runway]
low_balance_days = 7
daily_limit_sats = 5000
per_tick_limit_sats = 9000
"#
        )
    }

    #[test]
    fn an_agents_file_is_taken_over_with_its_warnings() {
        let text = agent("");
        assert_eq!(detect(&text).unwrap(), Artefact::Agent);
        let found = read_agent(&text).unwrap();
        assert_eq!((found.name.as_deref(), found.mnemonic.expose()), (Some("my-agent"), WORDS));
        assert_eq!((found.config.heartbeat_secs, found.config.about.as_str()), (600, "helps"));
        assert_eq!(found.config.relays, ["wss://relay.example"]);
        let triggers = [Trigger::Heartbeat, Trigger::Mention, Trigger::Dm, Trigger::Kind(30_023)];
        assert_eq!(found.config.triggers, triggers.into());
        assert_eq!(found.autonomy, Autonomy::Supervised);
        assert_eq!((found.limits.day_msat, found.limits.tick_msat), (Msat::sats(5_000), Msat::sats(5_000)));
        found.config.validate().unwrap();
        let warnings = found.warnings.join("\n");
        for part in ["in clear", "my-agent", "https://not-a-relay", "full-moon", "limit of a tick"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        // Where its funds are, on regtest.
        assert!(warnings.contains("02698b27ac308b275671b3ca25436346469d04a5bba578ae39feba1d65897a6abc"));
        assert!(!warnings.contains("abandon") && !format!("{found:?}").contains("abandon"));
    }

    #[test]
    fn a_file_whose_words_are_not_its_key_is_refused() {
        let other = agent("").replace(HEX, &"ab".repeat(32));
        assert_eq!(read_agent(&other).unwrap_err().exit().code(), 4);
        let wrong = read_agent(&agent("npub = \"npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg\""));
        assert!(wrong.unwrap_err().to_string().contains("names npub10elf"));
        let misspelt = agent("").replace("abandon about", "abandon zoo");
        let error = read_agent(&misspelt).unwrap_err().to_string();
        assert!(!error.contains("abandon"), "{error}");
        // A line that no parser takes must not be quoted.
        let broken = agent("").replace("about\"", "about");
        let error = read_agent(&broken).unwrap_err().to_string();
        assert!(!error.contains("abandon"), "{error}");
    }

    #[test]
    fn words_and_configurations_are_told_apart() {
        assert_eq!(detect(&format!("{WORDS}\n")).unwrap(), Artefact::Words);
        let found = read_words(&format!("{WORDS}\n")).unwrap();
        assert_eq!(found.mnemonic.expose(), WORDS);
        let mainnet = "0281363910b0dc0015a4a25e758da30f0e28388ea5252c0e3713936f2d4ef7d3d5";
        assert!(found.warnings.iter().any(|warning| warning.contains(mainnet)));
        let config = "name = \"pylon\"\ndescription = \"d\"\nrelays = [\"wss://r\"]\nmin_price_msats = 1000\nnetwork = \"signet\"\nspark_token = \"t0k3n\"\n";
        assert_eq!(detect(config).unwrap(), Artefact::Config);
        let mut found = read_words(WORDS).unwrap();
        add_config(&mut found, config).unwrap();
        assert_eq!((found.name.as_deref(), found.config.about.as_str()), (Some("pylon"), "d"));
        let warnings = found.warnings.join("\n");
        assert!(warnings.contains("were regtest") && warnings.contains("token") && !warnings.contains("t0k3n"));
        for odd in ["", "x = 1", "{}", "abandon", "npub1xyz"] {
            assert_eq!(detect(odd).unwrap_err().exit().code(), 2, "{odd}");
        }
        assert!(detect(&" ".repeat(300_000)).is_err());
    }

    #[test]
    fn an_encrypted_identity_goes_out_and_comes_back() {
        let entropy = nexus_testkit::SeededEntropy::new(3);
        let password = Passphrase::existing("velvet-goose 71 paints quietly");
        let file = nexus_vault::seal_pylon_identity(&Mnemonic::parse(WORDS).unwrap(), &password, &entropy).unwrap();
        assert_eq!(detect(&file).unwrap(), Artefact::Identity);
        assert_eq!(read_identity(&file, &password).unwrap().mnemonic.expose(), WORDS);
        let wrong = read_identity(&file, &Passphrase::existing("another")).unwrap_err();
        assert_eq!(wrong.exit().code(), 6);
    }
}
