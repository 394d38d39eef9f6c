//! Who sells computation (NIP-89, kind 31990).

use nexus_core::{Hash32, Msat, Npub};
use nostr::event::{Event, Kind, UnsignedEvent};
use nostr::filter::Filter;
use serde_json::Value;

use crate::event::{self, EventError, Head, tag};
use crate::job::{Dialect, HOLD};
use crate::kinds;

/// Most offers that one discovery asks for.
const MAX_OFFERS: usize = 500;

/// What a provider asks, always in millisats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    PerRequest(Msat),
    PerThousandTokens(Msat),
}

/// A provider's announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub provider: Npub,
    pub event_id: Hash32,
    /// Seconds.
    pub created_at: i64,
    /// The `d` tag; empty in the dialect that has none.
    pub identifier: String,
    pub name: String,
    pub about: String,
    pub price: Option<Price>,
    pub models: Vec<String>,
    /// The Lightning network it is paid on (`regtest`, `mainnet`…), when it says.
    pub network: Option<String>,
    pub relays: Vec<String>,
    /// Whether it says that it reads encrypted requests; many do without saying.
    pub encryption: Option<bool>,
    /// It says that it takes the money only with its result (hold invoices).
    pub hold: bool,
    pub dialect: Dialect,
}

/// What a provider writes about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerInfo {
    pub identifier: String,
    pub name: String,
    pub about: String,
    pub price: Price,
    pub models: Vec<String>,
    pub network: String,
    pub relays: Vec<String>,
    pub encryption: bool,
    /// Its invoices are hold invoices: money is taken with the result, or given back.
    pub hold: bool,
}

/// Kind 31990, readable to NIP-89 clients and to OpenAgents' customers alike.
pub fn handler(head: Head, info: &HandlerInfo) -> UnsignedEvent {
    let mut tags = vec![
        tag(["d", &info.identifier]),
        tag(["k", &kinds::JOB_TEXT.to_string()]),
        tag(["handler", "compute_provider"]),
        tag(["capability", "text-generation"]),
        tag(["network", &info.network]),
    ];
    tags.push(match info.price {
        Price::PerRequest(msat) => tag(["price", &msat.as_u64().to_string(), "per-request", "msats"]),
        Price::PerThousandTokens(msat) => tag(["price", &msat.as_u64().to_string(), "per-1k-tokens", "msats"]),
    });
    if info.hold {
        tags.push(tag([HOLD]));
    }
    tags.extend(info.models.iter().take(16).map(|model| tag(["model", model])));
    tags.extend(info.relays.iter().take(8).map(|relay| tag(["relay", relay])));
    let content = serde_json::json!({
        "name": info.name,
        "about": info.about,
        "description": info.about,
        "supportsEncryption": info.encryption,
        "nip90Params": { "max_tokens": { "required": false }, "model": { "required": false }, "temperature": { "required": false } },
    });
    head.unsigned(kinds::HANDLER, tags, content.to_string())
}

/// Reads a verified 31990 that sells text generation; other handlers are refused.
pub fn read_offer(handler: &Event) -> Result<Offer, EventError> {
    event::expect_kind(handler, kinds::HANDLER)?;
    let kind = kinds::JOB_TEXT.to_string();
    let standard = event::values(handler, "k").any(|k| k == kind);
    let compute = event::first(handler, "handler") == Some("compute_provider");
    let open_agents = compute && event::values(handler, "capability").any(|what| what == "text-generation");
    if !standard && !open_agents {
        return Err(EventError::Invalid("not a seller of text generation"));
    }
    let content: Value = serde_json::from_str(&handler.content).unwrap_or_default();
    let text = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| content.get(*name).and_then(Value::as_str));
        found.unwrap_or_default().chars().take(512).collect::<String>()
    };
    let list = |name: &str| event::values(handler, name).take(16).map(str::to_owned).collect();
    Ok(Offer {
        provider: event::npub(&handler.pubkey),
        event_id: event::hash(&handler.id),
        created_at: event::created_at(handler),
        identifier: event::first(handler, "d").unwrap_or_default().to_owned(),
        name: text(["name", "display_name"]),
        about: text(["about", "description"]),
        price: read_price(handler, &content),
        models: list("model"),
        network: event::first(handler, "network").map(str::to_owned),
        relays: list("relay"),
        encryption: content.get("supportsEncryption").and_then(Value::as_bool),
        hold: event::rows(handler, HOLD).next().is_some(),
        dialect: if standard { Dialect::Standard } else { Dialect::OpenAgents },
    })
}

/// The number of a `price` tag is millisats whatever unit stands beside it: OpenAgents writes "sats" and means msat.
fn read_price(handler: &Event, content: &Value) -> Option<Price> {
    if let Some(row) = event::rows(handler, "price").next() {
        let msat = row.iter().skip(1).find_map(|text| text.parse::<u64>().ok())?;
        let msat = Msat::try_from(msat).ok()?;
        let by_tokens = row.iter().any(|text| text.contains("token"));
        return Some(if by_tokens { Price::PerThousandTokens(msat) } else { Price::PerRequest(msat) });
    }
    match content.get("amount")? {
        Value::String(text) if text == "free" => Some(Price::PerRequest(Msat::ZERO)),
        Value::String(text) => {
            text.parse::<u64>().ok().and_then(|msat| Msat::try_from(msat).ok()).map(Price::PerRequest)
        }
        Value::Number(number) => number.as_u64().and_then(|msat| Msat::try_from(msat).ok()).map(Price::PerRequest),
        _ => None,
    }
}

/// How to look for sellers: by kind, and once more without, for handlers that carry no `k`.
pub fn discovery_filters() -> Vec<Filter> {
    let handlers = Filter::new().kind(Kind::from_u16(kinds::HANDLER));
    let k = nostr::filter::SingleLetterTag::LOWERCASE_K;
    vec![handlers.clone().custom_tag(k, kinds::JOB_TEXT.to_string()).limit(MAX_OFFERS), handlers.limit(MAX_OFFERS)]
}

/// The newest offer of each provider.
pub fn newest(offers: impl IntoIterator<Item = Offer>) -> Vec<Offer> {
    let mut newest: std::collections::BTreeMap<(Npub, String), Offer> = std::collections::BTreeMap::new();
    for offer in offers {
        let key = (offer.provider, offer.identifier.clone());
        let older = newest.get(&key).is_none_or(|known| {
            (known.created_at, std::cmp::Reverse(known.event_id))
                < (offer.created_at, std::cmp::Reverse(offer.event_id))
        });
        if older {
            newest.insert(key, offer);
        }
    }
    newest.into_values().collect()
}
