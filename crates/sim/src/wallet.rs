//! The wallets that agents pay with: a driver in front of the ledger, with a network in between.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::time::random;
use nexus_core::{Clock, Hash32, Msat, Npub};
use nexus_lightning::{
    Bolt11, Capabilities, Cursor, Custody, Dispatch, Driver, Health, Idempotency, Invoice, InvoiceRequest,
    InvoiceState, Kind, Network, Pay, PayRequest, PreimageProof, Quote, Receive, Resolve, Settlement, WalletDriver,
    WalletError,
};
use nexus_store::payment;
use nexus_worker::{Purse, WalletUnavailable, Wallets};
use tokio::sync::oneshot;

use crate::counts;
use crate::dice::Dice;
use crate::ledger::{Books, Sent, Standing};
use crate::node::Paper;
use crate::plan::Fault;
use crate::process::Process;
use crate::world::{Accident, World, lag};

/// How long the driver waits for its backend.
const TIMEOUT: Duration = Duration::from_millis(6_000);

/// Opens the wallets of one process.
pub struct SimWallets {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub dice: Arc<Dice>,
}

impl Wallets for SimWallets {
    fn open(&self, purse: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>> {
        Box::pin(async move {
            let words = purse.seed.expose_words();
            let agent = self.world.agents.iter().find(|agent| agent.wallet_words == words.expose());
            let owner = agent.map(|agent| agent.npub).ok_or_else(|| WalletUnavailable("nobody's wallet".into()))?;
            let (world, process, dice) = (self.world.clone(), self.process.clone(), self.dice.clone());
            Ok(Arc::new(SimWallet { owner, world, process, dice }) as Arc<dyn WalletDriver>)
        })
    }

    fn network(&self) -> Network {
        Network::Regtest
    }
}

struct SimWallet {
    owner: Npub,
    world: Arc<World>,
    process: Arc<Process>,
    dice: Arc<Dice>,
}

impl SimWallet {
    /// There and back for a call that moves no money; an error when the backend cannot be reached.
    async fn round_trip(&self) -> Result<(), WalletError> {
        self.process.pass().await;
        lag(&self.world, &self.dice, 300).await;
        let lost = self.world.wallets_away() || self.world.fault(&self.dice, Fault::WalletUnreachable);
        self.process.pass().await;
        if lost { Err(WalletError::Unreachable("simulated".into())) } else { Ok(()) }
    }

    fn name(&self, hash: &Hash32) -> String {
        let name = self.world.seen().names.get(hash).cloned();
        format!("{} {}", self.world.label(&self.owner), name.unwrap_or_else(|| "unknown invoice".into()))
    }

    /// What the backend recognises a repeat of this send by.
    fn key(&self, send: &Dispatch, hash: Hash32) -> String {
        match self.world.plan.idempotency {
            Idempotency::ByHash => hash.to_string(),
            Idempotency::ByKey => send.key.clone(),
            Idempotency::None => format!("{hash}:{}", self.world.ledger.books().sends.len()),
        }
    }

    /// What leaves must be on record as leaving.
    async fn check_journaled(&self, hash: Hash32) {
        let recorded = payment::get(&self.world.store, self.owner, hash).await;
        match recorded {
            Ok(Some(payment)) if payment.state.unresolved() => {}
            Ok(Some(payment)) => self.world.trace.violated(format_args!(
                "a payment leaves that is on record as {}: {}",
                payment.state.as_str(),
                self.name(&hash)
            )),
            Ok(None) => {
                self.world.trace.violated(format_args!("a payment leaves without a record: {}", self.name(&hash)))
            }
            Err(error) => self.world.trace.violated(format_args!("the check of a payment failed: {error}")),
        }
    }

    /// Where no repeat is recognised, nothing is sent again that may be paid already, or be on its way.
    fn check_alone(&self, hash: Hash32) {
        if self.world.plan.idempotency != Idempotency::None {
            return;
        }
        let again = {
            let books = self.world.ledger.books();
            let same = |sent: &Sent| sent.payer == self.owner && sent.hash == hash;
            let open = |sent: &Sent| !matches!(sent.standing, Standing::Failed(_));
            books.underway.get(&(self.owner, hash)).is_some_and(|sends| *sends > 0)
                || books.sends.values().any(|sent| same(sent) && open(sent))
        };
        if again {
            self.world.trace.violated(format_args!("a payment that may be paid is sent again: {}", self.name(&hash)));
        }
    }

