//! What commits together with a journal append or a tick's end.

use nexus_core::approval::{ApprovalId, State};
use nexus_core::availability::{Availability, Month};
use nexus_core::budget::Window;
use nexus_core::payment::PaymentState;
use nexus_core::{Generation, Hash32, Msat, Npub, TickId, UnixMs};

use crate::approval::{self, NewApproval};
use crate::dispute::{Dispute, DisputeMove};
use crate::event::NewEvent;
use crate::payment::NewPayment;
use crate::publication::{self, NewPublication};
use crate::{Statement, agent, availability, budget};

/// One side effect in the database. Each is conditional; when one does not hold, nothing of its batch is done.
#[derive(Debug, Clone)]
pub enum Side {
    /// Holds `amount` if settled and held stay within `limit`, else `Conflict::Budget`.
    ReserveBudget {
        window: Window,
        amount: Msat,
        limit: Msat,
    },
    /// Fewer than `most` payments were begun since `since`, else `Conflict::Budget`.
    PaymentsWithin {
        since: UnixMs,
        most: u32,
    },
    /// Gives a hold back, else `Conflict::BudgetHold`.
    ReleaseBudget {
        window: Window,
        amount: Msat,
    },
    /// Turns a hold into spending. `spent` may differ from `held` (the fee was lower, or higher than foreseen).
    SettleBudget {
        window: Window,
        held: Msat,
        spent: Msat,
    },
    /// A new intent, state `reserved`. `Conflict::PaymentStep` or `Conflict::PaymentHash` when there is one.
    InsertPayment(NewPayment),
    /// One arrow of the payment machine. `Conflict::PaymentState` when it does not stand at `from`.
    Payment(PaymentMove),
    AppendEvent(NewEvent),
    /// A signed event that relays must get; the same event again changes nothing.
    PutPublication(NewPublication),
    /// What a relay round achieved.
    PublicationResult {
        event_id: Hash32,
        done: bool,
        relays: String,
        next_attempt_at: Option<UnixMs>,
    },
    /// An action that begins to wait for its owner; the same again changes nothing.
    PutApproval(NewApproval),
    /// What the owner was told that the agent needs them for; none: that is over.
    Noticed {
        code: Option<String>,
    },
    /// Spending that no hold stood for.
    CountSpent {
        window: Window,
        amount: Msat,
    },
    /// After a restore: wallet and books were compared, and this is what the wallet has.
    Reconciled {
        balance: Msat,
    },
    /// What became of it.
    Approval {
        id: ApprovalId,
        state: State,
    },
    /// A job that was paid and not served, or may have been; the same again changes nothing.
    OpenDispute(Box<Dispute>),
    /// What became of it. `Conflict::DisputeState` when it does not stand at `from`.
    Dispute(Box<DisputeMove>),
    /// One more fact about a provider.
    Provider {
        provider: Npub,
        fact: crate::provider::Fact,
    },
    /// Due ticks, and those of them that were on time, added to the agent's counters of that month.
    Promise {
        month: Month,
        kept: Availability,
        /// Of the month before: due, and never met.
        missed_before: u64,
    },
}

/// A compare-and-set of a payment.
#[derive(Debug, Clone)]
pub struct PaymentMove {
    /// By its hash, unique per agent's wallet.
    pub hash: Hash32,
    pub from: PaymentState,
    pub to: PaymentState,
    pub at: UnixMs,
    pub fee: Option<Msat>,
    /// Proof of payment, sealed under the agent's data key.
    pub preimage: Option<Vec<u8>>,
    pub note: Option<String>,
}

impl Side {
    /// # Errors
    /// [`crate::Conflict::PaymentArrow`] for a move that the machine does not have.
    pub(crate) fn statements(
        &self,
        npub: Npub,
        generation: Generation,
        tick: Option<TickId>,
        now: UnixMs,
    ) -> Result<Vec<Statement>, crate::Conflict> {
        Ok(match self {
            Self::ReserveBudget { window, amount, limit } => vec![budget::reserve(npub, window, *amount, *limit)],
            Self::PaymentsWithin { since, most } => crate::payment::fewer_than(npub, *since, *most),
            Self::ReleaseBudget { window, amount } => vec![budget::settle(npub, window, *amount, Msat::ZERO)],
            Self::SettleBudget { window, held, spent } => vec![budget::settle(npub, window, *held, *spent)],
            Self::Noticed { code } => vec![agent::noticed_statement(npub, code.clone(), now)],
            Self::CountSpent { window, amount } => vec![budget::count(npub, window, *amount)],
            Self::Reconciled { balance } => vec![agent::reconciled_statement(npub, *balance, now)],
            Self::InsertPayment(payment) => payment.statements(npub, tick, now),
            Self::Payment(change) => change.statements(npub, generation)?,
            Self::AppendEvent(event) => crate::event::append_statements(npub, event).into(),
            Self::PutPublication(publication) => vec![publication.statement(npub, tick, now)],
            Self::PublicationResult { event_id, done, relays, next_attempt_at } => {
                vec![publication::result_statement(npub, *event_id, *done, relays.clone(), *next_attempt_at)]
            }
            Self::PutApproval(approval) => vec![approval.statement(npub)],
            Self::Approval { id, state } => vec![approval::change_statement(npub, *id, *state, now)],
            Self::OpenDispute(dispute) => vec![dispute.statement(npub)],
            Self::Dispute(change) => vec![change.statement(npub, now)?],
            Self::Provider { provider, fact } => vec![fact.statement(npub, *provider, now)],
            Self::Promise { month, kept, missed_before } => {
                availability::statements(npub, *month, *kept, *missed_before)
            }
        })
    }
}
