//! Owners who pay for hosting, over the API: in time, late, too much, twice, never; and strangers who pay for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Request, header};
use nexus_core::status::Hosting;
use nexus_core::time::random;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, UnixMs};
use nexus_lightning::Bolt11;
use nexus_seal::Signer;
use nexus_seal::proof::{self, unsigned_request};
use nexus_store::agent::NewAgent;
use nexus_store::inbox::NewItem;
use nexus_store::tick::{self, TickStatus};
use nexus_store::{StoreError, agent, hosting};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::agents::{self, ACCOUNT};
use crate::books;
use crate::check::may_wait;
use crate::counts;
use crate::dice::Dice;
use crate::fleet::{ORIGIN, control_parts};
use crate::people::Front;
use crate::plan::{Charging, Fault};
use crate::process::Process;
use crate::world::World;
use crate::{bus::SimBus, database};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// What may pass at once.
const PASSES_MS: [i64; 6] = [2 * HOUR_MS, DAY_MS, 3 * DAY_MS, 6 * DAY_MS, 13 * DAY_MS, 27 * DAY_MS];
/// How long a payment may be on its way to the node at most: for a day after its expiry an invoice is looked at, by a clock
/// that may be hours off.
const LATE_HOURS: u64 = 11;
/// Invoices that somebody may still think of.
const MANY: usize = 30;
/// An agent is not suspended any more so long after its payment, and ticks again so long after that.
const PAID_WITHIN: Duration = Duration::from_secs(15);
const TICKS_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(500);

/// What those who pay do. A further way to pay for hosting (out of an agent's own wallet, by an owner's standing order) is
/// one more of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// An owner asks for an invoice.
    TopUp,
    /// Somebody asks for one for an owner, without an account (L402).
    Stranger,
    /// Somebody pays an invoice that was lying about, or pays it once more.
    Pay,
    /// An owner looks at an invoice, and the control plane at the node.
    Look,
    /// Money comes for what is no invoice of this host.
    Foreign,
    /// An agent is made, or one that is there is deleted.
    Guest,
    /// An agent goes to live elsewhere, and comes back.
    Move,
}

impl Operation {
    const ALL: [Self; 9] = [
        Self::TopUp,
        Self::TopUp,
        Self::Stranger,
        Self::Pay,
        Self::Pay,
        Self::Look,
        Self::Foreign,
        Self::Guest,
        Self::Move,
    ];
}

/// An invoice as whoever asked for it has it.
#[derive(Debug, Clone, Copy)]
struct Bill {
    hash: Hash32,
    amount: Msat,
}

pub struct Payers {
    front: Arc<Front>,
    world: Arc<World>,
    dice: Arc<Dice>,
    charging: Charging,
    /// An agent that comes and goes, and never runs.
    guest: NewAgent,
    api: Router,
}

impl Payers {
    /// Where hosting is charged.
    pub fn new(world: &Arc<World>, front: &Arc<Front>, dice: &Dice) -> Option<Self> {
        let (charging, guest) = (world.plan.charging.clone()?, world.guest.clone()?);
        let process = Process::new("api", world.clock.twin());
        let dice = Arc::new(dice.fork("payers"));
        let store = database::steady(world, &process, &dice);
        let bus = SimBus { world: world.clone(), process: process.clone(), dice: dice.clone() };
        let api = nexus_control::router(control_parts(world, &process, &dice, store, bus));
        Some(Self { front: front.clone(), world: world.clone(), dice, charging, guest, api })
    }

    /// Hours, days and weeks pass until the trouble is over.
    pub async fn calendar(&self) {
        let dice = self.dice.fork("calendar");
        loop {
            let mean = self.charging.passes_ms;
            tokio::time::sleep(Duration::from_millis(dice.between(mean / 3, mean * 2))).await;
            if self.world.calm() {
                return;
            }
            self.passes(*dice.pick(&PASSES_MS));
        }
    }

