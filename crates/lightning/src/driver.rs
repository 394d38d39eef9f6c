//! What every wallet backend can be asked.
//!
//! The traits are object-safe: a caller holds `Arc<dyn WalletDriver>` and does not know which backend is behind it.

use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::payment::Outcome;
use nexus_core::{Hash32, MonoMs, Msat, UnixMs};
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use crate::bolt11::Network;

/// Which backend a driver speaks to, as the policy and the API name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Dev,
    Lnd,
    Cashu,
    Nwc,
    Spark,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Lnd => "lnd",
            Self::Cashu => "cashu",
            Self::Nwc => "nwc",
            Self::Spark => "spark",
        }
    }
}

/// By what a backend recognises a repeated send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// The payment hash: the same invoice is never paid twice.
    ByHash,
    /// A key of the caller's ([`Dispatch::key`]).
    ByKey,
    /// It does not: a dispatch whose answer was lost may only be looked up.
    None,
}

/// Whether a settled payment comes with its preimage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreimageProof {
    Always,
    Maybe,
}

/// Who could run off with the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Custody {
    /// The agent alone holds the keys.
    Own,
    /// Somebody else does: a mint, a node's operator.
    Custodial,
    /// Shared with operators who cannot spend alone.
    Shared,
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub receive: bool,
    /// Invoices that are accepted first and settled or cancelled later.
    pub hold: bool,
    /// Whether an outgoing payment can be looked up after its answer was lost.
    pub lookup_out: bool,
    pub idempotency: Idempotency,
    pub preimage: PreimageProof,
    pub custody: Custody,
}

/// How the backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The backend's or the account's own public key, in hex. A change of it must stop outgoing payments.
    pub identity: String,
    pub network: Network,
    pub synced: bool,
    /// What can be paid now, fees included. Money in flight is not in it.
    pub spendable: Msat,
    /// What can be received now, where the backend knows.
    pub receivable: Option<Msat>,
}

/// The 32 bytes whose SHA-256 is a payment hash. A secret until the invoice is settled.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct Preimage([u8; 32]);

impl Preimage {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The payment hash.
    pub fn hash(&self) -> Hash32 {
        Hash32::sha256(&self.0)
    }
}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage(…)")
    }
}

/// What an invoice says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Description {
    /// At most [`crate::bolt11::MAX_DESCRIPTION_BYTES`] bytes.
    Memo(String),
    /// The SHA-256 of a text told elsewhere: LNURL-pay metadata, a zap request (NIP-57).
    Hash(Hash32),
}

/// An invoice to be made.
#[derive(Debug, Clone)]
pub struct InvoiceRequest {
    /// The caller's own preimage, stored before the call: then the call can be repeated after a crash and gives the
    /// same invoice. Without one the backend makes it.
    pub preimage: Option<Preimage>,
    /// At least 1 msat.
    pub amount: Msat,
    pub description: Description,
    /// Seconds from now, 1 to 86,400.
    pub expiry_s: u32,
}

impl InvoiceRequest {
    /// An hour's invoice with a memo, its preimage left to the backend.
    pub fn new(amount: Msat, memo: impl Into<String>) -> Self {
        Self { preimage: None, amount, description: Description::Memo(memo.into()), expiry_s: 3_600 }
    }
}

/// An invoice that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub bolt11: String,
    pub hash: Hash32,
    pub expires_at: UnixMs,
    /// Where to follow [`Receive::settlements`] from in order to see this invoice settle.
    pub cursor: Cursor,
}

/// Where an invoice of ours stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvoiceState {
    Open,
    /// A hold invoice whose money arrived and waits.
    Accepted,
    /// `amount` is what came, which may exceed what was asked.
    Settled {
        amount: Msat,
        preimage: Option<Hash32>,
        at: UnixMs,
    },
    /// Cancelled or expired unpaid.
    Canceled,
    NotFound,
}

/// A place in a wallet's settlements. Zero is before the first; larger is later; nothing else is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);

/// An invoice of ours that was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Continue after this one.
    pub cursor: Cursor,
    pub hash: Hash32,
    pub amount: Msat,
    pub at: UnixMs,
}

/// An invoice that somebody may want to pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayRequest {
    pub bolt11: String,
    /// For an invoice without an amount, and only then.
    pub amount: Option<Msat>,
}

/// What paying would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The largest fee; what is held beside the amount.
    pub max_fee: Msat,
    /// The backend's own name for the quote, to be handed to dispatch and resolve unchanged.
    pub handle: Option<String>,
    /// When the quote ends; the invoice's own expiry stands beside it.
    pub expires_at: Option<UnixMs>,
}

