//! Invoices as they come in: bounded, checked, never believed further than their signature.

use std::fmt;
use std::str::FromStr;

use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef, Currency};
use nexus_core::{Hash32, Msat, UnixMs};
use serde::{Deserialize, Serialize};

/// The longest invoice that is looked at, in bytes: 1,024 bytes of memo and a dozen route hints fit twice.
pub const MAX_BYTES: usize = 4_096;

/// BOLT 11: ten bits of length, each worth five bits.
pub const MAX_DESCRIPTION_BYTES: usize = 639;

/// In front of a hash that stands in the memo.
const COMMITMENT: &str = "sha256:";

/// A memo that commits to a text as a description hash does, for wallets that can only make invoices with memos. The node
/// signs either.
pub fn commitment(hash: Hash32) -> String {
    format!("{COMMITMENT}{hash}")
}

/// Which chain an invoice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    Bitcoin,
    Testnet,
    Signet,
    Regtest,
    Simnet,
}

impl Network {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bitcoin => "bitcoin",
            Self::Testnet => "testnet",
            Self::Signet => "signet",
            Self::Regtest => "regtest",
            Self::Simnet => "simnet",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not an invoice we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bolt11Error {
    #[error("invoice of {0} bytes: at most {MAX_BYTES} are read")]
    TooLong(usize),
    #[error("not a BOLT 11 invoice: {0}")]
    Malformed(String),
    #[error("the invoice asks for more than there is")]
    AmountOutOfRange,
    #[error("the invoice's times are out of range")]
    TimeOutOfRange,
}

/// What a valid invoice says. Its signature, checksum, required fields and features were checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bolt11 {
    pub network: Network,
    /// None if the payer chooses.
    pub amount: Option<Msat>,
    pub hash: Hash32,
    /// Compressed public key of the node to be paid, in hex.
    pub payee: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    /// The memo; empty when there is only a hash. Somebody else's text: data, never instructions.
    pub description: String,
    pub description_hash: Option<Hash32>,
}

/// Reads an invoice; `lightning:` in front is allowed (BIP 21 style links).
pub fn decode_bolt11(text: &str) -> Result<Bolt11, Bolt11Error> {
    Bolt11::decode(text)
}

/// The invoice alone, without `lightning:` in front of it.
pub(crate) fn without_scheme(text: &str) -> &str {
    const SCHEME: &str = "lightning:";
    let text = text.trim();
    match text.split_at_checked(SCHEME.len()) {
        Some((scheme, invoice)) if scheme.eq_ignore_ascii_case(SCHEME) => invoice,
        _ => text,
    }
}

impl Bolt11 {
    /// Reads an invoice of at most [`MAX_BYTES`] bytes. Total: any text gives a value or an error.
    pub fn decode(text: &str) -> Result<Self, Bolt11Error> {
        let text = without_scheme(text);
        if text.len() > MAX_BYTES {
            return Err(Bolt11Error::TooLong(text.len()));
        }
        let invoice = Bolt11Invoice::from_str(text).map_err(|error| Bolt11Error::Malformed(error.to_string()))?;
        Self::read(&invoice)
    }

    fn read(invoice: &Bolt11Invoice) -> Result<Self, Bolt11Error> {
        let created_ms = i64::try_from(invoice.duration_since_epoch().as_millis());
        let expires_ms = invoice.expires_at().and_then(|at| i64::try_from(at.as_millis()).ok());
        let (Ok(created_ms), Some(expires_ms)) = (created_ms, expires_ms) else {
            return Err(Bolt11Error::TimeOutOfRange);
        };
        let (description, description_hash) = match invoice.description() {
            Bolt11InvoiceDescriptionRef::Direct(text) => (text.as_inner().0.clone(), None),
            Bolt11InvoiceDescriptionRef::Hash(hash) => (String::new(), Some(hash_of(&hash.0))),
        };
        Ok(Self {
            network: network(invoice.currency()),
            amount: amount(invoice)?,
            hash: hash_of(invoice.payment_hash()),
            payee: invoice.get_payee_pub_key().to_string(),
            created_at: UnixMs(created_ms),
            expires_at: UnixMs(expires_ms),
            description,
            description_hash,
        })
    }

    pub fn expired(&self, now: UnixMs) -> bool {
        now >= self.expires_at
    }

    /// The hash of what it is for, told elsewhere: its description hash, or a [`commitment`] as its memo.
    pub fn committed(&self) -> Option<Hash32> {
        let memo = || self.description.strip_prefix(COMMITMENT)?.parse().ok();
        self.description_hash.or_else(memo)
    }
}

/// The decoder reports an amount that overflows as no amount at all, which would let the payer choose: told apart here
/// by the human-readable part.
fn amount(invoice: &Bolt11Invoice) -> Result<Option<Msat>, Bolt11Error> {
    match invoice.amount_milli_satoshis() {
        Some(msat) => Msat::try_from(msat).map(Some).map_err(|_| Bolt11Error::AmountOutOfRange),
        None if invoice.clone().into_signed_raw().raw_invoice().hrp.raw_amount.is_some() => {
            Err(Bolt11Error::AmountOutOfRange)
        }
        None => Ok(None),
    }
}

fn hash_of(hash: &bitcoin::hashes::sha256::Hash) -> Hash32 {
    Hash32::from_bytes(*bitcoin::hashes::Hash::as_byte_array(hash))
}

fn network(currency: Currency) -> Network {
    match currency {
        Currency::Bitcoin => Network::Bitcoin,
        Currency::BitcoinTestnet => Network::Testnet,
        Currency::Signet => Network::Signet,
        Currency::Regtest => Network::Regtest,
        Currency::Simnet => Network::Simnet,
    }
}

/// Fuzz target: any bytes give a value or an error, and what was read is within its bounds.
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(invoice) = Bolt11::decode(&text) {
        assert!(text.len() >= 10);
        assert!(invoice.description.len() <= MAX_BYTES);
        assert!(invoice.expires_at >= invoice.created_at);
    }
}

#[cfg(test)]
mod tests;