    async fn send(&self, send: Dispatch) -> Outcome {
        self.process.pass().await;
        lag(&self.world, &self.dice, 50).await;
        self.process.pass().await;
        let Ok(invoice) = Bolt11::decode(&send.bolt11) else {
            return Outcome::Failed { class: FailureClass::Refused };
        };
        // As every driver must: after the deadline no byte leaves.
        if self.process.clock.mono() >= send.deadline {
            self.world.trace.note(format_args!(
                "{} past its deadline: {}",
                self.process.name,
                self.name(&invoice.hash)
            ));
            return Outcome::Failed { class: FailureClass::Refused };
        }
        if self.world.wallets_away() || self.world.fault(&self.dice, Fault::WalletUnreachable) {
            return Outcome::Failed { class: FailureClass::Unreachable };
        }
        self.check_journaled(invoice.hash).await;
        self.world.trace.note(format_args!("{} sends {}", self.process.name, self.name(&invoice.hash)));
        self.check_alone(invoice.hash);
        let answer = self.leave(send, invoice.hash);
        if self.world.fault(&self.dice, Fault::WalletCrash) {
            self.world.accident(&self.process, Accident::Kill);
        }
        let said = tokio::time::timeout(TIMEOUT, answer).await;
        self.process.pass().await;
        match said {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Unknown { why: "the connection broke".into() },
            Err(_) => Outcome::Unknown { why: "no answer in time".into() },
        }
    }

    /// The bytes are out: whatever becomes of this process, they arrive.
    fn leave(&self, send: Dispatch, hash: Hash32) -> oneshot::Receiver<Outcome> {
        let late = self.world.fault(&self.dice, Fault::WalletLate);
        let there = if late { self.dice.between(1, self.world.plan.late_ms) } else { self.dice.between(1, 40) };
        let answered = !self.world.fault(&self.dice, Fault::WalletAnswerLost);
        let no_route = self.world.fault(&self.dice, Fault::WalletNoRoute);
        let pending = self.world.fault(&self.dice, Fault::WalletPending).then(|| self.dice.between(500, 30_000));
        let fee = Msat::try_from(self.dice.between(0, send.max_fee.as_u64())).unwrap_or(Msat::ZERO);
        let (answer, answers) = oneshot::channel();
        let (world, owner, name) = (self.world.clone(), self.owner, self.name(&hash));
        let key = self.key(&send, hash);
        *self.world.ledger.books().underway.entry((owner, hash)).or_default() += 1;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(there)).await;
            if let Some(sends) = world.ledger.books().underway.get_mut(&(owner, hash)) {
                *sends -= 1;
            }
            let arrival = Arrival { owner, key, hash, send, no_route, pending: pending.is_some(), fee };
            let mut standing = arrival.book(&world);
            world.trace.note(format_args!("backend: {name}: {standing:?}"));
            let mut answer = Some(answer).filter(|_| answered);
            if let (Standing::InFlight, Some(ms)) = (standing, pending) {
                // Some backends say so at once, others leave the caller waiting.
                if ms % 2 == 0
                    && let Some(answer) = answer.take()
                {
                    let _ = answer.send(Outcome::Pending);
                }
                tokio::time::sleep(Duration::from_millis(ms)).await;
                standing = arrival.conclude(&world);
                world.trace.note(format_args!("backend: {name}: {standing:?} after all"));
            }
            if let Some(answer) = answer {
                let _ = answer.send(arrival.outcome(&world, standing));
            }
        });
        answers
    }

    async fn look(&self, question: Resolve) -> Outcome {
        if self.round_trip().await.is_err() {
            return Outcome::Unknown { why: "unreachable".into() };
        }
        let found = {
            let books = self.world.ledger.books();
            let of = |sent: &&Sent| {
                sent.payer == self.owner && sent.hash == question.hash && sent.payment_id == question.payment_id
            };
            let rank = |sent: &&Sent| match sent.standing {
                Standing::Settled { .. } => 2,
                Standing::InFlight => 1,
                Standing::Failed(_) => 0,
            };
            let preimage = preimage(&self.world, &books, question.hash);
            books.sends.values().filter(of).max_by_key(rank).map(|sent| told(sent.standing, preimage))
        };
        lag(&self.world, &self.dice, 2_000).await;
        self.process.pass().await;
        found.unwrap_or(Outcome::NotFound)
    }
}

/// Of a seller's invoice, or one of the operator's node.
fn preimage(world: &World, books: &Books, hash: Hash32) -> Option<Hash32> {
    let sellers = books.bills.get(&hash).map(|bill| bill.preimage);
    sellers.or_else(|| world.node.papers(world.now()).invoices.get(&hash).map(|paper| paper.preimage))
}

fn told(standing: Standing, preimage: Option<Hash32>) -> Outcome {
    match standing {
        Standing::InFlight => Outcome::Pending,
        Standing::Settled { fee } => Outcome::Settled { preimage, fee },
        Standing::Failed(class) => Outcome::Failed { class },
    }
}

/// A send at the moment it reaches the backend.
struct Arrival {
    owner: Npub,
    key: String,
    hash: Hash32,
    send: Dispatch,
    no_route: bool,
    pending: bool,
    fee: Msat,
}

