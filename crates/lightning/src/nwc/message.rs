//! What is asked and answered, under the encryption.

use nexus_core::{Hash32, Msat, UnixMs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::driver::Description;

/// A question to the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `amount` for an invoice without one, and only then.
    PayInvoice {
        bolt11: String,
        amount: Option<Msat>,
    },
    LookupInvoice {
        hash: Hash32,
    },
    MakeInvoice {
        amount: Msat,
        description: Description,
        expiry_s: u32,
    },
    GetBalance,
    GetInfo,
}

impl Request {
    /// The method's name: what the answer's `result_type` repeats.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::PayInvoice { .. } => "pay_invoice",
            Self::LookupInvoice { .. } => "lookup_invoice",
            Self::MakeInvoice { .. } => "make_invoice",
            Self::GetBalance => "get_balance",
            Self::GetInfo => "get_info",
        }
    }

    pub(super) fn to_json(&self) -> String {
        let params = match self {
            Self::PayInvoice { bolt11, amount: None } => json!({ "invoice": bolt11 }),
            Self::PayInvoice { bolt11, amount: Some(amount) } => json!({ "invoice": bolt11, "amount": amount }),
            Self::LookupInvoice { hash } => json!({ "payment_hash": hash }),
            Self::MakeInvoice { amount, description: Description::Memo(memo), expiry_s } => {
                json!({ "amount": amount, "description": memo, "expiry": expiry_s })
            }
            Self::MakeInvoice { amount, description: Description::Hash(hash), expiry_s } => {
                json!({ "amount": amount, "description_hash": hash, "expiry": expiry_s })
            }
            Self::GetBalance | Self::GetInfo => json!({}),
        };
        json!({ "method": self.method(), "params": params }).to_string()
    }
}

/// Why a wallet refuses, by NIP-47's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    RateLimited,
    NotImplemented,
    InsufficientBalance,
    QuotaExceeded,
    Restricted,
    Unauthorized,
    UnsupportedEncryption,
    PaymentFailed,
    NotFound,
    Internal,
    /// `OTHER`, and whatever is not known here.
    #[serde(other)]
    Other,
}

/// Where a wallet's transaction stands, by its own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionState {
    Pending,
    Accepted,
    Settled,
    Expired,
    Failed,
    #[serde(other)]
    Unknown,
}

/// A payment or an invoice, as the wallet tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// None where the wallet does not say.
    pub outgoing: Option<bool>,
    /// None from wallets that do not say yet: then `settled_at` decides.
    pub state: Option<TransactionState>,
    pub hash: Hash32,
    pub preimage: Option<Hash32>,
    pub bolt11: Option<String>,
    pub amount: Msat,
    pub fees_paid: Option<Msat>,
    pub settled_at: Option<UnixMs>,
}

/// The wallet's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Refused. The text is the wallet's: data, bounded, on one line.
    Error {
        code: ErrorCode,
        message: String,
    },
    /// `pay_invoice`: what the wallet gave for a preimage was not checked yet.
    Paid {
        preimage: Option<Hash32>,
        fees_paid: Option<Msat>,
    },
    /// `lookup_invoice` and `make_invoice`.
    Transaction(Transaction),
    Balance(Msat),
    /// `get_info`: what this connection may ask for, and the network where the wallet names one.
    Info {
        methods: Vec<String>,
        network: Option<String>,
    },
}

/// Why an answer cannot be read. Never repeats it: it may hold a preimage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the wallet's answer is not of NIP-47's form")]
    Form,
    #[error("the wallet answered another question")]
    OtherMethod,
}

const MAX_MESSAGE_CHARS: usize = 300;
const MAX_METHODS: usize = 100;

#[derive(Deserialize)]
struct Raw {
    result_type: String,
    #[serde(default)]
    error: Option<RawError>,
    #[serde(default)]
    result: Option<Value>,
}