    fn passes(&self, ms: i64) {
        self.world.trace.note(format_args!("{} hours pass", ms / HOUR_MS));
        self.world.count(counts::DAYS);
        self.world.clock.pass_ms(ms);
    }

    /// Pays, forgets, makes and deletes until the trouble is over.
    pub async fn run(&self) {
        let mut bills: Vec<Bill> = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(self.dice.between(500, 6_000))).await;
            if self.world.calm() {
                return;
            }
            match *self.dice.pick(&Operation::ALL) {
                Operation::TopUp => self.top_up(&mut bills, false).await,
                Operation::Stranger => self.top_up(&mut bills, true).await,
                Operation::Pay if bills.is_empty() => {}
                Operation::Pay => {
                    let bill = *self.dice.pick(&bills);
                    self.pay(bill, false);
                }
                Operation::Look => {
                    if let Some(bill) = bills.last() {
                        let _ = self.look(bill.hash).await;
                    }
                }
                Operation::Foreign => self.foreign(),
                Operation::Guest => self.guest().await,
                // Where owners do that there are no two of them.
                Operation::Move if self.world.plan.owners => {}
                Operation::Move => {
                    let index = usize::try_from(self.dice.next() % 64).unwrap_or(0) % self.world.agents.len();
                    self.front.move_away_and_back(index).await;
                }
            }
        }
    }

    async fn top_up(&self, bills: &mut Vec<Bill>, stranger: bool) {
        let amount = Msat::sats(self.charging.fee_sats * self.dice.between(1, 3));
        // Whoever asked may be gone before the answer: what was begun for it is not taken back.
        let gone = self.world.fault(&self.dice, Fault::CallerGone);
        let patience = Duration::from_millis(if gone { self.dice.between(1, 400) } else { 60_000 });
        let asked = tokio::time::timeout(patience, self.invoice(amount, stranger)).await;
        let Ok(Some(hash)) = asked else {
            return self.world.trace.note("an owner has no invoice");
        };
        let bill = Bill { hash, amount };
        if bills.len() == MANY {
            bills.remove(0);
        }
        bills.push(bill);
        match self.dice.between(0, 9) {
            // Perhaps later, perhaps never.
            0..=2 => self.world.count(counts::FORGOTTEN),
            3..=6 => self.pay(bill, false),
            7 => self.pay(bill, true),
            _ => {
                tokio::time::sleep(Duration::from_millis(self.dice.between(100, 6_000))).await;
                self.pay(bill, false);
                if self.dice.chance(500) {
                    self.pay(bill, false);
                }
            }
        }
    }

    /// The hash of a new invoice for this account; none if there is no answer.
    async fn invoice(&self, amount: Msat, stranger: bool) -> Option<Hash32> {
        let sats = amount.whole_sats();
        let bolt11 = if stranger {
            let owner = agents::owner(self.dice.clone()).ok()?.public_key().to_string();
            let body = json!({ "owner": owner, "amount_sats": sats });
            let (status, _, said) = self.call(Method::POST, "/v1/hosting/topup", Some(body), false).await?;
            (status == 402).then(|| said["bolt11"].as_str().map(str::to_owned)).flatten()?
        } else {
            let (status, _, said) =
                self.call(Method::POST, "/v1/invoices", Some(json!({ "amount_sats": sats })), true).await?;
            (status == 201).then(|| said["bolt11"].as_str().map(str::to_owned)).flatten()?
        };
        Bolt11::decode(&bolt11).ok().map(|invoice| invoice.hash)
    }

    async fn look(&self, hash: Hash32) -> Option<Value> {
        let (status, _, said) = self.call(Method::GET, &format!("/v1/invoices/{hash}"), None, true).await?;
        (status == 200).then_some(said)
    }

    /// One call of the API, by the owner or by nobody.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        by_owner: bool,
    ) -> Option<(u16, HeaderMap, Value)> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let mut request = Request::builder().method(method.clone()).uri(path);
        if by_owner {
            let owner = agents::owner(self.dice.clone()).ok()?;
            let url = format!("{ORIGIN}{path}");
            let asked = proof::Request { method: method.as_str(), url: &url, body: &body };
            let signed = owner.sign_now(unsigned_request(&owner.public_key(), &asked, self.world.now())).ok()?;
            request = request.header(header::AUTHORIZATION, proof::authorization_header(&signed));
        }
        let mut request = request.body(Body::from(body)).ok()?;
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([127, 0, 0, 1], 9))));
        let (parts, body) = self.api.clone().oneshot(request).await.ok()?.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.ok()?;
        Some((parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Somebody pays with a wallet of theirs.
    fn pay(&self, bill: Bill, too_much: bool) {
        let more = if too_much { self.dice.between(1, bill.amount.as_u64()) } else { 0 };
        let amount = bill.amount.saturating_add(Msat::new(more));
        let hours = if self.dice.chance(350) { self.dice.between(1, LATE_HOURS) } else { 0 };
        let after_ms = i64::try_from(hours).unwrap_or(0) * HOUR_MS;
        let (known, late) = {
            let now = self.world.now();
            let papers = self.world.node.papers(now);
            let paper = papers.invoices.get(&bill.hash);
            let late = paper.is_some_and(|paper| now.plus_ms(after_ms) > paper.expires_at);
            (paper.is_some_and(|paper| paper.sent.is_some()), late)
        };
        let taken = self.world.node.pay(bill.hash, amount, self.world.now(), after_ms);
        self.world.trace.note(format_args!("somebody pays {amount} for hosting, on its way for {hours} h: {taken}"));
        match (taken, known) {
            (true, _) => {
                self.world.count(counts::PAID_FOR);
                if too_much {
                    self.world.count(counts::OVERPAID);
                }
                if late {
                    self.world.count(counts::ARRIVED_LATE);
                }
            }
            (false, true) => self.world.count(counts::PAID_AGAIN),
            (false, false) => self.world.count(counts::EXPIRED),
        }
    }

    fn foreign(&self) {
        let (hash, amount) = (Hash32::from_bytes(random(&*self.dice)), Msat::sats(self.dice.between(1, 5_000)));
        self.world.node.pay_foreign(hash, amount, self.world.now());
        self.world.count(counts::FOREIGN);
        self.world.trace.note(format_args!("the node is paid {amount} that nobody asked for"));
    }

    /// As owners make and delete agents.
    async fn guest(&self) {
        let store = &self.front.store;
        let npub = self.guest.npub;
        let Ok(found) = agent::get(store, npub).await else { return };
        if found.is_some() {
            let done = agent::delete(store, npub, false, self.front.audit("agent.delete")).await.is_ok();
            self.world.trace.note(format_args!("a guest is deleted: {done}"));
            if done {
                self.world.count(counts::DELETED);
            }
            return;
        }
        let Ok((_, trial_until)) = hosting::credit(store, ACCOUNT).await else { return };
        let now = self.world.now();
        let new =
            NewAgent { hosting: newborn(&self.charging, trial_until, now), created_at: now, ..self.guest.clone() };
        let done = agent::create(store, new, None, self.front.audit("agent.create")).await.is_ok();
        self.world.trace.note(format_args!("a guest is made: {done}"));
        if done {
            self.world.count(counts::MADE);
        }
    }

    /// The trouble is over. What is on its way arrives; then nobody pays, until nobody ticks; then everything is paid, and
    /// everyone ticks again.
    pub async fn afterwards(&self) -> Result<(), StoreError> {
        // Whatever a wrong clock put off is due as well.
        self.passes(15 * HOUR_MS);
        let credited = self.within(Duration::from_secs(60), || books::is_credited(&self.world)).await?;
        if !credited {
            self.world.trace.violated("what the node was paid is not credited");
        }
        for _ in 0..8 {
            if self.are(Hosting::Suspended).await? {
                break;
            }
            self.passes(16 * DAY_MS);
            tokio::time::sleep(Duration::from_millis(2_500)).await;
        }
        let suspended = self.are(Hosting::Suspended).await?;
        if suspended {
            self.nobody_ticks().await?;
        }
        let suspended = suspended && self.are(Hosting::Suspended).await?;
        let ticks = self.ticks().await?;
        self.pay_for_all().await?;
        let paid = self.within(PAID_WITHIN, || self.are(Hosting::Paid)).await?;
        if !paid {
            self.world.trace.violated("all is paid, and not everyone is hosted");
            return Ok(());
        }
        if suspended {
            let again = self.within(TICKS_WITHIN, || self.tick_again(&ticks)).await?;
            if !again {
                self.world.trace.violated("all is paid, and not everyone ticks again");
            }
        }
        Ok(())
    }

    /// Whether something comes true in time.
    async fn within<F, Fut>(&self, time: Duration, is_so: F) -> Result<bool, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<bool, StoreError>>,
    {
        let looks = time.as_millis() / LOOK.as_millis();
        for _ in 0..looks {
            if is_so().await? {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
        }
        is_so().await
    }

    async fn are(&self, hosting: Hosting) -> Result<bool, StoreError> {
        let all = hosting::of_account(&self.world.store, ACCOUNT, 100).await?;
        Ok(all.iter().all(|billed| billed.hosting == hosting))
    }

    async fn ticks(&self) -> Result<Vec<usize>, StoreError> {
        let mut ticks = Vec::new();
        for owned in &self.world.agents {
            let all = tick::list(&self.world.store, owned.npub, None, tick::MAX_PAGE).await?;
            // What was not begun is told as well.
            ticks.push(all.iter().filter(|one| one.status != TickStatus::Skipped).count());
        }
        Ok(ticks)
    }

    /// Whoever is not kept by something else has ticked since.
    async fn tick_again(&self, before: &[usize]) -> Result<bool, StoreError> {
        for ((owned, before), now) in self.world.agents.iter().zip(before).zip(self.ticks().await?) {
            let found = agent::get(&self.world.store, owned.npub).await?;
            let reason = found.and_then(|found| found.reason);
            let waits = reason.is_some_and(|reason| may_wait(&self.world, owned, &reason));
            if now <= *before && !waits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// While all are suspended, what is written to them waits.
    async fn nobody_ticks(&self) -> Result<(), StoreError> {
        self.world.count(counts::ALL_SUSPENDED);
        // What was begun comes to its end.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = self.ticks().await?;
        for owned in &self.world.agents {
            let item = NewItem {
                npub: owned.npub,
                external_id: Hash32::from_bytes(random(&*self.dice)).to_string(),
                trigger: Trigger::Manual,
                sender: None,
                received_at: self.world.now(),
                payload: Vec::new(),
            };
            self.front.deliver(item).await;
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
        // One may have paid its own rent meanwhile.
        if self.are(Hosting::Suspended).await? && self.ticks().await? != before {
            self.world.trace.violated("somebody ticks while all are suspended");
        }
        Ok(())
    }

    /// The owner pays a month for everyone.
    async fn pay_for_all(&self) -> Result<(), StoreError> {
        for _ in 0..5 {
            let all = hosting::of_account(&self.world.store, ACCOUNT, 100).await?.len();
            let amount = Msat::sats(self.charging.fee_sats * u64::try_from(all).unwrap_or(u64::MAX));
            if let Some(hash) = self.invoice(amount, false).await {
                let paid = self.world.node.pay(hash, amount, self.world.now(), 0);
                self.world.trace.note(format_args!("an owner pays {amount} for everyone: {paid}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        self.world.trace.violated("an owner cannot have an invoice");
        Ok(())
    }
}

/// How an agent stands before it is first looked at, as the API makes it.
pub fn newborn(charging: &Charging, trial_until: Option<UnixMs>, now: UnixMs) -> Hosting {
    let on_trial = trial_until.map_or(charging.rules.trial_days > 0, |until| now < until);
    if on_trial { Hosting::Trial } else { Hosting::Suspended }
}
