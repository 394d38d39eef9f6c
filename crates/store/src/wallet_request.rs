//! Requests of the control plane to an agent's worker: to its wallet, which only a worker can open, and to its lock.

use nexus_core::{Generation, Npub, UnixMs};

use crate::batch::{Lock, params, words};
use crate::draft::{Draft, rev};
use crate::invoice_watch::InvoiceWatch;
use crate::row::Columns;
use crate::{Audit, Conflict, Fence, Result, Statement, Store};

/// Waiting requests of one agent at most.
pub const MAX_WAITING: i64 = 16;
/// Above so many, whoever is not the owner has to wait.
pub const MAX_PUBLIC: i64 = 8;
/// The kind of a request that anybody may cause.
pub const PUBLIC_INVOICE: &str = "public_invoice";

macro_rules! request_columns {
    () => {
        "SELECT request_id, npub, kind, body, created_at, expires_at, outcome, answer FROM wallet_request"
    };
}

/// A request. `body` and `answer` are JSON; a BOLT11 is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletRequest {
    pub id: String,
    pub npub: Npub,
    /// `invoice`, `public_invoice`, `balance`; `unlock_offer`, `unlock`.
    pub kind: String,
    pub body: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done(String),
    /// A code or words for the caller.
    Failed(String),
}

/// Stores a request and raises the agent's revision, so that its worker sees it at the next beat.
///
/// # Errors
/// `Conflict::TooMany` above [`MAX_WAITING`]; `Conflict::NoAgent`.
pub async fn put(store: &Store, request: WalletRequest, audit: Option<Audit>) -> Result<()> {
    let most = if request.kind == PUBLIC_INVOICE { MAX_PUBLIC } else { MAX_WAITING };
    let mut draft = Draft::new("ask an agent's wallet");
    draft.push(
        Statement::read("SELECT 1 FROM agent WHERE npub = ?1", params![request.npub])
            .lock(Lock::Update)
            .one_or_conflict(Conflict::NoAgent),
    );
    draft.push(
        Statement::write(
            "INSERT INTO wallet_request (request_id, npub, kind, body, created_at, expires_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT COUNT(*) FROM wallet_request
                WHERE npub = ?2 AND outcome IS NULL AND expires_at > ?5) < ?7
             ON CONFLICT DO NOTHING",
            params![request.id, request.npub, request.kind, request.body, request.created_at, request.expires_at, most],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    draft.next_rev();
    draft.push(Statement::write(
        concat!("UPDATE agent SET desired_rev = ", rev!(), " WHERE npub = ?1"),
        params![request.npub],
    ));
    if let Some(audit) = audit {
        draft.push(audit.statement());
    }
    draft.write(store).await.map(|_| ())
}

/// Unanswered requests of an agent that have not expired.
pub async fn waiting(store: &Store, npub: Npub, now: UnixMs) -> Result<Vec<WalletRequest>> {
    let sql = concat!(
        request_columns!(),
        " WHERE npub = ?1 AND outcome IS NULL AND expires_at > ?2 ORDER BY created_at LIMIT ?3"
    );
    store.rows("read wallet requests", sql, params![npub, now, MAX_WAITING], request_row).await
}

/// Answers under the fence, and begins the watch of an invoice that was made; what was asked is not kept. `Conflict::NotFound` when it was answered or deleted before.
pub async fn answer(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    id: &str,
    answer: Answer,
    invoice: Option<InvoiceWatch>,
) -> Result<()> {
    let (outcome, answer) = match answer {
        Answer::Done(answer) => ("done", answer),
        Answer::Failed(why) => ("failed", words(why)),
    };
    let mut draft = Draft::hosted("answer a wallet request", fence, npub, generation);
    draft.push(
        Statement::write(
            "UPDATE wallet_request SET outcome = ?3, answer = ?4, body = '{}'
             WHERE request_id = ?2 AND npub = ?1 AND outcome IS NULL",
            params![npub, id.to_owned(), outcome, answer],
        )
        .one_or_conflict(Conflict::NotFound),
    );
    if let Some(invoice) = invoice {
        draft.push(invoice.statement(npub));
    }
    draft.write(store).await.map(|_| ())
}

pub async fn get(store: &Store, npub: Npub, id: &str) -> Result<Option<WalletRequest>> {
    let sql = concat!(request_columns!(), " WHERE npub = ?1 AND request_id = ?2");
    store.row("read a wallet request", sql, params![npub, id.to_owned()], request_row).await
}

/// Forgets what expired, at most `limit`. Returns how many.
pub async fn purge(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM wallet_request WHERE request_id IN
        (SELECT request_id FROM wallet_request WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    store.change("purge wallet requests", Statement::write(sql, params![now, limit])).await
}

fn request_row(row: &mut Columns) -> Result<WalletRequest> {
    let (id, npub, kind, body) = (row.get()?, row.get()?, row.get()?, row.get()?);
    let (created_at, expires_at) = (row.get()?, row.get()?);
    let done: Option<bool> = row.parse_opt(|outcome| match outcome {
        "done" => Some(true),
        "failed" => Some(false),
        _ => None,
    })?;
    let answer = match done {
        None => None,
        Some(true) => Some(Answer::Done(row.get()?)),
        Some(false) => Some(Answer::Failed(row.get()?)),
    };
    Ok(WalletRequest { id, npub, kind, body, created_at, expires_at, answer })
}
