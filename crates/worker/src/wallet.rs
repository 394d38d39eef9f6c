//! The agent's wallet: which driver is behind it, and what control asks of it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use nexus_core::policy::WalletChoice;
use nexus_core::state::Wallet;
use nexus_core::{Hash32, Msat, Npub};
use nexus_lightning::devnet::{AccountKey, Devnet};
use nexus_lightning::lnd::Books;
use nexus_lightning::{Description, InvoiceRequest, Network, WalletDriver, WalletError, WalletStorage, commitment};
use nexus_store::agent::Agent;
use nexus_store::invoice_watch::{self, InvoiceWatch};
use nexus_store::wallet_request::{self, Answer, PUBLIC_INVOICE, WalletRequest};
use nexus_vault::WalletSeed;
use serde::Deserialize;

use crate::error::TurnError;
use crate::host::Host;
use crate::ledger::Pen;
use crate::nwc;
use crate::unlock::{Opened, save_state};
use crate::zap;

/// How long a wallet backend may take for anything but a payment.
pub(crate) const WALLET_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection to a wallet elsewhere, sealed to the agent.
const CONNECT: &str = "connect";
/// Less than whoever asks waits for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(9);

/// A wallet that this worker has no driver for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WalletUnavailable(pub String);

/// What an agent's wallet is opened with.
#[derive(Clone)]
pub struct Purse {
    pub npub: Npub,
    pub choice: WalletChoice,
    pub seed: WalletSeed,
    /// What the driver keeps, closed under the agent's data key.
    pub storage: Arc<dyn WalletStorage>,
    /// Whose records these are, `<installation>:<epoch>`: another than the one that wrote them means that they were moved, or
    /// put back from a backup, and may be older than the wallet.
    pub records_of: String,
    /// The agent's part of the books of the operator's node.
    pub books: Arc<dyn Books>,
}

/// Opens agents' wallets.
pub trait Wallets: Send + Sync {
    fn open(&self, purse: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>>;

    /// The Lightning network that invoices must be for.
    fn network(&self) -> Network;

    /// Which network or mint a wallet of this choice is on, `<kind>:<what>`, where one could be taken for another.
    fn home(&self, _: &WalletChoice) -> Option<String> {
        None
    }
}

/// Wallets on the development network, keyed by a key from the wallet seed.
pub struct DevWallets(pub Devnet);

impl Wallets for DevWallets {
    fn open(&self, purse: Purse) -> BoxFuture<'_, Result<Arc<dyn WalletDriver>, WalletUnavailable>> {
        let opened: Result<Arc<dyn WalletDriver>, _> = match purse.choice {
            WalletChoice::Dev {} => {
                let key = AccountKey::from_wallet_seed(purse.seed.expose_seed().expose());
                Ok(Arc::new(self.0.wallet(key)))
            }
            WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {} | WalletChoice::Lnd {} => {
                Err(WalletUnavailable("this host has only development wallets: use `wallet: dev` in the policy".into()))
            }
        };
        Box::pin(async { opened })
    }

    fn network(&self) -> Network {
        Network::Regtest
    }

    fn home(&self, choice: &WalletChoice) -> Option<String> {
        match choice {
            WalletChoice::Dev {} => self.0.node().map(|node| format!("devnet:{node}")),
            WalletChoice::Cashu { .. } | WalletChoice::Nwc { .. } | WalletChoice::Spark {} | WalletChoice::Lnd {} => {
                None
            }
        }
    }
}

/// Puts the wallet that the policy names in force; false while payments of the one before are in flight.
pub(crate) async fn take(
    pen: &Pen<'_>,
    agent: &mut Agent,
    opened: &mut Opened,
    resolved: bool,
) -> Result<bool, TurnError> {
    let Some(named) = opened.policy().map(|policy| policy.wallet.clone()) else { return Ok(true) };
    match opened.state.take_wallet(&named, resolved) {
        Wallet::Same => Ok(true),
        Wallet::Waits => Ok(false),
        Wallet::Changed => {
            // Before the first use: what follows is about this wallet, whatever happens to this turn.
            save_state(pen.host, pen.generation, opened).await?;
            agent.balance = None;
            Ok(true)
        }
    }
}

