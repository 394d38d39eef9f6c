//! What a seller decides before it opens.

use std::path::PathBuf;

use nexus_core::Msat;
use serde::{Deserialize, Serialize};
use url::Url;

/// Longest prompt that any configuration may accept, in bytes. NIP-44 takes 65,535 bytes of plaintext.
pub const MAX_PROMPT_BYTES: usize = 60 * 1024;

/// Longest answer that any configuration may give, in bytes: a longer one does not fit an event that relays take.
pub const MAX_ANSWER_BYTES: usize = 40 * 1024;

/// A provider's whole configuration. Unknown keys are refused; every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    /// Shown to customers in the profile and in the handler announcement.
    pub name: String,
    pub about: String,
    /// The `d` tag of the NIP-89 announcement: one per service that this key sells.
    pub handler_id: String,
    /// Where requests are read and answers are published (`ws://` or `wss://`).
    pub relays: Vec<String>,
    /// Lightning network of the invoices, as customers read it in the announcement.
    pub network: Network,
    pub backend: BackendConfig,
    pub price: Price,
    pub payment: Payment,
    /// Ask for hold invoices where the wallet makes them and jobs are paid before: money is taken with the result, and given
    /// back when there is none.
    pub hold: bool,
    pub encryption: Encryption,
    /// Also take requests that name no provider.
    pub open_requests: bool,
    /// How many of the relays that a request names also get its answers, best effort. The relay pool decides which
    /// addresses are allowed.
    pub customer_relays: usize,
    pub limits: Limits,
    /// Where the list of jobs is kept (one file). Required to run.
    pub data_dir: PathBuf,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            name: "Nexus provider".into(),
            about: "Text generation over NIP-90, paid over Lightning.".into(),
            handler_id: "nexus-text-generation".into(),
            relays: Vec::new(),
            network: Network::Regtest,
            backend: BackendConfig::Demo,
            price: Price::PerRequest { msat: Msat::sats(10) },
            payment: Payment::Before,
            hold: true,
            encryption: Encryption::Accepted,
            open_requests: false,
            customer_relays: 2,
            limits: Limits::default(),
            data_dir: PathBuf::new(),
        }
    }
}

/// Lightning networks by the names that announcements use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    Mainnet,
    Testnet,
    Signet,
    Regtest,
}

impl Network {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
        }
    }
}

/// What does the thinking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BackendConfig {
    /// The deterministic planner that says of itself that it is a demo.
    Demo,
    OpenAi(Endpoint),
}

/// An OpenAI-compatible chat completions server, of the operator's own choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The part before `/chat/completions`, for example `http://127.0.0.1:11434/v1`.
    pub url: Url,
    pub model: String,
    /// A file with the bearer token alone; it is read at start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
}

/// What a job costs. Zero is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "per", rename_all = "snake_case", deny_unknown_fields)]
pub enum Price {
    #[serde(rename = "request")]
    PerRequest { msat: Msat },
    /// For each started 1,000 tokens of prompt and answer together. Paid before, the answer counts with all the
    /// tokens that it may have; paid after, with those that it has.
    #[serde(rename = "1k_tokens")]
    Per1kTokens { msat: Msat },
}

/// When a job is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payment {
    /// Work starts when the invoice is settled.
    Before,
    /// The result carries the invoice; a customer with unpaid results is refused.
    After,
}

/// Whether requests may, must or can't be encrypted to the provider (NIP-44, NIP-04 read too).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    Required,
    Accepted,
    Unsupported,
}

/// Bounds. All of them hold per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest prompt in bytes, at most [`MAX_PROMPT_BYTES`].
    pub prompt_bytes: usize,
    /// Largest answer in bytes.
    pub answer_bytes: usize,
    /// Tokens of an answer: the default, and the most that a customer may ask for.
    pub answer_tokens: u32,
    /// Jobs that the backend works on at the same time.
    pub concurrency: usize,
    /// Jobs that are ready to be worked on but wait for a place.
    pub queue: usize,
    /// Jobs that wait for their payment.
    pub open_invoices: usize,
    /// Jobs of one customer that are not finished; with payment after, also its unpaid results.
    pub per_customer: usize,
    /// The most that the backend may take for a job, all attempts together.
    pub job_timeout_ms: u64,
    pub invoice_expiry_s: u32,
    /// At most one `partial` feedback in this time, at least 200; 0 turns them off.
    pub partial_interval_ms: u64,
    /// How far back requests that were published while the provider was down are taken up, at most a day.
    pub catch_up_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            prompt_bytes: MAX_PROMPT_BYTES,
            answer_bytes: 32 * 1024,
            answer_tokens: 2_048,
            concurrency: 4,
            queue: 64,
            open_invoices: 1_000,
            per_customer: 16,
            job_timeout_ms: 120_000,
            invoice_expiry_s: 600,
            partial_interval_ms: 1_000,
            catch_up_s: 3_600,
        }
    }
}

