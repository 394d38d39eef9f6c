//! An agent as its owner sees it: every axis of its status, one reason in words, and what happens next.

use nexus_core::availability::{Availability, Missed, Month, ON_TIME_MS, TARGET_PER_100K};
use nexus_core::lifecycle::{Funds, Lifecycle};
use nexus_core::status::{Desired, Hosting, Placement, Reason};
use nexus_core::trigger::Trigger;
use nexus_core::{Msat, Npub, UnixMs};
use nexus_store::agent::Agent;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::sub_account::WalletView;
use crate::api::tick::TickView;
use crate::app::Shared;
use crate::problem::Problem;

const DAY_MS: i64 = 86_400_000;
/// The runway looks back this far.
const SPEND_WINDOW_MS: i64 = 7 * DAY_MS;
/// Before this much history, the runway is estimated from heartbeats and the last quote.
const ENOUGH_HISTORY_MS: i64 = 3 * DAY_MS;
const LAST_TICKS: u32 = 5;

/// Why it is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasonView {
    /// Stable: programs may rely on it.
    pub code: String,
    /// In words.
    pub text: String,
}

impl From<Reason> for ReasonView {
    fn from(reason: Reason) -> Self {
        Self { code: reason.code, text: reason.text }
    }
}

/// An agent as lists show it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentSummary {
    #[schema(value_type = String)]
    pub npub: Npub,
    pub name: String,
    /// What the owner wants: `running` or `stopped`.
    pub desired: &'static str,
    /// Whether its key is at hand: `ready`, `locked` or `signer_offline`.
    pub custody: &'static str,
    /// Its compute funds: `spawning`, `active`, `low_balance`, `hibernating` or `dormant`.
    pub lifecycle: &'static str,
    /// The account's standing: `trial`, `paid`, `grace` or `suspended`.
    pub hosting: &'static str,
    /// Whether a worker has it: `unplaced`, `placed` or `draining`.
    pub placement: &'static str,
    pub reason: ReasonView,
    /// When something is tried next, in milliseconds since 1970.
    #[schema(value_type = Option<i64>)]
    pub next_attempt_at_ms: Option<UnixMs>,
    /// What its wallet held when last seen; none before that.
    pub balance_sats: Option<u64>,
    /// When its wallet was last seen.
    #[schema(value_type = Option<i64>)]
    pub balance_at_ms: Option<UnixMs>,
    #[schema(value_type = Option<i64>)]
    pub next_tick_at_ms: Option<UnixMs>,
    #[schema(value_type = Option<i64>)]
    pub last_tick_at_ms: Option<UnixMs>,
    pub region: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    #[schema(value_type = i64)]
    pub created_at_ms: UnixMs,
}

/// A relay of others that the agent listens to.
#[derive(Debug, Serialize, ToSchema)]
pub struct RelayView {
    pub url: String,
    /// When it last said that it had sent all that it has; none before the first time.
    #[schema(value_type = Option<i64>)]
    pub heard_at_ms: Option<UnixMs>,
    /// Why nothing is heard from it now.
    pub problem: Option<String>,
}

/// An agent's whole status.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentStatus {
    #[serde(flatten)]
    pub summary: AgentSummary,
    /// Its lightning address here (LUD-16): its name or its npub, and this host.
    pub lightning_address: String,
    /// Relays of its configuration, beside this host's own.
    pub relays: Vec<RelayView>,
    /// The wallet that its policy names, and in whose custody the money is; none without a policy.
    pub wallet: Option<WalletView>,
    /// Whole days that the balance lasts at the present spend; none when nothing is spent or known.
    pub runway_days: Option<u64>,
    /// Why it is placed: `run`, or `service` (only to resolve what is open or to answer a wallet request).
    pub purpose: &'static str,
    /// The worker that has it.
    pub worker: Option<String>,
    pub generation: i64,
    /// The clear configuration.
    #[schema(value_type = Object)]
    pub config: nexus_core::AgentConfig,
    /// The ETag that `PATCH` wants in `If-Match`, without quotes.
    pub config_version: i64,
    pub policy_version: Option<i64>,
    /// The policy, as the owner signed it. Verify it.
    #[schema(value_type = Option<Object>)]
    pub policy: Option<Value>,
    /// Sealed things for the agent's eyes go to this age recipient.
    pub inbox_recipient: Option<String>,
    /// When one of its schedules is due next.
    #[schema(value_type = Option<i64>)]
    pub next_schedule_at_ms: Option<UnixMs>,
    /// Wake-ups that wait.
    pub inbox_waiting: i64,
    /// The last event's number.
    pub event_seq: i64,
    /// The event chain's head (SHA-256, hex).
    pub event_head: String,
    /// The last event that is no longer kept (0 if all are), and the chain's head after it: what the first that is kept
    /// follows from.
    pub pruned_seq: i64,
    pub pruned_head: String,
    pub availability: AgentAvailability,
    /// Newest first.
    pub last_ticks: Vec<TickView>,
}

