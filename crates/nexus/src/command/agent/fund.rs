//! Money in, and how much there is.

use std::time::Duration;

use nexus_client::{Context, Error};
use nexus_core::payment::{FailureClass, Outcome};
use nexus_core::{Hash32, Msat, Npub};
use nexus_lightning::devnet::{self, AccountKey, Wallet};
use nexus_lightning::{Dispatch, Driver, Pay, PayRequest, WalletError, decode_bolt11};
use qrcode::QrCode;
use qrcode::render::unicode;
use serde_json::{Value, json};

use crate::cli::FundArgs;
use crate::output::{group, relative};
use crate::prompt;
use crate::role;
use crate::session::Session;

/// A payment is given up after this long; the invoice may still be paid elsewhere.
const PAY_TIMEOUT_MS: u64 = 30_000;
/// How long the balance is waited for.
const SEEN_TIMEOUT_MS: u64 = 15_000;
/// How long somebody else's payment is waited for.
const WAIT_TIMEOUT_MS: u64 = 15 * 60_000;
const LOOK: Duration = Duration::from_millis(250);

pub async fn fund(session: &Session, args: &FundArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let before = balance_sats(session, &npub).await?;
    let body = json!({ "amount_sats": args.sats, "memo": "nexus agent fund" });
    let invoice = session.api.post(&format!("/v1/agents/{npub}/invoices"), &body).await?;
    let bolt11 = checked(&invoice, args.sats)?;
    if args.invoice_only {
        session.output.either(&invoice, || bolt11.clone());
        return Ok(());
    }
    let fee = match account_for(&session.context, &bolt11).await? {
        Some(wallet) => Some(pay(session, &wallet, &bolt11).await?),
        None => {
            show(session, &bolt11, args.sats);
            None
        }
    };
    let patience = if fee.is_some() { SEEN_TIMEOUT_MS } else { WAIT_TIMEOUT_MS };
    let after = wait(session, &npub, before, args.sats, patience).await?;
    if after.is_none() && fee.is_none() {
        let text = format!(
            "nobody has paid yet\n  next: the invoice stays valid for a while; `nexus agent balance {}`",
            args.agent
        );
        return Err(Error::Failed(text).into());
    }
    let document = json!({
        "npub": npub, "paid_sats": args.sats, "fee_msat": fee.map(Msat::as_u64), "balance_sats": after, "bolt11": bolt11,
    });
    session.output.either(&document, || match after {
        Some(sats) => {
            format!("{} has {} sats now.\nNext: nexus agent events {} --follow", args.agent, group(sats), args.agent)
        }
        None => format!("Paid; the host has not seen it yet.\nNext: nexus agent balance {}", args.agent),
    });
    Ok(())
}

/// The invoice, which must be for what was asked: a host could ask for more.
pub(in crate::command) fn checked(invoice: &Value, sats: u64) -> Result<String, Error> {
    let odd = |why: String| Error::Protocol { attempted: "reading the invoice", why };
    let bolt11 = invoice["bolt11"].as_str().ok_or_else(|| odd("the answer holds none".to_owned()))?;
    let decoded = decode_bolt11(bolt11).map_err(|error| odd(error.to_string()))?;
    if decoded.amount == Some(Msat::sats(sats)) {
        Ok(bolt11.to_owned())
    } else {
        Err(odd(format!("it is not for {sats} sats")))
    }
}

/// This context's own account on the development network; none where there is no such network.
async fn account(context: &Context) -> anyhow::Result<Option<Wallet>> {
    let (Some(place), Some(key)) = (&context.devnet, &context.devnet_key) else { return Ok(None) };
    let mut secret = [0; 32];
    let key = hex::decode_to_slice(key.as_str(), &mut secret).ok().and_then(|()| AccountKey::from_secret(secret));
    let key = key.ok_or_else(|| Error::Failed(format!("the development account in the context `{}` is damaged\n  next: remove `devnet_key` from it; `nexus dev` makes another", context.name)))?;
    let network = devnet::open(place.parse()?, role::devnet::parts())
        .await
        .map_err(|error| Error::Unreachable { url: place.clone(), why: error.to_string() })?;
    Ok(Some(network.wallet(key)))
}

/// The same, if this invoice is of that network: another one's can only be shown.
pub(in crate::command) async fn account_for(context: &Context, bolt11: &str) -> anyhow::Result<Option<Wallet>> {
    let Some(wallet) = account(context).await? else { return Ok(None) };
    let payee = decode_bolt11(bolt11).map_err(|error| Error::Failed(error.to_string()))?.payee;
    Ok((wallet.node().await.map_err(network)? == payee).then_some(wallet))
}