impl Arrival {
    fn book(&self, world: &World) -> Standing {
        let now = world.now();
        let mut books = world.ledger.books();
        if let Some(known) = books.sends.get(&(self.owner, self.key.clone())) {
            let again = matches!(known.standing, Standing::Failed(_)) && known.attempt < self.send.attempt;
            if !again {
                return known.standing;
            }
        }
        let over = |paper: &Paper| now >= paper.expires_at;
        let expired = match books.bills.get(&self.hash) {
            Some(bill) => now >= bill.expires_at,
            None => world.node.papers(now).invoices.get(&self.hash).is_none_or(over),
        };
        let standing = if expired {
            Standing::Failed(FailureClass::Refused)
        } else if self.no_route {
            Standing::Failed(FailureClass::NoRoute)
        } else if self.pending {
            Standing::InFlight
        } else {
            self.settle(world, &mut books)
        };
        let sent = Sent {
            payer: self.owner,
            hash: self.hash,
            payment_id: self.send.payment_id.clone(),
            attempt: self.send.attempt,
            standing,
        };
        books.sends.insert((self.owner, self.key.clone()), sent);
        standing
    }

    /// A seller is paid, or the operator's node.
    fn settle(&self, world: &World, books: &mut Books) -> Standing {
        if books.bills.contains_key(&self.hash) {
            return books.settle(self.owner, self.hash, self.fee);
        }
        let standing = books.settle_rent(&world.node, self.owner, self.hash, self.fee, world.now());
        if matches!(standing, Standing::Settled { .. }) {
            world.count(counts::RENT);
        }
        standing
    }

    /// A send in flight arrives, or comes back.
    fn conclude(&self, world: &World) -> Standing {
        let mut books = world.ledger.books();
        let key = (self.owner, self.key.clone());
        if books.sends.get(&key).is_none_or(|sent| sent.standing != Standing::InFlight) {
            return books.sends.get(&key).map_or(Standing::InFlight, |sent| sent.standing);
        }
        let standing = if self.fee.as_u64() % 4 == 3 {
            Standing::Failed(FailureClass::NoRoute)
        } else {
            self.settle(world, &mut books)
        };
        if let Some(sent) = books.sends.get_mut(&key) {
            sent.standing = standing;
        }
        standing
    }

    fn outcome(&self, world: &World, standing: Standing) -> Outcome {
        let preimage = preimage(world, &world.ledger.books(), self.hash);
        told(standing, preimage)
    }
}

impl Driver for SimWallet {
    fn kind(&self) -> Kind {
        Kind::Dev
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            receive: true,
            hold: false,
            lookup_out: true,
            idempotency: self.world.plan.idempotency,
            preimage: PreimageProof::Always,
            custody: Custody::Own,
        }
    }

    fn health(&self) -> BoxFuture<'_, Result<Health, WalletError>> {
        async {
            self.round_trip().await?;
            let spendable = self.world.ledger.balance(&self.owner);
            Ok(Health {
                identity: "simulated".into(),
                network: Network::Regtest,
                synced: true,
                spendable,
                receivable: None,
            })
        }
        .boxed()
    }
}

impl Receive for SimWallet {
    fn create_invoice(&self, request: InvoiceRequest) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        async move {
            self.round_trip().await?;
            let preimage = Hash32::from_bytes(random(&*self.dice));
            let (now, secs) = (self.world.now(), u64::from(request.expiry_s));
            let made = self.world.ledger.incoming(self.owner, preimage, request.amount, now, secs);
            let (bolt11, hash, expires_at) = made.ok_or_else(|| WalletError::Refused("no such invoice".into()))?;
            Ok(Invoice { bolt11, hash, expires_at, cursor: Cursor(0) })
        }
        .boxed()
    }

    fn lookup_invoice(&self, hash: Hash32) -> BoxFuture<'_, Result<InvoiceState, WalletError>> {
        async move {
            self.round_trip().await?;
            let books = self.world.ledger.books();
            let Some(incoming) = books.incoming.get(&hash).filter(|incoming| incoming.payee == self.owner) else {
                return Ok(InvoiceState::NotFound);
            };
            Ok(match incoming.paid_at {
                Some(at) => InvoiceState::Settled { amount: incoming.amount, preimage: Some(incoming.preimage), at },
                None if self.world.now() >= incoming.expires_at => InvoiceState::Canceled,
                None => InvoiceState::Open,
            })
        }
        .boxed()
    }

    fn settlements(&self, _cursor: Cursor) -> BoxStream<'static, Result<Settlement, WalletError>> {
        Box::pin(futures::stream::empty())
    }
}

impl Pay for SimWallet {
    fn quote(&self, request: PayRequest) -> BoxFuture<'_, Result<Quote, WalletError>> {
        async move {
            self.round_trip().await?;
            let invoice = Bolt11::decode(&request.bolt11).map_err(|error| WalletError::Refused(error.to_string()))?;
            let amount = invoice.amount.unwrap_or(Msat::ZERO).as_u64();
            let max_fee = Msat::try_from(amount / 100).unwrap_or(Msat::ZERO).max(Msat::new(1_000));
            Ok(Quote { max_fee, handle: None, expires_at: None })
        }
        .boxed()
    }

    fn dispatch(&self, send: Dispatch) -> BoxFuture<'_, Outcome> {
        self.send(send).boxed()
    }

    fn resolve(&self, question: Resolve) -> BoxFuture<'_, Outcome> {
        self.look(question).boxed()
    }
}
