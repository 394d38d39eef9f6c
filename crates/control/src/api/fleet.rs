//! The fleet, for its operators.

use axum::Json;
use axum::extract::State;
use nexus_core::availability::{Availability, Month, TARGET_PER_100K};
use nexus_core::status::{Desired, Placement, Scope};
use nexus_core::{Npub, UnixMs};
use nexus_store::availability::Total;
use nexus_store::fleet::{Parked, Waiting};
use nexus_store::worker::Worker;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use super::status::percent;
use crate::app::Shared;
use crate::auth::{Caller, parse_npub};
use crate::config::{DEFAULT_PAGE, MAX_PAGE};
use crate::fleet::{self, Fleet};
use crate::gate::Params;
use crate::problem::{Problem, ProblemBody};

/// The code of an agent that waits for a worker and for nothing else.
const UNPLACED: &str = "unplaced";

/// The whole fleet.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetView {
    #[schema(value_type = i64)]
    at_ms: UnixMs,
    workers: Vec<WorkerView>,
    /// By pool and region: what there is, and how many workers there should be.
    regions: Vec<RegionView>,
    agents: AgentsView,
    /// Agents by where they are.
    placements: Vec<PlacementView>,
    /// Agents that should run and do not, by reason, most first.
    waiting: Vec<WaitingView>,
    availability: AvailabilityView,
    bus: BusView,
    /// Who places agents; none while nobody does.
    reconciler: Option<ReconcilerView>,
    /// Whether the control plane that was asked places agents.
    places_agents: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WorkerView {
    id: String,
    region: String,
    pool: String,
    /// `live`, `draining`, `silent` (longer than the lease) or `gone`.
    state: &'static str,
    /// Agents it has.
    load: u32,
    capacity: u32,
    /// What it can read.
    version: u32,
    /// Since it was last heard of, by wall clocks.
    beat_age_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct RegionView {
    pool: String,
    region: String,
    workers: u32,
    desired_workers: u32,
    load: u32,
    capacity: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AgentsView {
    all: u64,
    /// That should run.
    running: u64,
    /// Of those, without a worker: the placement's backlog.
    unplaced: u64,
    /// Outside their home region.
    away: u64,
    /// Due for more than a minute and not started.
    overdue: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PlacementView {
    /// `unplaced`, `placed` or `draining`.
    placement: &'static str,
    /// `running` or `stopped`.
    desired: &'static str,
    agents: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ReconcilerView {
    /// Which control plane.
    holder: String,
    /// Grows with each that takes over.
    term: i64,
    /// Since it was last heard of, by wall clocks.
    beat_age_ms: u64,
}

/// An agent that should run, and what it waits for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedView {
    #[schema(value_type = String)]
    npub: Npub,
    pool: String,
    region: Option<String>,
    placement: &'static str,
    worker: Option<String>,
    /// `unplaced` for one that waits for a worker and for nothing else.
    code: String,
    text: String,
    #[schema(value_type = Option<i64>)]
    next_attempt_at_ms: Option<UnixMs>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedPage {
    agents: Vec<ParkedView>,
    /// Send it as `after` for what follows; none at the end.
    next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ParkedQuery {
    /// Those that wait for this alone; `unplaced` for those that wait for a worker and for nothing else.
    code: Option<String>,
    /// The last npub you have.
    after: Option<String>,
    /// 1 to 200, 50 if not given.
    limit: Option<u32>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingView {
    code: String,
    text: String,
    agents: u64,
    /// One of them.
    #[schema(value_type = String)]
    example: Npub,
}

/// Due ticks that started within a minute.
#[derive(Debug, Serialize, ToSchema)]
pub struct AvailabilityView {
    target_percent: f64,
    this_month: MonthView,
    last_month: MonthView,
    /// Agents under the target this month, worst first, at most 20.
    worst: Vec<WorstView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct MonthView {
    /// `yyyymm`, UTC.
    month: i64,
    due: u64,
    on_time: u64,
    percent: f64,
    /// Agents with something due, and those of them under the target.
    agents: u64,
    below_target: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct WorstView {
    #[schema(value_type = String)]
    npub: Npub,
    due: u64,
    on_time: u64,
    percent: f64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BusView {
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Shows workers, regions, what agents wait for, and availability. Whoever is no operator of this installation finds nothing
/// here.
#[utoipa::path(
    get, path = "/v1/fleet", tag = "fleet",
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "The fleet", body = FleetView),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn read(State(app): State<Shared>, caller: Caller) -> Answer<Json<FleetView>> {
    operator(&app, &caller)?;
    let fleet = fleet::look(&app).await?;
    Ok(Json(view(&app, &fleet)))
}

/// Lists agents of all accounts that should run and do not, with what each waits for. Whoever is no operator of this
/// installation finds nothing here.
#[utoipa::path(
    get, path = "/v1/fleet/agents", tag = "fleet",
    params(ParkedQuery),
    security(("nip98" = []), ("token" = ["read"])),
    responses(
        (status = 200, description = "A page", body = ParkedPage),
        (status = "4XX", description = "Refused", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn parked(
    State(app): State<Shared>,
    caller: Caller,
    Params(query): Params<ParkedQuery>,
) -> Answer<Json<ParkedPage>> {
    operator(&app, &caller)?;
    let after = query.after.as_deref().map(parse_npub).transpose()?;
    let limit = query.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let code = query.code.as_deref().map(|code| if code == UNPLACED { "" } else { code });
    let found = nexus_store::fleet::parked(&app.store, code, after, limit).await?;
    let full = found.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| full).map(|last| last.npub.to_string());
    Ok(Json(ParkedPage { agents: found.into_iter().map(parked_view).collect(), next }))
}

fn parked_view(parked: Parked) -> ParkedView {
    let (code, text) = parked.reason.unwrap_or((UNPLACED.to_owned(), "waiting for a worker".to_owned()));
    ParkedView {
        npub: parked.npub,
        pool: parked.pool,
        region: parked.region,
        placement: parked.placement.as_str(),
        worker: parked.worker.map(|worker| worker.to_string()),
        code,
        text,
        next_attempt_at_ms: parked.next_attempt_at,
    }
}

fn operator(app: &Shared, caller: &Caller) -> Result<(), Problem> {
    caller.require(Scope::Read)?;
    if app.config.operators.includes(&caller.pubkey) { Ok(()) } else { Err(Problem::not_found()) }
}

fn view(app: &Shared, fleet: &Fleet) -> FleetView {
    let health = app.bus.health();
    let regions = fleet.scale.iter().map(|scale| RegionView {
        pool: scale.pool.clone(),
        region: scale.region.clone(),
        workers: scale.workers,
        desired_workers: scale.desired_workers,
        load: scale.load,
        capacity: scale.capacity,
    });
    let (month, now) = (fleet.month, app.now());
    FleetView {
        at_ms: fleet.at,
        workers: fleet.workers.iter().map(|(worker, load)| worker_view(app, worker, *load, now)).collect(),
        regions: regions.collect(),
        agents: AgentsView {
            all: fleet.census.agents,
            running: fleet.census.running,
            unplaced: fleet.census.unplaced,
            away: fleet.census.away,
            overdue: fleet.census.overdue,
        },
        placements: fleet.placements.iter().map(placement_view).collect(),
        waiting: fleet.waiting.iter().map(waiting_view).collect(),
        availability: AvailabilityView {
            target_percent: percent(TARGET_PER_100K),
            this_month: month_view(month, fleet.this_month),
            last_month: month_view(month.before(), fleet.last_month),
            worst: fleet.worst.iter().map(|(npub, kept)| worst_view(*npub, *kept)).collect(),
        },
        bus: BusView { connected: health.connected, problem: health.problem },
        reconciler: fleet.holder.as_ref().map(|holder| ReconcilerView {
            holder: holder.name.clone(),
            term: holder.term,
            beat_age_ms: u64::try_from(now.0.saturating_sub(holder.seen_at.0)).unwrap_or(0),
        }),
        places_agents: app.reconciler.is_active(),
    }
}

fn worker_view(app: &Shared, worker: &Worker, load: u32, now: UnixMs) -> WorkerView {
    let live = fleet::is_live(worker, now, app.config.lease_ms);
    WorkerView {
        id: worker.id.to_string(),
        region: worker.region.clone(),
        pool: worker.pool.clone(),
        state: match (worker.dead, live, worker.draining) {
            (true, _, _) => "gone",
            (false, false, _) => "silent",
            (false, true, true) => "draining",
            (false, true, false) => "live",
        },
        load,
        capacity: worker.capacity,
        version: worker.version,
        beat_age_ms: fleet::beat_age_ms(worker, now),
    }
}

fn placement_view((placement, running, agents): &(Placement, bool, u64)) -> PlacementView {
    let desired = if *running { Desired::Running } else { Desired::Stopped };
    PlacementView { placement: placement.as_str(), desired: desired.as_str(), agents: *agents }
}

fn waiting_view(waiting: &Waiting) -> WaitingView {
    WaitingView {
        code: waiting.code.clone(),
        text: waiting.text.clone(),
        agents: waiting.agents,
        example: waiting.example,
    }
}

fn month_view(month: Month, total: Total) -> MonthView {
    MonthView {
        month: month.0,
        due: total.all.due,
        on_time: total.all.on_time,
        percent: percent(total.all.per_100k()),
        agents: total.agents,
        below_target: total.below,
    }
}

fn worst_view(npub: Npub, kept: Availability) -> WorstView {
    WorstView { npub, due: kept.due, on_time: kept.on_time, percent: percent(kept.per_100k()) }
}
