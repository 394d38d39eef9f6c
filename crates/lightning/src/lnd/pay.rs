//! The paying half.

use std::sync::Arc;

use futures::future::BoxFuture;
use hyper::Method;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Clock, Hash32, Msat};
use serde_json::json;

use super::NodeConfig;
use super::client::{CallError, Client, Lines, Next, Verified};
use super::json::{self, Payment, Reason, Said, Status};
use super::receive::health;
use super::secret::PayerMacaroon;
use super::tag::{RECORD, Tag, Whose};
use crate::bolt11::{Bolt11, without_scheme};
use crate::checks::{payable, proven, refused};
use crate::driver::{
    Capabilities, Custody, Dispatch, Driver, Health, Idempotency, Kind, Pay, PayRequest, PreimageProof, Quote, Resolve,
    WalletError,
};

const MAX_PAYMENT_ID_BYTES: usize = 64;
/// LND's own default, said aloud.
const MAX_PARTS: u32 = 16;
/// For how long LND looks for new routes at most. What is in flight then stays so until its time lock ends.
const MAX_TRYING_S: i64 = 60;

/// Pays from an LND node. Cheap to clone.
///
/// What holds: at most one payment for a hash that did not fail (LND's own rule), and at most one for an attempt
/// (the tag's): a repeat of an attempt that failed says so and sends nothing. `Failed` is LND's terminal word, given
/// only once nothing is in flight, or a refusal before the first byte; `NotFound` is the pinned node's own. All else is
/// `Pending` or `Unknown`. The deadline is compared with the clock in the same call that hands the request's first byte
/// to TLS.
#[derive(Clone)]
pub struct LndPay {
    client: Arc<Client>,
}

/// What a node knows of a hash.
enum Known {
    Nothing(Verified),
    /// The newest payment of that hash, and the stream that goes on telling of it.
    Payment(Box<Payment>, Lines),
}

impl LndPay {
    /// Connects to nothing yet.
    pub fn new(node: NodeConfig, macaroon: PayerMacaroon, clock: Arc<dyn Clock>) -> Self {
        Self { client: Arc::new(Client::new(node, macaroon.0, clock)) }
    }

    fn payable(&self, bolt11: &str, amount: Option<Msat>) -> Result<Bolt11, WalletError> {
        let invoice = payable(bolt11, amount, self.client.node.network())?;
        if invoice.payee == self.client.node.identity() {
            return Err(WalletError::Refused("an invoice of the paying node itself".to_owned()));
        }
        Ok(invoice)
    }

    /// What the node knows of a hash. LND answers with the state of now, then with changes.
    async fn known(&self, hash: Hash32) -> Result<Known, CallError> {
        let connection = self.client.open().await.map_err(CallError::Unsent)?;
        let path = format!("/v2/router/track/{}", json::base64_url(hash.as_bytes()));
        let patience = self.client.node.patience;
        let asked = self.client.stream(connection, Method::GET, &path, None, None, patience.answer_ms).await;
        let mut lines = match asked {
            Ok(lines) => lines,
            Err((CallError::Said(said), connection)) if said.absent() => {
                return Ok(Known::Nothing(connection));
            }
            Err((error, _)) => return Err(error),
        };
        match lines.next::<Payment>(patience.answer_ms).await {
            Next::Line(payment) if payment.payment_hash == hash => Ok(Known::Payment(Box::new(payment), lines)),
            Next::Line(_) => Err(lost("an answer about another payment")),
            Next::Said(said) if said.absent() => Ok(Known::Nothing(lines.into_connection())),
            Next::Said(said) => Err(CallError::Said(said)),
            Next::Silence => Err(lost("no word of the payment in time")),
            Next::End => Err(lost("a stream without a word")),
            Next::Broken(error) => Err(CallError::Lost(error)),
        }
    }

    async fn look(&self, hash: Hash32, payment_id: &str, attempt: u32) -> Outcome {
        match self.known(hash).await {
            Ok(Known::Nothing(_)) => Outcome::NotFound,
            Ok(Known::Payment(payment, _)) => {
                match (Tag::new(payment_id, hash, attempt).whose(&payment), payment.status) {
                    // An earlier attempt's failure says nothing of this one, which may not have arrived yet.
                    (Whose::Ours(earlier), Status::Failed) if earlier < attempt => Outcome::NotFound,
                    (Whose::Ours(_), _) => outcome(&payment, hash),
                    // LND keeps one payment for a hash, and this is not ours.
                    (Whose::Anothers, _) | (Whose::Unmarked, Status::Failed) => Outcome::NotFound,
                    (Whose::Unmarked, _) => unmarked(),
                }
            }
            Err(error) => unknown(error),
        }
    }

