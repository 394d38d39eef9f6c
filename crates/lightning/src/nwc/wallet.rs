//! A wallet behind Nostr Wallet Connect, as a driver.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use nexus_core::{Clock, Entropy, MonoMs, Msat, UnixMs};
use nostr::event::{Event, Kind as EventKind};
use nostr::filter::Filter;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::book::{self, Book, stored};
use super::connection::Connection;
use super::envelope::{Encryption, EnvelopeError, INFO, Info, RESPONSE, open_response, read_info, seal_request};
use super::line::{Heard, Line};
use super::message::{ErrorCode, Request, Response};
use crate::bolt11::Network;
use crate::driver::{Capabilities, Custody, Driver, Health, Idempotency, Kind, PreimageProof, WalletError};
use crate::lnd::FeeReserve;
use crate::storage::{Change, WalletStorage};

/// How long the driver waits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a relay to stand, and for the wallet's info event.
    pub connect_ms: u64,
    /// For an answer that moves no money.
    pub answer_ms: u64,
    /// For the answer to a payment, before the wallet is asked what became of it.
    pub settle_ms: u64,
    /// Between two looks at what was not paid yet.
    pub poll_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect_ms: 3_000, answer_ms: 4_000, settle_ms: 20_000, poll_ms: 10_000 }
    }
}

/// What a wallet is opened with.
pub struct NwcParts {
    pub connection: Connection,
    /// What every invoice has to be for, and the wallet on.
    pub network: Network,
    pub line: Arc<dyn Line>,
    pub storage: Arc<dyn WalletStorage>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub fee_reserve: FeeReserve,
    pub patience: Patience,
}

/// A wallet service, spoken to over relays. Cheap to clone.
///
/// What holds: a request to pay is stored before it is published, one at a time for a hash, and published again as it is
/// or not at all. A wallet does what an event asks at most once: it hears the same event from each of its relays. Settled
/// is a preimage; failed is a refusal that came before anything was sent, or the wallet's word long after the invoice's
/// expiry ([`FAILURE_MARGIN_MS`](super::FAILURE_MARGIN_MS)). All else is `Pending` or `Unknown`.
#[derive(Clone)]
pub struct NwcWallet(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) connection: Connection,
    pub(super) relays: Vec<String>,
    pub(super) network: Network,
    pub(super) line: Arc<dyn Line>,
    pub(super) storage: Arc<dyn WalletStorage>,
    pub(super) book: Book,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) fee_reserve: FeeReserve,
    pub(super) patience: Patience,
    terms: Mutex<Option<Terms>>,
}

/// What is known of the wallet, for an hour.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Terms {
    /// Our key: another connection has its own terms.
    client: String,
    wallet: String,
    pub(super) encryption: Encryption,
    pub(super) methods: Vec<String>,
    pub(super) tells: bool,
    at: UnixMs,
}

const TERMS: &str = "nwc.terms";
const TERMS_KEY: &str = "terms";
const TERMS_MS: i64 = 3_600_000;
/// For how long a wallet may heed a request that moves no money, in milliseconds.
const HEEDED_MS: i64 = 60_000;
/// After no relay took a request, an answer is waited for this much longer: some say nothing of what they do not keep.
const REFUSED_MS: u64 = 1_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing left.
    Unsent(String),
    /// The deadline passed; nothing left.
    Late,
    /// It left, or may have.
    Lost(String),
}

impl From<Silence> for WalletError {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Unsent(why) | Silence::Lost(why) => Self::Unreachable(why),
            Silence::Late => Self::Unreachable("too late to ask".to_owned()),
        }
    }
}

impl NwcWallet {
    /// Connects to nothing yet.
    pub fn new(parts: NwcParts) -> Self {
        let NwcParts { connection, network, line, storage, clock, entropy, fee_reserve, patience } = parts;
        let relays = connection.relays().iter().map(ToString::to_string).collect();
        let (book, terms) = (Book::new(storage.clone()), Mutex::new(None));
        Self(Arc::new(Inner {
            connection,
            relays,
            network,
            line,
            storage,
            book,
            clock,
            entropy,
            fee_reserve,
            patience,
            terms,
        }))
    }
}

impl Inner {
    /// Asks what moves no money out.
    pub(super) async fn ask(&self, request: &Request) -> Result<Response, WalletError> {
        let terms = self.terms().await?;
        if !terms.methods.iter().any(|it| it == request.method()) {
            let why = format!("this connection does not allow `{}`: make one that does", request.method());
            return Err(WalletError::Refused(why));
        }
        let response = self.ask_in(request, terms.encryption).await?;
        if matches!(response, Response::Error { code: ErrorCode::UnsupportedEncryption, .. }) {
            self.forget_terms().await;
        }
        Ok(response)
    }