/// One send. A repeat carries identical values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The caller's id of this payment, 1 to 64 bytes: "already paid" is a success only for the payment that paid.
    pub payment_id: String,
    /// Counts the sends that policy decided on, from 1. A repeat after a lost answer is the same attempt.
    pub attempt: u32,
    /// For [`Idempotency::ByKey`]; 1 to 64 bytes.
    pub key: String,
    pub bolt11: String,
    /// For an invoice without an amount, and only then.
    pub amount: Option<Msat>,
    pub max_fee: Msat,
    /// After this moment of the driver's [`Clock`](nexus_core::Clock) no byte leaves.
    pub deadline: MonoMs,
    /// From the quote.
    pub handle: Option<String>,
}

/// The question what became of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolve {
    pub payment_id: String,
    /// The last send that is asked about: what became of an earlier one is no answer.
    pub attempt: u32,
    pub hash: Hash32,
    pub key: String,
    pub handle: Option<String>,
}

impl Dispatch {
    /// The question that belongs to this send.
    pub fn resolve(&self, hash: Hash32) -> Resolve {
        Resolve {
            payment_id: self.payment_id.clone(),
            attempt: self.attempt,
            hash,
            key: self.key.clone(),
            handle: self.handle.clone(),
        }
    }
}

/// Why a call that moves no money out did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// The request itself is not acceptable; repeating it will not help.
    #[error("refused: {0}")]
    Refused(String),
    #[error("the wallet backend does not accept our key")]
    Auth,
    /// Repeat later.
    #[error("cannot reach the wallet backend: {0}")]
    Unreachable(String),
    #[error("the wallet backend said something unexpected: {0}")]
    Protocol(String),
    #[error("{kind} wallets cannot {what}", kind = .kind.as_str())]
    Unsupported { kind: Kind, what: &'static str },
}

/// What receiving and paying share.
pub trait Driver: Send + Sync {
    fn kind(&self) -> Kind;

    fn capabilities(&self) -> Capabilities;

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>>;

    /// What can be paid now.
    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        Box::pin(async { self.health().await.map(|health| health.spendable) })
    }

    /// At boot, before anything else: finishes what the driver's own storage shows as begun. Moves no new money.
    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A wallet that can be paid.
pub trait Receive: Driver {
    /// Makes an invoice. With [`InvoiceRequest::preimage`] a repeat gives the same invoice.
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>>;

    /// The truth about an invoice of ours.
    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>>;

    /// Settlements after `cursor`, in order, then live. A hint: it may end or err at any time, then ask again from the
    /// last cursor seen; whoever credits money looks the invoice up.
    fn settlements(&self, cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>>;
}

/// A wallet that can pay.
pub trait Pay: Driver {
    /// What paying would cost at most. Holds nothing.
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>>;

    /// Pays, or says why not. `Failed` means surely not paid and nothing in flight: refused before the first byte, or
    /// the backend's terminal word. Everything ambiguous is `Unknown`. Dropping the future is ambiguous too.
    ///
    /// May be repeated with identical values unless [`Capabilities::idempotency`] is `None`.
    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome>;

    /// What became of a send. Never moves money.
    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome>;
}

/// A hold invoice to be made: its money is accepted first, then settled or cancelled.
#[derive(Debug, Clone)]
pub struct HoldRequest {
    /// Of a preimage that the caller has and the backend does not.
    pub hash: Hash32,
    /// At least 1 msat.
    pub amount: Msat,
    pub description: Description,
    /// Seconds from now, 1 to 86,400.
    pub expiry_s: u32,
    /// Blocks that the money may be held for at most, 18 to 2,016: the backend gives it back shortly before.
    pub cltv_expiry: u32,
}

/// A wallet that can hold what it is paid until the caller decides. Each call may be repeated.
pub trait Hold: Receive {
    fn create_hold_invoice(&self, request: HoldRequest) -> BoxFuture<'_, Result<Invoice, WalletError>>;

    /// Takes the money of an accepted invoice. Refused if no money waits.
    fn settle_hold_invoice(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>>;

    /// Gives the money back, or ends an open invoice. Refused once it is settled.
    fn cancel_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<(), WalletError>>;
}

/// A whole wallet.
pub trait WalletDriver: Receive + Pay {}

impl<T: Receive + Pay> WalletDriver for T {}
