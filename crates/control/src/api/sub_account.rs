//! Invoices of agents whose wallet is an account at the operator's node: control makes them itself, at the node.

use std::time::Duration;

use nexus_core::policy::{Policy, WalletChoice};
use nexus_core::{Hash32, Msat, Npub, UnixMs};
use nexus_lightning::{Description, InvoiceRequest, Preimage};
use nexus_store::agent::Sealed;
use nexus_store::invoice_watch::InvoiceWatch;
use nexus_store::sub_account::{self, Caps, NewInvoice};
use nexus_store::{Audit, Conflict, agent};
use nostr::event::Event;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Answer;
use crate::app::Shared;
use crate::config::Accounts;
use crate::problem::{Code, Problem};

/// The node's time to make an invoice.
const PATIENCE: Duration = Duration::from_secs(10);
/// Open invoices of one agent, and above how many only its owner gets another.
const MAX_OPEN: u32 = 64;
const MAX_PUBLIC_OPEN: u32 = 32;
/// How long after its expiry the agent's worker still looks for its money; what comes later is told anew.
const LATE_PAYMENT_MS: i64 = 60_000;

/// The wallet that the agent's policy names.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WalletView {
    /// `dev`, `cashu`, `nwc`, `spark` or `lnd`.
    pub backend: &'static str,
    /// Who holds the money, in words.
    pub custody: &'static str,
    /// Of an account at the operator's node: above so many sats, open invoices included, no more is taken.
    pub cap_sats: Option<u64>,
}

/// What a policy's wallet is called, and who holds its money.
pub fn view(app: &Shared, sealed: &Sealed) -> Option<WalletView> {
    let choice = choice(sealed)?;
    let accounts = app.config.accounts.as_ref().filter(|_| choice == WalletChoice::Lnd {});
    let cap_sats = accounts.map(|accounts| accounts.cap.whole_sats());
    Some(WalletView { backend: choice.as_str(), custody: choice.custody(), cap_sats })
}

fn choice(sealed: &Sealed) -> Option<WalletChoice> {
    let event: Event = serde_json::from_str(&sealed.policy.as_ref()?.event).ok()?;
    Policy::parse(&event.content).ok().map(|policy| policy.wallet)
}

/// The node at which the agent has its account; none if its wallet is another.
pub async fn node_of(app: &Shared, npub: Npub) -> Answer<Option<&Accounts>> {
    let sealed = agent::sealed(&app.store, npub).await?.unwrap_or_default();
    match choice(&sealed) {
        Some(WalletChoice::Lnd {}) => {
            let none = || {
                let detail =
                    "its policy says `wallet: lnd`, and this host's operator keeps no accounts: name another wallet";
                Problem::with(Code::WalletUnavailable, detail)
            };
            app.config.accounts.as_ref().map(Some).ok_or_else(none)
        }
        Some(WalletChoice::Dev {} | WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {})
        | None => Ok(None),
    }
}

/// What an invoice is asked for.
pub struct Asked {
    pub amount: Msat,
    pub description: Description,
    pub expiry_s: u32,
    /// The signed request (9734) of a zap, whose hash is the description's.
    pub zap: Option<String>,
    /// Anybody asks: the last quarter of the caps is the owner's.
    pub public: bool,
}

/// An invoice that the node made.
pub struct Made {
    pub bolt11: String,
    pub hash: Hash32,
    pub expires_at: UnixMs,
}

fn caps(accounts: &Accounts, public: bool) -> Caps {
    if !public {
        return Caps { agent: accounts.cap, total: accounts.total_cap, open: MAX_OPEN };
    }
    let part = |cap: Msat| cap.saturating_sub(Msat::new(cap.as_u64() / 4));
    Caps { agent: part(accounts.cap), total: part(accounts.total_cap), open: MAX_PUBLIC_OPEN }
}

/// Stored before the node is asked, with a preimage of our own: whatever the node was asked for is known here. An invoice whose
/// making was cut off is never given out, and nobody can pay it.
pub async fn make(app: &Shared, accounts: &Accounts, npub: Npub, asked: Asked, audit: Option<Audit>) -> Answer<Made> {
    let Asked { amount, description, expiry_s, zap, public } = asked;
    let bytes = app.random::<32>();
    let preimage = Preimage::from_bytes(bytes);
    let hash = preimage.hash();
    let no_key = || Problem::with(Code::Unavailable, "this host has no operator's key");
    let key = app.config.operator_key.as_deref().ok_or_else(no_key)?;
    let sealed = key.seal(&format!("agent-invoice:{hash}"), &bytes, &*app.entropy);
    let now = app.now();
    let new = NewInvoice {
        node: accounts.identity.clone(),
        hash,
        npub,
        amount,
        sealed_preimage: sealed.map_err(|error| Problem::internal("invoice", &error))?,
        created_at: now,
        expires_at: now.plus_ms(i64::from(expiry_s) * 1_000),
    };
    let stored = sub_account::put_invoice(&app.store, new, caps(accounts, public), audit).await;
    stored.map_err(|error| refused(accounts, error))?;
    let unreachable = |why: String| {
        tracing::warn!(why, "the operator's node made no invoice for an agent");
        Problem::with(Code::WalletUnavailable, "the operator's node can't be reached: try again").retry_after_secs(10)
    };
    let request = InvoiceRequest { preimage: Some(preimage), amount, description, expiry_s };
    let made = tokio::time::timeout(PATIENCE, accounts.node.create_invoice(request)).await;
    let made = made.map_err(|_| unreachable("no answer in time".to_owned()))?;
    let made = made.map_err(|error| unreachable(error.to_string()))?;
    if made.hash != hash {
        return Err(unreachable("its invoice has another hash".to_owned()));
    }
    // As the agent's worker reads it: the receipt is made of it.
    let zap = zap.map(|request| json!({ "request": request, "bolt11": made.bolt11 }).to_string());
    let watch = InvoiceWatch { hash, made_at: now, until: made.expires_at.plus_ms(LATE_PAYMENT_MS), zap };
    sub_account::made(&app.store, npub, &made.bolt11, made.expires_at, watch).await?;
    app.wake_agent(npub);
    Ok(Made { bolt11: made.bolt11, hash, expires_at: made.expires_at })
}

fn refused(accounts: &Accounts, error: nexus_store::StoreError) -> Problem {
    let detail = match error.conflict() {
        Some(Conflict::SubCap) => format!(
            "its account at the operator's node may hold {} sats, open invoices included: withdraw some, or ask for less",
            accounts.cap.whole_sats()
        ),
        Some(Conflict::SubTotal) => {
            "the operator takes no more money for agents now: ask for less, or use another wallet".to_owned()
        }
        Some(Conflict::TooMany) => "too many invoices wait to be paid: try again in some minutes".to_owned(),
        _ => return error.into(),
    };
    Problem::with(Code::QuotaExceeded, detail).retry_after_secs(600)
}