/// The wallet in force.
pub(crate) async fn open(host: &Host, opened: &Opened) -> Result<Arc<dyn WalletDriver>, TurnError> {
    let driver = host.wallets.open(purse(host, opened, opened.wallet()).await?).await;
    driver.map_err(|error| TurnError::parked("wallet_unavailable", error.to_string(), 60_000))
}

/// What a wallet of the agent's is opened with.
pub(crate) async fn purse(host: &Host, opened: &Opened, choice: WalletChoice) -> Result<Purse, TurnError> {
    Ok(Purse {
        npub: opened.npub,
        choice,
        seed: opened.wallet_seed.clone(),
        storage: opened.wallet_storage.clone(),
        records_of: host.installation().await?,
        books: opened.wallet_books.clone(),
    })
}

/// Whether the wallet that would be opened here is the agent's own. On another network the same key has another account: an
/// agent that moved to a host that can't reach its money must not take that for having none.
pub(crate) fn at_home(host: &Host, opened: &mut Opened) -> Result<(), TurnError> {
    let Some(here) = host.wallets.home(&opened.wallet()) else { return Ok(()) };
    if opened.state.take_wallet_home(&here) {
        return Ok(());
    }
    let short = |home: &str| home.chars().take(19).collect::<String>();
    let known = opened.state.wallet_home.as_deref().unwrap_or_default();
    let text = format!(
        "its wallet is unreachable from here: it is on {}…, this host is on {}…; start this host on that network, or move the agent to one that is",
        short(known),
        short(&here)
    );
    Err(TurnError::parked(UNREACHABLE, text, UNREACHABLE_RETRY_MS))
}

/// What can be spent now; an error in words when the backend does not say.
pub(crate) async fn balance(wallet: &dyn WalletDriver) -> Result<Msat, String> {
    match tokio::time::timeout(WALLET_TIMEOUT, wallet.balance()).await {
        Ok(Ok(balance)) => Ok(balance),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the wallet backend did not answer in time".into()),
    }
}

/// The reason of an agent whose policy names another wallet while payments of the one before are in flight.
pub(crate) const CHANGING: &str = "wallet_changing";
/// The reason of an agent whose wallet can't be reached.
pub(crate) const UNREACHABLE: &str = "wallet_unreachable";
const UNREACHABLE_RETRY_MS: u64 = 60_000;

/// Invoices of an agent that may wait to be paid while strangers ask for more.
const MAX_PUBLIC_OPEN: usize = 32;
/// How long after its expiry an invoice is still looked up: a payment may have been on its way.
const LATE_PAYMENT_MS: i64 = 60_000;

#[derive(Deserialize)]
struct InvoiceBody {
    amount_msat: Msat,
    #[serde(default)]
    memo: String,
    #[serde(default)]
    expiry_secs: Option<u32>,
    /// Instead of a memo.
    #[serde(default)]
    description_hash: Option<Hash32>,
    /// The request of a zap (9734), as it came: the invoice commits to it, and its receipt is made of it.
    #[serde(default)]
    zap: Option<String>,
}

/// Answers what control asked; returns whether anything was answered.
pub(crate) async fn answer(
    host: &Host,
    agent: &Agent,
    opened: &Opened,
    requests: Vec<WalletRequest>,
) -> Result<bool, TurnError> {
    let answered = !requests.is_empty();
    for request in requests {
        // Before the wallet can be opened at all.
        if request.kind == CONNECT {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, nwc::connect(host, opened, &request.body)).await;
            let answer = match connected {
                Ok(Ok(body)) => Answer::Done(body),
                Ok(Err(why)) => Answer::Failed(why),
                Err(_) => Answer::Failed("the wallet service did not answer in time".into()),
            };
            tell(host, agent, &request.id, answer, None).await?;
            continue;
        }
        let room = request.kind != PUBLIC_INVOICE || has_room(host, agent).await?;
        let (answer, invoice) = match open(host, opened).await {
            Ok(_) if !room => {
                (Answer::Failed("too many invoices wait to be paid: try again in some minutes".into()), None)
            }
            Ok(wallet) => one(host, &*wallet, &request).await,
            Err(error) => (Answer::Failed(error.to_string()), None),
        };
        tell(host, agent, &request.id, answer, invoice).await?;
    }
    Ok(answered)
}

