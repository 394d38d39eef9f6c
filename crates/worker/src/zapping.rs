//! Zaps that the agent sends (NIP-57): whom they reach, the one request that is signed, the one invoice that is asked for. They
//! are paid as everything is.

use std::time::Duration;

use nexus_core::action::Action;
use nexus_core::payee::LightningAddress;
use nexus_core::payment::PaymentState;
use nexus_core::policy::{Verdict, judge_zap_cost};
use nexus_core::tick::zap::{Zap, ZapMove};
use nexus_core::tick::{Bill, Plan, Planned, Record};
use nexus_core::{Hash32, Msat, Npub};
use nexus_egress::EgressError;
use nexus_lightning::PayRequest;
use nexus_lightning::lnurl::{LnurlError, Wanted, read_invoice, read_service, service_url};
use nexus_nostr::relay_pool::Interest;
use nexus_nostr::{kinds, profile as profiles, zap as events};
use nexus_store::agent::{self, Agent};
use nexus_store::{Conflict, payment};
use nostr::event::{Event, Kind};
use nostr::filter::Filter;

use crate::approval;
use crate::decide::{Replied, refused};
use crate::error::TurnError;
use crate::filter::Taken;
use crate::host::Host;
use crate::ledger::settle_sides;
use crate::market::fee_limit;
use crate::payable::Payable;
use crate::perceive::may_be_zapped;
use crate::perform::{self, reservation};
use crate::profile::{address, relays, sign};
use crate::tick::Run;
use crate::unlock::Opened;
use crate::wallet::{self, WALLET_TIMEOUT};
use crate::web::Web;

/// How long to look for a payee's profile.
const LOOKUP: Duration = Duration::from_secs(2);
/// Relays of the payee's that get the receipt, and of ours.
const MAX_RELAYS: usize = 4;
/// Longest of the payee's that is named, in bytes: all of them travel in one URL.
const MAX_RELAY: usize = 256;

/// A zap as an action has it.
struct Wish<'a> {
    to: Npub,
    event: Option<Hash32>,
    amount: Msat,
    comment: &'a str,
}

fn wish(action: &Action) -> Option<Wish<'_>> {
    match action {
        Action::Zap { to, event, amount, comment } => Some(Wish { to: *to, event: *event, amount: *amount, comment }),
        Action::Post { .. }
        | Action::Reply { .. }
        | Action::Dm { .. }
        | Action::UpdateGoal { .. }
        | Action::AddMemory { .. }
        | Action::SummariseMemory { .. }
        | Action::None => None,
    }
}

/// What is known of a payee.
struct Found {
    address: LightningAddress,
    /// Where the payee reads.
    relays: Vec<String>,
}

/// Decides a zap that the policy does not refuse as it stands: parked if it asks, signed if it does not.
pub(crate) async fn decide(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    taken: &[Taken],
    action: &Action,
    (verdict, trusted): (Verdict, bool),
    before: &[Planned],
) -> Result<Plan, TurnError> {
    let Some(wish) = wish(action) else { return Ok(refused("not a zap")) };
    let theirs = |taken: &&Taken| may_be_zapped(taken.stimulus.trigger) && taken.stimulus.event_id == wish.event;
    let named = taken.iter().filter(|_| wish.event.is_some()).find(theirs);
    if named.is_some_and(|taken| taken.stimulus.sender != Some(wish.to)) {
        return Ok(refused("that event is not its recipient's"));
    }
    // What can't be done is not worth a question.
    let found = match find(host, agent, opened, &wish.to).await? {
        Ok(found) => found,
        Err(why) => return Ok(refused(&why)),
    };
    match verdict {
        Verdict::Refuse(why) => Ok(refused(why)),
        Verdict::Ask(why) => Ok(approval::park(opened, action, None::<&Replied>, trusted, why, before)),
        Verdict::Allow => signed(host, agent, opened, &wish, found).await,
    }
}

/// The plan of a zap that may be carried out: its request is signed here, once.
pub(crate) async fn plan(host: &Host, agent: &Agent, opened: &mut Opened, action: &Action) -> Result<Plan, TurnError> {
    let Some(wish) = wish(action) else { return Ok(refused("not a zap")) };
    match find(host, agent, opened, &wish.to).await? {
        Ok(found) => signed(host, agent, opened, &wish, found).await,
        Err(why) => Ok(refused(&why)),
    }
}

