//! What is asked of a mint, and how it answers (NUT-01 to NUT-09, NUT-23).

use std::sync::Arc;

use cdk::nuts::{BlindSignature, BlindedMessage, Id, KeySet, KeySetInfo, Proof, PublicKey};
use nexus_core::MonoMs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::http::{MintHttp, MintRequest, NoAnswer};
use crate::driver::WalletError;

const MAX_MESSAGE_CHARS: usize = 300;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// The deadline passed; nothing left.
    Late,
    /// Nothing left.
    Unsent(String),
    /// What became of it is unknown.
    Lost(String),
    /// The same, because nothing came back in time.
    Silent(u64),
    /// The mint heard it and did not do it.
    Said { code: u32, detail: String },
}

impl CallError {
    /// NUT-00's error codes.
    pub(super) const SPENT: u32 = 11_001;
    pub(super) const ALREADY_SIGNED: u32 = 11_003;
    pub(super) const PAYMENT_FAILED: u32 = 20_004;

    pub(super) fn code(&self) -> Option<u32> {
        match self {
            Self::Said { code, .. } => Some(*code),
            Self::Late | Self::Unsent(_) | Self::Lost(_) | Self::Silent(_) => None,
        }
    }
}

impl From<NoAnswer> for CallError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::Late => Self::Late,
            NoAnswer::Unsent(why) => Self::Unsent(why),
            NoAnswer::Lost(why) => Self::Lost(why),
            NoAnswer::Silent(ms) => Self::Silent(ms),
        }
    }
}

impl From<CallError> for WalletError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late => Self::Unreachable("too late".to_owned()),
            CallError::Unsent(why) | CallError::Lost(why) => Self::Unreachable(why),
            CallError::Silent(ms) => Self::Unreachable(format!("the mint gave no answer within {ms} ms")),
            CallError::Said { code, detail } => Self::Refused(format!("the mint says: {detail} (code {code})")),
        }
    }
}

/// Somebody else's words, bounded and on one line.
fn shown(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { ' ' } else { it }).take(MAX_MESSAGE_CHARS).collect()
}

/// A mint, by what it can be asked.
#[derive(Clone)]
pub(super) struct Mint {
    pub(super) http: Arc<dyn MintHttp>,
    pub(super) answer_ms: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) pubkey: Option<String>,
}

/// NUT-04's and NUT-05's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum QuoteState {
    Unpaid,
    Paid,
    Pending,
    Issued,
    /// cdk's mints say so of a melt that ended.
    Failed,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(super) struct MintQuote {
    pub(super) quote: String,
    pub(super) request: String,
    pub(super) state: QuoteState,
}

#[derive(Debug, Deserialize)]
pub(super) struct MeltQuote {
    pub(super) quote: String,
    pub(super) amount: u64,
    pub(super) fee_reserve: u64,
    pub(super) state: QuoteState,
    #[serde(default)]
    pub(super) expiry: Option<u64>,
    #[serde(default)]
    pub(super) payment_preimage: Option<String>,
    #[serde(default)]
    pub(super) change: Option<Vec<BlindSignature>>,
}

#[derive(Deserialize)]
struct Keysets {
    keysets: Vec<KeySetInfo>,
}

#[derive(Deserialize)]
struct KeysOf {
    keysets: Vec<KeySet>,
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<BlindSignature>,
}

#[derive(Serialize)]
struct Outputs<'a> {
    outputs: &'a [BlindedMessage],
}

#[derive(Deserialize)]
pub(super) struct Restored {
    pub(super) outputs: Vec<BlindedMessage>,
    pub(super) signatures: Vec<BlindSignature>,
}

#[derive(Serialize)]
struct Issue<'a> {
    quote: &'a str,
    outputs: &'a [BlindedMessage],
}

#[derive(Serialize)]
struct Melt<'a> {
    quote: &'a str,
    inputs: &'a [Proof],
    outputs: &'a [BlindedMessage],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum ProofState {
    Unspent,
    Pending,
    Spent,
}

#[derive(Deserialize)]
pub(super) struct Checked {
    #[serde(rename = "Y")]
    pub(super) y: PublicKey,
    pub(super) state: ProofState,
}

#[derive(Deserialize)]
struct CheckedAll {
    states: Vec<Checked>,
}

/// An id of the mint's, which goes into a path.
pub(super) fn is_quote_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
}