    /// Too late for this send. An earlier, identical one may have left in time: only a node that knows of none makes the
    /// refusal certain.
    async fn refuse_late(&self, hash: Hash32, send: &Dispatch) -> Outcome {
        match self.look(hash, &send.payment_id, send.attempt).await {
            Outcome::NotFound => refused(),
            known => known,
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        let Ok(invoice) = self.payable(&send.bolt11, send.amount) else { return refused() };
        if send.payment_id.is_empty() || send.payment_id.len() > MAX_PAYMENT_ID_BYTES || send.attempt == 0 {
            return refused();
        }
        let (hash, clock) = (invoice.hash, &self.client.clock);
        if invoice.expired(clock.now()) || clock.mono() >= send.deadline {
            return self.refuse_late(hash, &send).await;
        }
        let tag = Tag::new(&send.payment_id, hash, send.attempt);
        let connection = match self.known(hash).await {
            Ok(Known::Nothing(connection)) => connection,
            Ok(Known::Payment(payment, lines)) => match (tag.whose(&payment), payment.status) {
                (Whose::Ours(attempt), _) if attempt >= send.attempt => {
                    return self.follow(*payment, lines, tag, hash).await;
                }
                // LND starts anew after a failure, and so does policy.
                (Whose::Ours(_) | Whose::Anothers | Whose::Unmarked, Status::Failed) => match self.spent(lines).await {
                    Ok(connection) => connection,
                    Err(error) => return unknown(CallError::Unsent(error)),
                },
                // An earlier attempt is not over, or paid after all.
                (Whose::Ours(_), _) => return outcome(&payment, hash),
                // Paid, or being paid, for somebody else: LND would refuse this send.
                (Whose::Anothers, Status::Initiated | Status::InFlight | Status::Succeeded) => {
                    return Outcome::Failed { class: FailureClass::Rejected };
                }
                (Whose::Anothers, Status::Unknown) => return outcome(&payment, hash),
                (Whose::Unmarked, _) => return unmarked(),
            },
            Err(error) => return unknown(error),
        };
        self.pay(connection, &send, &invoice, tag).await
    }

    /// A connection for the next request, after a stream that said its last word.
    async fn spent(&self, mut lines: Lines) -> Result<Verified, WalletError> {
        match lines.next::<Payment>(self.client.node.patience.answer_ms).await {
            Next::End => Ok(lines.into_connection()),
            Next::Line(_) | Next::Said(_) | Next::Silence | Next::Broken(_) => self.client.open().await,
        }
    }

    async fn pay(&self, connection: Verified, send: &Dispatch, invoice: &Bolt11, tag: Tag) -> Outcome {
        let left_s = (invoice.expires_at.0 - self.client.clock.now().0) / 1_000;
        let mut ask = json!({
            // LND's decoder knows no scheme in front.
            "payment_request": without_scheme(&send.bolt11),
            "fee_limit_msat": send.max_fee.as_u64().to_string(),
            "timeout_seconds": left_s.clamp(1, MAX_TRYING_S),
            "max_parts": MAX_PARTS,
            "allow_self_payment": false,
            "cancelable": false,
            "no_inflight_updates": false,
            "first_hop_custom_records": { RECORD: json::base64(&tag.to_bytes()) },
        });
        if let Some(amount) = send.amount {
            ask["amt_msat"] = amount.as_u64().to_string().into();
        }
        let (post, path, first_ms) = (Method::POST, "/v2/router/send", self.client.node.patience.answer_ms);
        let asked = self.client.stream(connection, post, path, Some(&ask), Some(send.deadline), first_ms).await;
        let mut lines = match asked {
            Ok(lines) => lines,
            Err((CallError::Late, _)) => return self.refuse_late(invoice.hash, send).await,
            Err((CallError::Said(said), _)) => return self.after_error(said, invoice.hash, send).await,
            // Even if this one never left: an earlier, identical one may have.
            Err((error, _)) => return unknown(error),
        };
        match lines.next::<Payment>(first_ms).await {
            Next::Line(payment) => self.follow(payment, lines, tag, invoice.hash).await,
            Next::Said(said) => self.after_error(said, invoice.hash, send).await,
            Next::Silence => unknown(lost("no word of the payment in time")),
            Next::End => unknown(lost("a stream without a word")),
            Next::Broken(error) => unknown(CallError::Lost(error)),
        }
    }

    /// The node ended the request with an error. Whether a payment exists is not read out of its words, nor out of
    /// AlreadyExists, which does not say whose: the node is asked.
    async fn after_error(&self, said: Said, hash: Hash32, send: &Dispatch) -> Outcome {
        let exists = said.code == Said::ALREADY_EXISTS;
        let why = WalletError::from(said);
        tracing::info!(payment_hash = %hash, %why, "LND refused a payment");
        match self.look(hash, &send.payment_id, send.attempt).await {
            // It exists, and is not ours: whether it is over by now is asked again.
            Outcome::NotFound if exists => {
                Outcome::Unknown { why: "the node pays, or paid, this invoice for somebody else".to_owned() }
            }
            known => known,
        }
    }

    /// Follows a payment of ours until it ends, or until patience does.
    async fn follow(&self, mut payment: Payment, mut lines: Lines, tag: Tag, hash: Hash32) -> Outcome {
        let until = self.client.clock.mono().plus_ms(self.client.node.patience.settle_ms);
        loop {
            let ours = matches!(tag.whose(&payment), Whose::Ours(attempt) if attempt >= tag.attempt);
            if payment.payment_hash != hash || !ours {
                return unknown(lost("a word about another payment"));
            }
            let said = outcome(&payment, hash);
            if said != Outcome::Pending {
                return said;
            }
            payment = match lines.next(until.since(self.client.clock.mono())).await {
                Next::Line(payment) => payment,
                Next::Silence => return Outcome::Pending,
                Next::Said(said) => return unknown(CallError::Lost(said.into())),
                Next::End => return unknown(lost("the stream ended before the payment did")),
                Next::Broken(error) => return unknown(CallError::Lost(error)),
            };
        }
    }
}

fn unmarked() -> Outcome {
    let why = "the node pays, or paid, this invoice without saying for whom: look at `lncli listpayments`";
    Outcome::Unknown { why: why.to_owned() }
}

fn lost(why: &str) -> CallError {
    CallError::Lost(WalletError::Protocol(why.to_owned()))
}

fn unknown(error: CallError) -> Outcome {
    Outcome::Unknown { why: WalletError::from(error).to_string() }
}

/// What LND's word means. FAILED is said only once no HTLC is in flight.
fn outcome(payment: &Payment, hash: Hash32) -> Outcome {
    match payment.status {
        Status::Initiated | Status::InFlight => Outcome::Pending,
        Status::Succeeded => {
            let preimage = payment.payment_preimage.parse::<Hash32>().ok();
            proven(Outcome::Settled { preimage, fee: payment.fee_msat }, hash)
        }
        Status::Failed => Outcome::Failed {
            class: match payment.failure_reason {
                Reason::Timeout | Reason::NoRoute => FailureClass::NoRoute,
                Reason::NoFunds => FailureClass::NoFunds,
                Reason::WrongDetails => FailureClass::Rejected,
                Reason::Canceled | Reason::Other => FailureClass::Protocol,
            },
        },
        Status::Unknown => {
            Outcome::Unknown { why: "LND calls the payment something that is not known here".to_owned() }
        }
    }
}

impl Driver for LndPay {
    fn kind(&self) -> Kind {
        Kind::Lnd
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: false,
            hold: false,
            lookup_out: true,
            idempotency: Idempotency::ByHash,
            preimage: PreimageProof::Always,
            custody: Custody::Custodial,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        Box::pin(health(&self.client))
    }

    /// LND resumes by itself; what is left is to know that it is the right one.
    fn recover(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        Box::pin(async { self.client.open().await.map(|_| ()) })
    }
}

impl Pay for LndPay {
    /// The configured reserve: the node is only asked whether it is there, and in step with the chain.
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        Box::pin(async move {
            let invoice = self.payable(&request.bolt11, request.amount)?;
            if !self.client.open().await?.synced {
                return Err(WalletError::Unreachable("the node is not yet in step with the chain".to_owned()));
            }
            let amount = invoice.amount.or(request.amount).unwrap_or(Msat::ZERO);
            Ok(Quote { max_fee: self.client.node.fee_reserve.of(amount), handle: None, expires_at: None })
        })
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        Box::pin(self.send(send))
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        Box::pin(async move { self.look(question.hash, &question.payment_id, question.attempt).await })
    }
}