    async fn ask_in(&self, request: &Request, encryption: Encryption) -> Result<Response, WalletError> {
        let now = self.clock.now();
        let event = self.seal(request, encryption, now.plus_ms(HEEDED_MS))?;
        Ok(self.exchange(&event, request.method(), None, self.patience.answer_ms).await?)
    }

    pub(super) fn seal(&self, request: &Request, encryption: Encryption, until: UnixMs) -> Result<Event, WalletError> {
        seal_request(&self.connection, request, encryption, self.clock.now(), until, &*self.entropy)
            .map_err(|error| WalletError::Refused(error.to_string()))
    }

    /// Publishes a request and waits for its answer, for `answer_ms` from then on. After the deadline it publishes
    /// nothing.
    pub(super) async fn exchange(
        &self,
        event: &Event,
        method: &str,
        deadline: Option<MonoMs>,
        answer_ms: u64,
    ) -> Result<Response, Silence> {
        let (encryption, wallet) = (Encryption::of(event), *self.connection.wallet());
        let filter = Filter::new().kind(EventKind::from_u16(RESPONSE)).author(wallet).event(event.id);
        let mut heard = self.line.subscribe(&self.relays, vec![filter]);
        // Answers are not kept by relays: one has to listen before asking.
        let standing = async {
            loop {
                match heard.next().await {
                    Some(Heard::Standing) => return true,
                    Some(Heard::Event(_)) => {}
                    None => return false,
                }
            }
        };
        let standing = tokio::time::timeout(Duration::from_millis(self.patience.connect_ms), standing).await;
        if !matches!(standing, Ok(true)) {
            return Err(Silence::Unsent("no relay of the wallet's connection answers".to_owned()));
        }
        let left_ms = deadline.map_or(answer_ms, |at| at.since(self.clock.mono()).min(answer_ms));
        if left_ms == 0 {
            return Err(Silence::Late);
        }
        let publishing = self.line.publish(event, &self.relays, Duration::from_millis(left_ms));
        let mut publishing = std::pin::pin!(publishing);
        let mut published = false;
        let mut until = std::pin::pin!(tokio::time::sleep(Duration::from_millis(answer_ms)));
        let mut why = "the wallet does not answer";
        loop {
            tokio::select! {
                next = heard.next() => match next {
                    Some(Heard::Event(told)) => {
                        match open_response(&self.connection, &told, &event.id, method, encryption) {
                            Ok(response) => return Ok(response),
                            // Signed by the wallet, for this request, and yet no answer: none will come.
                            Err(error @ (EnvelopeError::Sealed | EnvelopeError::Message(_))) => {
                                return Err(Silence::Lost(error.to_string()));
                            }
                            // A stranger's, or to another request.
                            Err(
                                EnvelopeError::Kind
                                | EnvelopeError::Author
                                | EnvelopeError::NotOurs
                                | EnvelopeError::Encryption
                                | EnvelopeError::TooLarge,
                            ) => {}
                        }
                    }
                    Some(Heard::Standing) => {}
                    None => return Err(Silence::Lost("the relays are shut down".to_owned())),
                },
                taken = &mut publishing, if !published => {
                    published = true;
                    if !taken {
                        why = "no relay of the wallet's connection took the request";
                        let soon = tokio::time::sleep(Duration::from_millis(REFUSED_MS.min(answer_ms)));
                        until.set(soon);
                    }
                }
                () = &mut until => return Err(Silence::Lost(why.to_owned())),
            }
        }
    }

    /// How this wallet is to be spoken to.
    pub(super) async fn terms(&self) -> Result<Terms, WalletError> {
        let mut known = self.terms.lock().await;
        let now = self.clock.now();
        if known.is_none() {
            let stored = self.storage.get(TERMS, TERMS_KEY).await.map_err(stored)?;
            // What cannot be read is asked for again.
            *known = stored.and_then(|bytes| book::read::<Terms>(&bytes).ok());
        }
        if let Some(terms) = known.as_ref().filter(|it| self.current(it, now)) {
            return Ok(terms.clone());
        }
        let info = self.info().await?;
        let methods = self.check_network(&info).await?;
        let terms = Terms {
            client: self.connection.client().to_hex(),
            wallet: self.connection.wallet().to_hex(),
            encryption: info.encryption,
            methods,
            tells: info.tells,
            at: now,
        };
        let put = Change::Put { space: TERMS, key: TERMS_KEY.to_owned(), value: book::write(&terms).map_err(stored)? };
        self.storage.write(vec![put]).await.map_err(stored)?;
        *known = Some(terms.clone());
        Ok(terms)
    }

    fn current(&self, terms: &Terms, now: UnixMs) -> bool {
        let ours =
            terms.client == self.connection.client().to_hex() && terms.wallet == self.connection.wallet().to_hex();
        // A clock that was set back does not make them last.
        ours && (0..TERMS_MS).contains(&now.0.saturating_sub(terms.at.0))
    }