/// Whether anybody may have an invoice: most of those that are looked up are the owner's to make.
async fn has_room(host: &Host, agent: &Agent) -> Result<bool, TurnError> {
    let open = invoice_watch::open(&host.store, agent.npub, host.now()).await?;
    Ok(open.len() < MAX_PUBLIC_OPEN)
}

/// Tells everyone who asked why there is no wallet now.
pub(crate) async fn refuse(
    host: &Host,
    agent: &Agent,
    requests: Vec<WalletRequest>,
    why: &str,
) -> Result<(), TurnError> {
    for request in requests {
        say(host, agent, &request.id, Answer::Failed(why.to_owned())).await?;
    }
    Ok(())
}

/// Stores one answer, and tells whoever waits for it to read the database.
pub(crate) async fn say(host: &Host, agent: &Agent, id: &str, answer: Answer) -> Result<(), TurnError> {
    tell(host, agent, id, answer, None).await
}

async fn tell(
    host: &Host,
    agent: &Agent,
    id: &str,
    answer: Answer,
    invoice: Option<InvoiceWatch>,
) -> Result<(), TurnError> {
    let fence = host.live_fence()?;
    match wallet_request::answer(&host.store, fence, agent.npub, agent.generation, id, answer, invoice).await {
        Ok(()) => {}
        Err(error) if error.conflict().is_some() => {}
        Err(error) => return Err(error.into()),
    }
    host.bus.publish(nexus_bus::Wake::Event { npub: agent.npub, seq: agent.event_seq });
    Ok(())
}

/// The answer to one request, and the invoice to look up from now on if one was made.
async fn one(host: &Host, wallet: &dyn WalletDriver, request: &WalletRequest) -> (Answer, Option<InvoiceWatch>) {
    match request.kind.as_str() {
        "invoice" | PUBLIC_INVOICE => {
            match tokio::time::timeout(WALLET_TIMEOUT, invoice(host, wallet, &request.body)).await {
                Ok(Ok((body, watch))) => (Answer::Done(body), Some(watch)),
                Ok(Err(error)) => (Answer::Failed(error), None),
                Err(_) => (Answer::Failed("the wallet backend did not answer in time".into()), None),
            }
        }
        "balance" => match balance(wallet).await {
            Ok(balance) => (Answer::Done(serde_json::json!({ "balance_msat": balance }).to_string()), None),
            Err(error) => (Answer::Failed(error), None),
        },
        other => {
            let shown: String = other.chars().take(32).collect();
            (Answer::Failed(format!("unknown wallet request: {shown}")), None)
        }
    }
}

async fn invoice(host: &Host, wallet: &dyn WalletDriver, body: &str) -> Result<(String, InvoiceWatch), String> {
    let body: InvoiceBody = serde_json::from_str(body).map_err(|error| format!("not an invoice request: {error}"))?;
    let mut request = InvoiceRequest::new(body.amount_msat, body.memo);
    let committed = body.zap.as_ref().map(|zap| Hash32::sha256(zap.as_bytes())).or(body.description_hash);
    if let Some(hash) = committed {
        request.description = Description::Hash(hash);
    }
    if let Some(secs) = body.expiry_secs {
        request.expiry_s = secs;
    }
    let made = match (wallet.create_invoice(request.clone()).await, committed) {
        // Ecash mints and some wallets know only memos.
        (Err(WalletError::Unsupported { .. }), Some(hash)) => {
            let description = Description::Memo(commitment(hash));
            wallet.create_invoice(InvoiceRequest { description, ..request }).await
        }
        (made, _) => made,
    };
    let invoice = made.map_err(|error| error.to_string())?;
    let (made_at, until) = (host.now(), invoice.expires_at.plus_ms(LATE_PAYMENT_MS));
    let answer = serde_json::json!({
        "bolt11": invoice.bolt11,
        "payment_hash": invoice.hash,
        "amount_msat": body.amount_msat,
        "expires_at": invoice.expires_at,
    });
    let zap = body.zap.map(|zap| zap::waiting(zap, &invoice.bolt11)).transpose()?;
    Ok((answer.to_string(), InvoiceWatch { hash: invoice.hash, made_at, until, zap }))
}