/// What the rows alone say.
pub fn summary(agent: &Agent) -> AgentSummary {
    AgentSummary {
        npub: agent.npub,
        name: agent.name.clone(),
        desired: agent.desired.as_str(),
        custody: agent.custody.as_str(),
        lifecycle: agent.lifecycle.as_str(),
        hosting: agent.hosting.as_str(),
        placement: agent.placement.as_str(),
        reason: reason(agent),
        next_attempt_at_ms: next_attempt(agent),
        balance_sats: agent.balance.map(Msat::whole_sats),
        balance_at_ms: agent.balance_at,
        next_tick_at_ms: agent.next_tick_at.filter(|_| agent.desired == Desired::Running),
        last_tick_at_ms: agent.last_tick_at,
        region: agent.config.region.clone(),
        labels: agent.config.labels.clone(),
        created_at_ms: agent.created_at,
    }
}

/// Reads the rest.
pub async fn whole(app: &Shared, agent: &Agent) -> Result<AgentStatus, Problem> {
    let npub = agent.npub;
    let ticks = nexus_store::tick::list(&app.store, npub, None, LAST_TICKS).await?;
    let (inbox_waiting, _) = nexus_store::inbox::level(&app.store, npub).await?;
    let sealed = nexus_store::agent::sealed(&app.store, npub).await?.unwrap_or_default();
    let (pruned_seq, pruned_head) = nexus_store::event::pruned(&app.store, npub).await?;
    let wallet = super::sub_account::view(app, &sealed);
    let policy = sealed.policy.and_then(|policy| serde_json::from_str(&policy.event).ok());
    Ok(AgentStatus {
        summary: summary(agent),
        relays: relays(app, agent).await?,
        lightning_address: super::address::of(app, agent),
        wallet,
        runway_days: runway_days(app, agent).await?,
        purpose: agent.purpose.as_str(),
        worker: agent.worker.map(|worker| worker.to_string()),
        generation: agent.generation.0,
        config: agent.config.clone(),
        config_version: agent.config_version,
        policy_version: agent.policy_version,
        policy,
        inbox_recipient: sealed.inbox_recipient,
        next_schedule_at_ms: agent.next_schedule_at.filter(|_| agent.desired == Desired::Running),
        inbox_waiting,
        event_seq: agent.event_seq,
        event_head: agent.event_head.to_string(),
        pruned_seq,
        pruned_head: pruned_head.to_string(),
        availability: availability(app, agent).await?,
        last_ticks: ticks.into_iter().map(TickView::from).collect(),
    })
}