/// A configuration that can't be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("provider configuration: {0}")]
pub struct ConfigError(pub String);

impl ProviderConfig {
    /// Refuses what would fail later, with the key's name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let rules = [
            (!self.relays.is_empty(), "relays: at least one relay is needed"),
            (self.relays.len() <= 16, "relays: at most 16"),
            (self.relays.iter().all(|url| is_relay_url(url)), "relays: each must be a ws:// or wss:// URL"),
            (!self.data_dir.as_os_str().is_empty(), "data_dir: a directory for the list of jobs is needed"),
            (!self.handler_id.is_empty() && self.handler_id.len() <= 64, "handler_id: 1 to 64 bytes"),
            (!self.name.is_empty() && self.name.len() <= 128, "name: 1 to 128 bytes"),
            (self.about.len() <= 4_096, "about: at most 4,096 bytes"),
            (in_range(limits.prompt_bytes, 1, MAX_PROMPT_BYTES), "limits.prompt_bytes: 1 to 61,440"),
            (in_range(limits.answer_bytes, 1, MAX_ANSWER_BYTES), "limits.answer_bytes: 1 to 40,960"),
            (in_range(limits.answer_tokens as usize, 1, 1_000_000), "limits.answer_tokens: 1 to 1,000,000"),
            (in_range(limits.concurrency, 1, 1_024), "limits.concurrency: 1 to 1,024"),
            (in_range(limits.queue, 1, 10_000), "limits.queue: 1 to 10,000"),
            (in_range(limits.open_invoices, 1, 10_000), "limits.open_invoices: 1 to 10,000"),
            (in_range(limits.per_customer, 1, 10_000), "limits.per_customer: 1 to 10,000"),
            ((100..=3_600_000).contains(&limits.job_timeout_ms), "limits.job_timeout_ms: 100 to 3,600,000"),
            ((10..=3_600).contains(&limits.invoice_expiry_s), "limits.invoice_expiry_s: 10 to 3,600"),
            (
                limits.partial_interval_ms == 0 || (200..=60_000).contains(&limits.partial_interval_ms),
                "limits.partial_interval_ms: 0, or 200 to 60,000",
            ),
            (self.customer_relays <= 8, "customer_relays: at most 8"),
            (limits.catch_up_s <= 86_400, "limits.catch_up_s: at most 86,400"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, why)) => Err(ConfigError((*why).into())),
            None => Ok(()),
        }
    }
}

fn in_range(value: usize, least: usize, most: usize) -> bool {
    (least..=most).contains(&value)
}

fn is_relay_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "ws" | "wss") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ProviderConfig {
        ProviderConfig {
            relays: vec!["ws://127.0.0.1:7778".into()],
            data_dir: "/tmp/provider".into(),
            ..ProviderConfig::default()
        }
    }

    #[test]
    fn defaults_need_only_a_relay_and_a_directory() {
        assert_eq!(good().validate(), Ok(()));
        assert!(ProviderConfig::default().validate().is_err());
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(serde_json::from_str::<ProviderConfig>(r#"{"nmae":"x"}"#).is_err());
        assert!(serde_json::from_str::<ProviderConfig>(r#"{"limits":{"queu":1}}"#).is_err());
        assert!(serde_json::from_str::<ProviderConfig>(r#"{"price":{"per":"request","sat":1}}"#).is_err());
    }

    #[test]
    fn a_whole_configuration_round_trips() {
        let text = r#"{
            "relays": ["wss://relay.example.com"], "network": "signet", "encryption": "unsupported",
            "backend": {"kind":"open_ai","url":"http://127.0.0.1:11434/v1","model":"llama3"},
            "price": {"per":"1k_tokens","msat":2000}, "payment": "after", "data_dir": "/var/lib/p"
        }"#;
        let config: ProviderConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.price, Price::Per1kTokens { msat: Msat::new(2_000) });
        let again: ProviderConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn each_bound_is_named() {
        let mut config = good();
        config.relays = vec!["http://relay".into()];
        assert!(config.validate().unwrap_err().to_string().contains("relays"));
        let mut config = good();
        config.limits.prompt_bytes = MAX_PROMPT_BYTES + 1;
        assert!(config.validate().unwrap_err().to_string().contains("prompt_bytes"));
    }
}