async fn signed(
    host: &Host,
    agent: &Agent,
    opened: &mut Opened,
    wish: &Wish<'_>,
    found: Found,
) -> Result<Plan, TurnError> {
    let mut to: Vec<String> = relays(host, agent).into_iter().take(MAX_RELAYS).collect();
    for relay in found.relays {
        if !to.contains(&relay) {
            to.push(relay);
        }
    }
    let build = |head| events::request(head, &wish.to, wish.event, wish.amount, wish.comment, &to);
    let request = sign(opened, &address(kinds::ZAP_REQUEST), host.now(), build).await?;
    Ok(Plan::Zap(Zap { to: wish.to, address: found.address, amount: wish.amount, request }))
}

/// Where somebody is paid: by the profile that they signed, or as an agent of this host. Then whether the policy lets them be.
async fn find(host: &Host, agent: &Agent, opened: &Opened, to: &Npub) -> Result<Result<Found, String>, TurnError> {
    let Some(policy) = opened.policy() else { return Ok(Err("policy_missing".into())) };
    let author = nexus_nostr::event::public_key(to);
    let kinds = [kinds::METADATA, kinds::RELAY_LIST].map(Kind::from_u16);
    let filters = vec![Filter::new().kinds(kinds).author(author)];
    let interest = Interest { relays: relays(host, agent), filters, auth: Vec::new() };
    let seen = host.relays.fetch(interest, LOOKUP).await.events;
    let newest = |kind: u16| -> Option<&Event> {
        let of_kind = seen.iter().filter(|event| event.kind.as_u16() == kind && event.pubkey == author);
        // As relays settle it (NIP-01): of one second the lowest id.
        of_kind.map(AsRef::as_ref).max_by_key(|event: &&Event| (event.created_at, std::cmp::Reverse(event.id)))
    };
    let mut named = newest(kinds::METADATA).and_then(profiles::read_lud16);
    if named.is_none()
        && let Some(at) = &host.config.address_host
    {
        let here = agent::get(&host.store, *to).await?.filter(|agent| agent.moved_to.is_none());
        named = here.map(|agent| format!("{}@{at}", agent.npub));
    }
    let Some(named) = named else {
        return Ok(Err("payee cannot be zapped: no profile of theirs with a lightning address was found".into()));
    };
    let Ok(address) = named.parse::<LightningAddress>() else {
        return Ok(Err("payee cannot be zapped: their profile's lightning address is none".into()));
    };
    if let Err(why) = policy.allows_payee(&opened.owner, to, Some(&address)) {
        return Ok(Err(why.to_owned()));
    }
    let list = newest(kinds::RELAY_LIST).and_then(|event| profiles::read_relay_list(event).ok()).unwrap_or_default();
    let reads = list.into_iter().filter(|(_, usage)| *usage != profiles::Use::Write).map(|(url, _)| url);
    let reads = reads.filter(|url| url.len() <= MAX_RELAY && (url.starts_with("wss://") || url.starts_with("ws://")));
    Ok(Ok(Found { address, relays: reads.take(MAX_RELAYS).collect() }))
}

/// Why a zap of which nothing has left yet goes no further.
fn not_now(run: &Run<'_>, zap: &Zap) -> Option<ZapMove> {
    let refused = |why: &str| Some(ZapMove::Refused { why: why.to_owned() });
    let Some(policy) = run.opened.policy() else { return refused("policy_missing") };
    if policy.frozen {
        return refused("the agent is frozen");
    }
    // The policy of now, which may be another than that of the decision.
    if let Err(why) = policy.allows_payee(&run.opened.owner, &zap.to, Some(&zap.address)) {
        return refused(why);
    }
    let why = match (run.ending, run.timed_out()) {
        (true, _) => "the agent was stopped before it was paid",
        (false, true) => "the tick took too long",
        (false, false) => return None,
    };
    Some(ZapMove::Failed { why: why.to_owned() })
}

/// Asks the payee's service for the one invoice, and journals it with its budget and its payment's intent. Nobody is asked once
/// there is one.
pub(crate) async fn ask(run: &mut Run<'_>, index: usize, zap: &Zap) -> Result<(), TurnError> {
    let over = |step| Record::Zap { index, step };
    if let Some(step) = not_now(run, zap) {
        return run.append(over(step), Vec::new()).await;
    }
    let asked = tokio::select! {
        biased;
        asked = invoice(run.pen.host.web.as_deref(), zap) => asked,
        () = run.stop.cancelled() => return Err(TurnError::Interrupted),
    };
    let accepted = match asked {
        Ok(bolt11) => accept(run, zap, bolt11).await,
        Err(error) => Err(error),
    };
    match accepted {
        Ok(bill) => reserve(run, index, zap, bill).await,
        Err(LnurlError::Refused(why)) => run.append(over(ZapMove::Refused { why }), Vec::new()).await,
        Err(LnurlError::Failed(why)) => run.append(over(ZapMove::Failed { why }), Vec::new()).await,
    }
}

