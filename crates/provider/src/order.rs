//! What a request asks for, whether it is taken, and for how much. Pure.

use nexus_core::Msat;
use nexus_nostr::job::{InputKind, Request};

use crate::backend::Prompt;
use crate::config::{Encryption, ProviderConfig};
use crate::price::{estimate_tokens, price};

/// A request that is taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) prompt: Prompt,
    /// What it costs; paid after and by tokens, the most that it can cost.
    pub(crate) price: Msat,
}

/// Why a request is not taken, in words for the customer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this provider takes encrypted requests only (NIP-44)")]
    NotEncrypted,
    #[error("this provider reads requests in clear only")]
    Encrypted,
    #[error("the request can't be read")]
    Unreadable,
    #[error("only inputs of type text are taken")]
    NotText,
    #[error("the request has no text")]
    NoPrompt,
    #[error("the prompt has {size} bytes; at most {max} are taken")]
    TooLong { size: usize, max: usize },
    #[error("this model is not served here; served: {0}")]
    NoSuchModel(String),
    #[error("only text and JSON are answered")]
    OutputKind,
    #[error("bid too low: this job costs {} msat", .0.as_u64())]
    BidTooLow(Msat),
    #[error("results that you received are not paid yet")]
    UnpaidResults,
    #[error("too many of your jobs are open; wait for one to end")]
    TooManyOfYours,
    #[error("busy; try again later")]
    Busy,
    #[error("no invoice can be made right now; try again later")]
    NoInvoice,
}

impl Refusal {
    /// Whether the same request may be taken later.
    pub(crate) const fn is_transient(&self) -> bool {
        match self {
            Self::UnpaidResults | Self::TooManyOfYours | Self::Busy | Self::NoInvoice => true,
            Self::NotEncrypted
            | Self::Encrypted
            | Self::Unreadable
            | Self::NotText
            | Self::NoPrompt
            | Self::TooLong { .. }
            | Self::NoSuchModel(_)
            | Self::OutputKind
            | Self::BidTooLow(_) => false,
        }
    }
}

/// Whether this seller serves requests in this form at all.
pub(crate) const fn check_form(rule: Encryption, encrypted: bool) -> Result<(), Refusal> {
    match (rule, encrypted) {
        (Encryption::Required, false) => Err(Refusal::NotEncrypted),
        (Encryption::Unsupported, true) => Err(Refusal::Encrypted),
        (Encryption::Required | Encryption::Accepted, true)
        | (Encryption::Accepted | Encryption::Unsupported, false) => Ok(()),
    }
}

/// Takes a readable request, or says why not.
pub(crate) fn assess(config: &ProviderConfig, models: &[String], request: &Request) -> Result<Order, Refusal> {
    if request.inputs.iter().any(|input| input.kind != InputKind::Text) {
        return Err(Refusal::NotText);
    }
    let prompt = prompt_of(config, request);
    if prompt.text.trim().is_empty() {
        return Err(Refusal::NoPrompt);
    }
    let (size, max) = (prompt.text.len(), config.limits.prompt_bytes);
    if size > max {
        return Err(Refusal::TooLong { size, max });
    }
    if request.params.model().is_some_and(|wanted| !models.iter().any(|model| model == wanted)) {
        return Err(Refusal::NoSuchModel(models.join(", ")));
    }
    if request.output.as_deref().is_some_and(|mime| !is_text(mime)) {
        return Err(Refusal::OutputKind);
    }
    let tokens = estimate_tokens(&prompt.text).saturating_add(u64::from(prompt.max_tokens));
    let price = price(config.price, tokens);
    match request.bid {
        Some(bid) if bid < price => Err(Refusal::BidTooLow(price)),
        Some(_) | None => Ok(Order { prompt, price }),
    }
}

/// The prompt of a request, with parameters brought within bounds.
pub(crate) fn prompt_of(config: &ProviderConfig, request: &Request) -> Prompt {
    let most = config.limits.answer_tokens;
    let params = &request.params;
    let number = |key: &str, least: f64, top: f64| params.number(key).map(|value| value.clamp(least, top));
    Prompt {
        text: request.prompt(),
        max_tokens: params.max_tokens().map_or(most, |wanted| wanted.clamp(1, most)),
        temperature: number("temperature", 0.0, 2.0),
        top_p: number("top_p", 0.0, 1.0),
        top_k: params.get("top_k").and_then(|text| text.parse().ok()),
        frequency_penalty: number("frequency_penalty", -2.0, 2.0),
    }
}

fn is_text(mime: &str) -> bool {
    mime.is_empty() || mime == "*/*" || mime.starts_with("text/") || mime.starts_with("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Price;
    use nexus_core::{Hash32, Npub};
    use nexus_nostr::job::{Input, Params};

    fn request(text: &str) -> Request {
        Request {
            id: Hash32::ZERO,
            customer: Npub::from_bytes([1; 32]),
            provider: None,
            created_at: 0,
            inputs: vec![Input { kind: InputKind::Text, data: text.into() }],
            params: Params::default(),
            output: None,
            bid: None,
            relays: Vec::new(),
            encrypted: false,
            json: String::new(),
        }
    }

    fn assessed(change: impl FnOnce(&mut Request)) -> Result<Order, Refusal> {
        let mut request = request("hello");
        change(&mut request);
        assess(&ProviderConfig::default(), &["llama".into()], &request)
    }

    #[test]
    fn parameters_are_brought_within_bounds() {
        let order = assessed(|request| {
            request.params.set("max_tokens", "999999");
            request.params.set("temperature", "17");
            request.params.set("top-k", "40");
            request.params.set("top_p", "NaN");
            request.params.set("model", "llama");
        })
        .unwrap();
        assert_eq!((order.prompt.max_tokens, order.prompt.temperature), (2_048, Some(2.0)));
        assert_eq!((order.prompt.top_k, order.prompt.top_p), (Some(40), None));
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let price = Msat::sats(10);
        assert_eq!(assessed(|request| request.bid = Some(Msat::new(9_999))), Err(Refusal::BidTooLow(price)));
        assert!(assessed(|request| request.bid = Some(price)).is_ok());
        assert_eq!(assessed(|request| request.inputs[0].data = " ".into()), Err(Refusal::NoPrompt));
        assert_eq!(assessed(|request| request.inputs[0].kind = InputKind::Url), Err(Refusal::NotText));
        assert_eq!(assessed(|request| request.output = Some("image/png".into())), Err(Refusal::OutputKind));
        let other = assessed(|request| request.params.set("model", "gpt"));
        assert_eq!(other, Err(Refusal::NoSuchModel("llama".into())));
        let long = assessed(|request| request.inputs[0].data = "x".repeat(70_000));
        assert!(matches!(long, Err(Refusal::TooLong { size: 70_000, .. })));
        assert_eq!(Refusal::BidTooLow(price).to_string(), "bid too low: this job costs 10000 msat");
    }

    #[test]
    fn tokens_are_priced_with_the_longest_answer() {
        let config = ProviderConfig { price: Price::Per1kTokens { msat: Msat::new(100) }, ..ProviderConfig::default() };
        let order = assess(&config, &[], &request(&"x".repeat(4_000))).unwrap();
        assert_eq!(order.price, Msat::new(400));
    }

    #[test]
    fn the_form_is_checked_first() {
        for (rule, clear, sealed) in [
            (Encryption::Required, false, true),
            (Encryption::Accepted, true, true),
            (Encryption::Unsupported, true, false),
        ] {
            assert_eq!(check_form(rule, false).is_ok(), clear);
            assert_eq!(check_form(rule, true).is_ok(), sealed);
        }
    }
}