    pub(super) async fn forget_terms(&self) {
        *self.terms.lock().await = None;
        let delete = Change::Delete { space: TERMS, key: TERMS_KEY.to_owned() };
        if let Err(error) = self.storage.write(vec![delete]).await {
            tracing::warn!(%error, "what a wallet said of itself could not be forgotten");
        }
    }

    /// The newest info event that the first relay has, or one of the others.
    async fn info(&self) -> Result<Info, WalletError> {
        let filter = Filter::new().kind(EventKind::from_u16(INFO)).author(*self.connection.wallet());
        let mut heard = self.line.subscribe(&self.relays, vec![filter]);
        let (mut newest, mut standing): (Option<Arc<Event>>, usize) = (None, 0);
        let look = async {
            while let Some(next) = heard.next().await {
                match next {
                    Heard::Event(event) => {
                        if newest.as_ref().is_none_or(|known| known.created_at < event.created_at) {
                            newest = Some(event);
                        }
                    }
                    Heard::Standing => standing += 1,
                }
                if standing > 0 && (newest.is_some() || standing >= self.relays.len()) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(self.patience.connect_ms), look).await;
        let unreachable = |why: &str| WalletError::Unreachable(why.to_owned());
        match newest {
            Some(event) => read_info(&self.connection, &event)
                .map_err(|error| WalletError::Protocol(format!("the wallet's info event: {error}"))),
            None if standing == 0 => Err(unreachable("no relay of the wallet's connection answers")),
            None => Err(unreachable("the relays know no info event of the wallet: is the connection still good?")),
        }
    }

    /// Asks the wallet which network it is on, where it tells, and what this connection may ask for.
    async fn check_network(&self, info: &Info) -> Result<Vec<String>, WalletError> {
        if !info.methods.iter().any(|it| it == "get_info") {
            return Ok(info.methods.clone());
        }
        match self.ask_in(&Request::GetInfo, info.encryption).await? {
            Response::Info { methods, network } => {
                let own = self.network.as_str();
                let named = network.as_deref().filter(|it| !it.is_empty());
                // BIP 21's main network has two names.
                let named = named.map(|it| if it == "mainnet" { "bitcoin" } else { it });
                match named {
                    Some(other) if other != own => {
                        let other: String = other.chars().take(32).collect();
                        Err(WalletError::Refused(format!("the wallet is on {other}, and this host on {own}")))
                    }
                    Some(_) | None if methods.is_empty() => Ok(info.methods.clone()),
                    Some(_) | None => Ok(methods),
                }
            }
            // A connection that may not ask: each invoice names its network as well.
            Response::Error { code: ErrorCode::Restricted | ErrorCode::NotImplemented, .. } => Ok(info.methods.clone()),
            Response::Error { code, message } => Err(said(code, &message)),
            Response::Paid { .. } | Response::Transaction(_) | Response::Balance(_) => Err(unasked()),
        }
    }
}

/// A wallet's refusal of what moves no money.
pub(super) fn said(code: ErrorCode, message: &str) -> WalletError {
    match code {
        ErrorCode::Unauthorized => WalletError::Auth,
        ErrorCode::Restricted | ErrorCode::NotImplemented | ErrorCode::QuotaExceeded => {
            WalletError::Refused(format!("the wallet says: {message}"))
        }
        ErrorCode::RateLimited => WalletError::Unreachable("the wallet is asked too often".to_owned()),
        ErrorCode::InsufficientBalance
        | ErrorCode::UnsupportedEncryption
        | ErrorCode::PaymentFailed
        | ErrorCode::NotFound
        | ErrorCode::Internal
        | ErrorCode::Other => WalletError::Protocol(format!("the wallet says: {message}")),
    }
}

pub(super) fn unasked() -> WalletError {
    WalletError::Protocol("the wallet answered something else than was asked".to_owned())
}

impl Driver for NwcWallet {
    fn kind(&self) -> Kind {
        Kind::Nwc
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: true,
            // A repeat is the same event, or nothing but a question.
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(async {
            let spendable = self.balance().await?;
            Ok(Health {
                identity: self.0.connection.wallet().to_hex(),
                network: self.0.network,
                synced: true,
                spendable,
                receivable: None,
            })
        })
    }

    fn balance(&self) -> BoxFuture<'_, Result<Msat, WalletError>> {
        Box::pin(async {
            match self.0.ask(&Request::GetBalance).await? {
                Response::Balance(balance) => Ok(balance),
                Response::Error { code, message } => Err(said(code, &message)),
                Response::Paid { .. } | Response::Transaction(_) | Response::Info { .. } => Err(unasked()),
            }
        })
    }

    /// Nothing is begun that only this driver could finish; what is long over is forgotten.
    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async { self.0.book.tidy(self.0.clock.now()).await.map_err(stored) })
    }
}