impl Mint {
    async fn call<T: DeserializeOwned>(&self, request: MintRequest) -> Result<T, CallError> {
        let answer = self.http.ask(request).await?;
        if answer.status == 200 {
            // Where, and not what: serde's own words repeat what was read.
            return serde_json::from_slice(&answer.body).map_err(|error| {
                CallError::Lost(format!("an answer of another form than a mint's, at column {}", error.column()))
            });
        }
        #[derive(Deserialize)]
        struct Refusal {
            detail: String,
            #[serde(default)]
            code: u32,
        }
        // What is not a mint's own word was said by something between us. So may be anything above 499.
        match serde_json::from_slice::<Refusal>(&answer.body) {
            Ok(said) if answer.status < 500 => Err(CallError::Said { code: said.code, detail: shown(&said.detail) }),
            _ => Err(CallError::Lost(format!("an answer {} that is not a mint's", answer.status))),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, CallError> {
        self.call(MintRequest { path, body: None, deadline: None, timeout_ms: self.answer_ms }).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        deadline: Option<MonoMs>,
        timeout_ms: u64,
    ) -> Result<T, CallError> {
        let body = serde_json::to_vec(body).map_err(|_| CallError::Unsent("a request that is no JSON".to_owned()))?;
        let body = Some(Zeroizing::new(body));
        self.call(MintRequest { path: path.to_owned(), body, deadline, timeout_ms }).await
    }

    pub(super) async fn info(&self) -> Result<Info, CallError> {
        self.get("/v1/info".to_owned()).await
    }

    pub(super) async fn keysets(&self) -> Result<Vec<KeySetInfo>, CallError> {
        Ok(self.get::<Keysets>("/v1/keysets".to_owned()).await?.keysets)
    }

    pub(super) async fn keys(&self, id: Id) -> Result<Option<KeySet>, CallError> {
        let all = self.get::<KeysOf>(format!("/v1/keys/{id}")).await?.keysets;
        Ok(all.into_iter().find(|keyset| keyset.id == id))
    }

    pub(super) async fn new_mint_quote(&self, sats: u64, memo: &str) -> Result<MintQuote, CallError> {
        let body = match memo {
            "" => serde_json::json!({ "amount": sats, "unit": "sat" }),
            memo => serde_json::json!({ "amount": sats, "unit": "sat", "description": memo }),
        };
        self.post("/v1/mint/quote/bolt11", &body, None, self.answer_ms).await
    }

    pub(super) async fn mint_quote(&self, quote: &str) -> Result<MintQuote, CallError> {
        self.get(format!("/v1/mint/quote/bolt11/{quote}")).await
    }

    pub(super) async fn issue(
        &self,
        quote: &str,
        outputs: &[BlindedMessage],
    ) -> Result<Vec<BlindSignature>, CallError> {
        let issued = self.post::<Signatures>("/v1/mint/bolt11", &Issue { quote, outputs }, None, self.answer_ms).await;
        Ok(issued?.signatures)
    }

    pub(super) async fn new_melt_quote(&self, bolt11: &str) -> Result<MeltQuote, CallError> {
        let body = serde_json::json!({ "request": bolt11, "unit": "sat" });
        self.post("/v1/melt/quote/bolt11", &body, None, self.answer_ms).await
    }

    pub(super) async fn melt_quote(&self, quote: &str) -> Result<MeltQuote, CallError> {
        self.get(format!("/v1/melt/quote/bolt11/{quote}")).await
    }

    pub(super) async fn melt(
        &self,
        quote: &str,
        inputs: &[Proof],
        outputs: &[BlindedMessage],
        deadline: MonoMs,
        timeout_ms: u64,
    ) -> Result<MeltQuote, CallError> {
        self.post("/v1/melt/bolt11", &Melt { quote, inputs, outputs }, Some(deadline), timeout_ms).await
    }

    pub(super) async fn restore(&self, outputs: &[BlindedMessage]) -> Result<Restored, CallError> {
        self.post("/v1/restore", &Outputs { outputs }, None, self.answer_ms).await
    }

    pub(super) async fn check(&self, ys: &[PublicKey]) -> Result<Vec<Checked>, CallError> {
        let body = serde_json::json!({ "Ys": ys });
        Ok(self.post::<CheckedAll>("/v1/checkstate", &body, None, self.answer_ms).await?.states)
    }
}