/// The invoice as the service gave it, not yet believed.
async fn invoice(web: Option<&dyn Web>, zap: &Zap) -> Result<String, LnurlError> {
    let web = web.ok_or_else(|| LnurlError::Refused("this host asks no services of payees".into()))?;
    let (status, body) = get(web, &service_url(&zap.address, web.development())).await?;
    let service = read_service(status, &body, zap.amount)?;
    let (status, body) = get(web, &service.question(zap.amount, &zap.request.json)).await?;
    read_invoice(status, &body)
}

async fn get(web: &dyn Web, url: &str) -> Result<(u16, Vec<u8>), LnurlError> {
    web.get(url).await.map_err(|error| match error {
        EgressError::Refused(why) => LnurlError::Refused(format!("the payee's service: {why}")),
        EgressError::Unanswered(_) => LnurlError::Failed(format!("the payee's service: {error}")),
    })
}

/// Checks an invoice against what was asked for, the wallet and every limit.
async fn accept(run: &Run<'_>, zap: &Zap, bolt11: String) -> Result<Bill, LnurlError> {
    let refused = |why: String| Err(LnurlError::Refused(why));
    let Some(policy) = run.opened.policy() else { return refused("policy_missing".into()) };
    let wanted = Wanted {
        network: run.pen.host.wallets.network(),
        amount: zap.amount,
        description_hash: zap.description_hash(),
        now: run.pen.now(),
        expiry_max_secs: policy.limits.invoice_expiry_max_secs,
    };
    let invoice = wanted.check(&bolt11)?;
    let asked = run.wallet.quote(PayRequest { bolt11: bolt11.clone(), amount: None });
    let max_fee = match tokio::time::timeout(WALLET_TIMEOUT, asked).await {
        Ok(Ok(quote)) => quote.max_fee,
        Ok(Err(error)) => return refused(format!("the wallet cannot pay it: {error}")),
        Err(_) => return Err(LnurlError::Failed("the wallet did not answer in time".into())),
    };
    if max_fee > fee_limit(zap.amount) {
        return refused(format!("routing would cost up to {max_fee}"));
    }
    // What the tick's thinking left.
    let balance = wallet::balance(&*run.wallet).await.map_err(LnurlError::Failed)?;
    let (hash, expires_at) = (invoice.hash, invoice.expires_at);
    let bill = Bill { hash, amount: zap.amount, max_fee, expires_at, bolt11, hold: false, heard: Vec::new() };
    match judge_zap_cost(policy, bill.hold(), run.tick.spent(), balance) {
        Ok(()) => Ok(bill),
        Err(why) => refused(why.to_owned()),
    }
}

/// Binds the invoice to the zap, holds the budget and writes the payment's intent, in one batch.
async fn reserve(run: &mut Run<'_>, index: usize, zap: &Zap, bill: Bill) -> Result<(), TurnError> {
    let side = reservation(run, Payable::Zap { index }, &bill, zap.to)?;
    let invoiced = Record::Zap { index, step: ZapMove::Invoiced { bill } };
    match run.append(invoiced, side).await {
        Err(TurnError::Store(nexus_store::StoreError::Conflict { conflict, .. })) => {
            let why = match conflict {
                Conflict::Budget { .. } => "no room in the budget".to_owned(),
                Conflict::PaymentHash => "this invoice was met before".to_owned(),
                other => return Err(TurnError::parked("payment_conflict", other.to_string(), 10_000)),
            };
            run.append(Record::Zap { index, step: ZapMove::Refused { why } }, Vec::new()).await
        }
        other => other,
    }
}

/// Pays the invoice on record, unless nothing has left yet and nothing should.
pub(crate) async fn pay(
    run: &mut Run<'_>,
    index: usize,
    zap: &Zap,
    bill: Bill,
    dispatched: bool,
) -> Result<(), TurnError> {
    let stop = if dispatched { None } else { not_now(run, zap) };
    let Some(step) = stop else { return perform::pay(run, Payable::Zap { index }, bill, dispatched, None).await };
    let stored = payment::get(&run.pen.host.store, run.pen.npub, bill.hash).await?;
    let sides = stored.map(|payment| {
        settle_sides(&payment, PaymentState::Canceled, PaymentState::Reserved, Msat::ZERO, run.pen.now())
    });
    run.append(Record::Zap { index, step }, sides.unwrap_or_default()).await
}