/// Due ticks that started within a minute, by month (UTC).
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentAvailability {
    pub target_percent: f64,
    pub this_month: KeptView,
    pub last_month: KeptView,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct KeptView {
    /// `yyyymm`, UTC.
    pub month: i64,
    pub due: u64,
    pub on_time: u64,
    /// 100 where nothing was due.
    pub percent: f64,
}

pub(crate) async fn availability(app: &Shared, agent: &Agent) -> Result<AgentAvailability, Problem> {
    let now = app.now();
    let month = Month::of(now);
    let of = async |month| nexus_store::availability::of_agent(&app.store, agent.npub, month).await;
    let (missed, missed_before) = overdue(agent, now).by_month(month);
    let this = of(month).await?.unwrap_or_default().and_missed(missed);
    let last = of(month.before()).await?.unwrap_or_default().and_missed(missed_before);
    Ok(AgentAvailability {
        target_percent: percent(TARGET_PER_100K),
        this_month: kept(month, this),
        last_month: kept(month.before(), last),
    })
}

/// Beats that are due for more than a minute, and that nothing has met yet, while nothing but the want of a worker stands
/// in their way.
fn overdue(agent: &Agent, now: UnixMs) -> Missed {
    let awake = matches!(agent.lifecycle, Lifecycle::Active | Lifecycle::LowBalance);
    let waits = agent.desired == Desired::Running && awake && (agent.reason.is_none() || agent.worker.is_none());
    let interval_ms = i64::from(agent.config.heartbeat_secs) * 1_000;
    match agent.next_tick_at {
        Some(first) if waits && first < now.plus_ms(-ON_TIME_MS) => {
            let late = now.0.saturating_sub(ON_TIME_MS).saturating_sub(first.0).max(0).unsigned_abs();
            Missed { count: late / interval_ms.max(1).unsigned_abs() + 1, first, interval_ms }
        }
        _ => Missed::NONE,
    }
}

fn kept(month: Month, kept: Availability) -> KeptView {
    KeptView { month: month.0, due: kept.due, on_time: kept.on_time, percent: percent(kept.per_100k()) }
}

/// From a hundred thousandth.
#[expect(clippy::cast_precision_loss, reason = "at most a hundred thousand")]
pub(super) fn percent(per_100k: u64) -> f64 {
    per_100k as f64 / 1_000.0
}

async fn relays(app: &Shared, agent: &Agent) -> Result<Vec<RelayView>, Problem> {
    let mut views = Vec::with_capacity(agent.config.relays.len());
    for url in agent.config.relays.iter().filter(|url| Some(*url) != app.config.relay_url.as_ref()) {
        let known = nexus_store::outside::get(&app.store, url).await?;
        let (heard_at_ms, problem) = known.map_or((None, None), |known| (known.heard_at, known.problem));
        views.push(RelayView { url: url.clone(), heard_at_ms, problem });
    }
    Ok(views)
}

async fn runway_days(app: &Shared, agent: &Agent) -> Result<Option<u64>, Problem> {
    let Some(balance) = agent.balance else { return Ok(None) };
    let now = app.now();
    let (spent, earliest) =
        nexus_store::tick::spent_since(&app.store, agent.npub, now.plus_ms(-SPEND_WINDOW_MS)).await?;
    let history_ms = earliest.map_or(0, |at| now.0.saturating_sub(at.0));
    let daily_spend = daily_spend(agent, spent, history_ms);
    Ok(Funds { balance, daily_spend, since: agent.lifecycle_since, now }.runway_days())
}

/// The mean of what was spent; before there is enough history, what the heartbeats would cost at the last quote.
fn daily_spend(agent: &Agent, spent: Msat, history_ms: i64) -> Option<Msat> {
    if history_ms >= ENOUGH_HISTORY_MS {
        let (day, window) = (u128::try_from(DAY_MS).ok()?, u128::try_from(history_ms).ok()?);
        return u64::try_from(u128::from(spent.as_u64()) * day / window).ok().map(Msat::new);
    }
    if !agent.config.triggers.contains(&Trigger::Heartbeat) {
        return None;
    }
    let beats = 86_400 / u64::from(agent.config.heartbeat_secs.max(1));
    agent.last_quote?.as_u64().checked_mul(beats.max(1)).map(Msat::new)
}

/// A stored reason is something that happened; without one, the first axis that stands in the way speaks.
pub fn reason(agent: &Agent) -> ReasonView {
    if let Some(reason) = &agent.reason {
        return reason.clone().into();
    }
    let (code, text) = standing_reason(agent);
    ReasonView { code: code.to_owned(), text: text.to_owned() }
}

fn standing_reason(agent: &Agent) -> (&'static str, &'static str) {
    use nexus_core::status::CustodyState;
    match agent.desired {
        Desired::Stopped if agent.generation.0 == 0 => {
            return ("stopped", "created, never started: `nexus agent start`");
        }
        Desired::Stopped if agent.placement != Placement::Unplaced => {
            return ("resolving", "stopped by its owner; a running tick ends, and what is in flight is resolved first");
        }
        Desired::Stopped => return ("stopped", "stopped by its owner: `nexus agent start`"),
        Desired::Running => {}
    }
    match agent.hosting {
        Hosting::Suspended => return ("suspended", "hosting is not paid: `nexus hosting invoice`"),
        Hosting::Trial | Hosting::Paid | Hosting::Grace => {}
    }
    match agent.custody {
        CustodyState::Ready => {}
        CustodyState::Locked => return ("locked", "locked: its owner has to unlock it"),
        CustodyState::SignerOffline => return ("signer_offline", "its signer does not answer"),
    }
    if agent.policy_version.is_none() {
        return ("policy_missing", "no policy signed by the owner: the agent may not spend, so it does not think");
    }
    match agent.lifecycle {
        Lifecycle::Spawning => return ("spawning", "not funded yet: `nexus agent fund`"),
        Lifecycle::Hibernating => {
            return ("hibernating", "too little money to think: a zap, a manual tick or funding wakes it");
        }
        Lifecycle::Dormant => return ("dormant", "out of funds for long: only funding wakes it"),
        Lifecycle::Active | Lifecycle::LowBalance => {}
    }
    match (agent.placement, agent.lifecycle) {
        (Placement::Unplaced, _) => ("unplaced", "waiting for a worker"),
        (Placement::Draining, _) => ("draining", "its worker hands it over to another"),
        (Placement::Placed, Lifecycle::LowBalance) => ("low_balance", "runs; the balance lasts less than seven days"),
        (Placement::Placed, _) => ("running", "runs; wakes at its next heartbeat or when somebody calls"),
    }
}

fn next_attempt(agent: &Agent) -> Option<UnixMs> {
    match agent.desired {
        Desired::Running => agent.next_attempt_at.or(agent.next_tick_at),
        Desired::Stopped => agent.next_attempt_at,
    }
}