#[derive(Deserialize)]
struct RawError {
    code: ErrorCode,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct RawPaid {
    #[serde(default)]
    preimage: Option<String>,
    #[serde(default)]
    fees_paid: Option<Msat>,
}

#[derive(Deserialize)]
struct RawTransaction {
    #[serde(default, rename = "type")]
    direction: Option<String>,
    #[serde(default)]
    state: Option<TransactionState>,
    payment_hash: Hash32,
    #[serde(default)]
    preimage: Option<String>,
    #[serde(default)]
    invoice: Option<String>,
    #[serde(default)]
    amount: Msat,
    #[serde(default)]
    fees_paid: Option<Msat>,
    /// Seconds.
    #[serde(default)]
    settled_at: Option<i64>,
}

#[derive(Deserialize)]
struct RawBalance {
    balance: Msat,
}

#[derive(Deserialize)]
struct RawInfo {
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    network: Option<String>,
}

/// 32 bytes in hex; none where a wallet leaves it out, empty, or gives something else.
fn preimage(text: Option<String>) -> Option<Hash32> {
    text.and_then(|text| text.parse().ok())
}

fn read<T: serde::de::DeserializeOwned>(result: Value) -> Result<T, MessageError> {
    serde_json::from_value(result).map_err(|_| MessageError::Form)
}

impl Response {
    /// Reads the answer to a question of `method`. Total: any text gives a value or an error.
    pub(super) fn read(text: &str, method: &str) -> Result<Self, MessageError> {
        let raw: Raw = serde_json::from_str(text).map_err(|_| MessageError::Form)?;
        if raw.result_type != method {
            return Err(MessageError::OtherMethod);
        }
        if let Some(RawError { code, message }) = raw.error {
            let plain = message.chars().map(|it| if it.is_control() { ' ' } else { it });
            return Ok(Self::Error { code, message: plain.take(MAX_MESSAGE_CHARS).collect() });
        }
        let result = raw.result.ok_or(MessageError::Form)?;
        Ok(match method {
            "pay_invoice" => {
                let RawPaid { preimage: text, fees_paid } = read(result)?;
                Self::Paid { preimage: preimage(text), fees_paid }
            }
            "lookup_invoice" | "make_invoice" => {
                let raw: RawTransaction = read(result)?;
                Self::Transaction(Transaction {
                    outgoing: match raw.direction.as_deref() {
                        Some("outgoing") => Some(true),
                        Some("incoming") => Some(false),
                        Some(_) | None => None,
                    },
                    state: raw.state,
                    hash: raw.payment_hash,
                    preimage: preimage(raw.preimage),
                    bolt11: raw.invoice.filter(|it| !it.is_empty()),
                    amount: raw.amount,
                    fees_paid: raw.fees_paid,
                    // Zero is how some wallets say "not yet".
                    settled_at: raw.settled_at.filter(|at| *at > 0).map(UnixMs::from_secs),
                })
            }
            "get_balance" => Self::Balance(read::<RawBalance>(result)?.balance),
            "get_info" => {
                let RawInfo { mut methods, network } = read(result)?;
                methods.truncate(MAX_METHODS);
                Self::Info { methods, network }
            }
            _ => return Err(MessageError::OtherMethod),
        })
    }
}

#[derive(Deserialize)]
struct RawNotification {
    notification: RawNotified,
}

#[derive(Deserialize)]
struct RawNotified {
    payment_hash: Hash32,
}

/// The hash that a notification of type `paid` is about; none for one of another type.
pub(super) fn read_paid(text: &str, paid: &str) -> Result<Option<Hash32>, MessageError> {
    let value: Value = serde_json::from_str(text).map_err(|_| MessageError::Form)?;
    if value["notification_type"].as_str().is_none_or(|it| it != paid) {
        return Ok(None);
    }
    let RawNotification { notification } = read(value)?;
    Ok(Some(notification.payment_hash))
}