/// Pays, and returns the fee. The first use takes the network's gift of sats.
pub(in crate::command) async fn pay(session: &Session, wallet: &Wallet, bolt11: &str) -> Result<Msat, Error> {
    let hash = decode_bolt11(bolt11).map_err(|error| Error::Failed(error.to_string()))?.hash;
    if wallet.balance().await.map_err(network)? == Msat::ZERO {
        match wallet.faucet().await {
            // An account gets it once; one that is empty again stays empty.
            Ok(_) | Err(WalletError::Refused(_)) => {}
            Err(error) => return Err(network(error)),
        }
    }
    let quote = wallet.quote(PayRequest { bolt11: bolt11.to_owned(), amount: None }).await.map_err(network)?;
    let send = Dispatch {
        payment_id: payment_id(hash),
        attempt: 1,
        key: payment_id(hash),
        bolt11: bolt11.to_owned(),
        amount: None,
        max_fee: quote.max_fee,
        deadline: session.clock.mono().plus_ms(PAY_TIMEOUT_MS),
        handle: quote.handle,
    };
    let deadline = session.clock.mono().plus_ms(PAY_TIMEOUT_MS);
    let mut outcome = wallet.dispatch(send.clone()).await;
    loop {
        match outcome {
            Outcome::Settled { fee, .. } => return Ok(fee),
            Outcome::Failed { class: FailureClass::NoFunds } => {
                return Err(Error::Refused("the development account of this context is empty\n  next: remove `devnet_key` from the context; the next `nexus dev` makes a new account".to_owned()));
            }
            Outcome::Failed { class } => {
                return Err(Error::Failed(format!(
                    "the payment failed for certain ({class:?})\n  next: run the command again"
                )));
            }
            Outcome::Pending | Outcome::NotFound | Outcome::Unknown { .. } => {}
        }
        if session.clock.mono() >= deadline {
            return Err(Error::Unreachable {
                url: "the development network".to_owned(),
                why: "it does not say what became of the payment".to_owned(),
            });
        }
        tokio::time::sleep(LOOK).await;
        outcome = wallet.resolve(send.resolve(hash)).await;
    }
}

fn payment_id(hash: Hash32) -> String {
    hash.to_string()
}

fn network(error: WalletError) -> Error {
    match error {
        WalletError::Unreachable(why) => Error::Unreachable { url: "the development network".to_owned(), why },
        other => Error::Failed(format!("development network: {other}\n  next: `nexus context show` says where it is")),
    }
}

/// Invoice and QR code, for a wallet elsewhere.
pub(in crate::command) fn show(session: &Session, bolt11: &str, sats: u64) {
    if session.output.json {
        return;
    }
    if let Ok(code) = QrCode::new(bolt11.to_uppercase().as_bytes()) {
        let code = code.render::<unicode::Dense1x2>().quiet_zone(true).build();
        // Dark on light whatever the terminal's own colours are: many scanners want it so.
        let (before, after) = if session.output.colour { ("\u{1b}[30;107m", "\u{1b}[0m") } else { ("", "") };
        code.lines().for_each(|line| session.output.line(format!("{before}{line}{after}")));
    }
    session.output.line(format!("\n{bolt11}\n"));
    prompt::say(format!(
        "Pay {} sats with any Lightning wallet; waiting (Ctrl-C leaves the invoice valid).",
        group(sats)
    ));
}

/// Waits until the host sees the money; none if it does not in time.
async fn wait(
    session: &Session,
    npub: &Npub,
    before: Option<u64>,
    sats: u64,
    patience_ms: u64,
) -> Result<Option<u64>, Error> {
    let deadline = session.clock.mono().plus_ms(patience_ms);
    while session.clock.mono() < deadline {
        let now = balance_sats(session, npub).await?;
        // An agent that runs may have spent of it meanwhile.
        if now.is_some_and(|now| now != before.unwrap_or(0) && now + sats / 2 >= before.unwrap_or(0) + sats) {
            return Ok(now);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

async fn balance_sats(session: &Session, npub: &Npub) -> Result<Option<u64>, Error> {
    Ok(session.api.get(&format!("/v1/agents/{npub}")).await?["balance_sats"].as_u64())
}

pub async fn balance(session: &Session, agent: &str) -> anyhow::Result<()> {
    let npub = session.agent(agent).await?;
    let status = session.api.get(&format!("/v1/agents/{npub}")).await?;
    let document = json!({
        "npub": npub,
        "balance_sats": status["balance_sats"],
        "seen_at_ms": status["balance_at_ms"],
        "runway_days": status["runway_days"],
        "lifecycle": status["lifecycle"],
    });
    let now = session.clock.now().0;
    session.output.either(&document, || match (status["balance_sats"].as_u64(), status["balance_at_ms"].as_i64()) {
        (Some(sats), Some(seen)) => format!("{} sats, seen {}", group(sats), relative(seen, now)),
        (Some(sats), None) => format!("{} sats", group(sats)),
        (None, _) => format!("not seen yet\nNext: nexus agent fund {agent}"),
    });
    Ok(())
}
