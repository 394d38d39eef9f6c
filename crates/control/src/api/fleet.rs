//! The fleet, for its operators.

use axum::Json;
use axum::extract::State;
use nexus_core::availability::{Availability, Month, TARGET_PER_100K};
use nexus_core::status::Scope;
use nexus_core::{Npub, UnixMs};
use nexus_store::availability::Total;
use nexus_store::fleet::Waiting;
use nexus_store::worker::Worker;
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use super::status::percent;
use crate::app::Shared;
use crate::auth::Caller;
use crate::fleet::{self, Fleet};
use crate::problem::{Problem, ProblemBody};

/// The whole fleet.
#[derive(Debug, Serialize, ToSchema)]
pub struct FleetView {
    #[schema(value_type = i64)]
    at_ms: UnixMs,
    workers: Vec<WorkerView>,
    /// By pool and region: what there is, and how many workers there should be.
    regions: Vec<RegionView>,
    agents: AgentsView,
    /// Agents that should run and do not, by reason, most first.
    waiting: Vec<WaitingView>,
    availability: AvailabilityView,
    bus: BusView,
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
    caller.require(Scope::Read)?;
    if !app.config.operators.includes(&caller.pubkey) {
        return Err(Problem::not_found());
    }
    let fleet = fleet::look(&app).await?;
    Ok(Json(view(&app, &fleet)))
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
        waiting: fleet.waiting.iter().map(waiting_view).collect(),
        availability: AvailabilityView {
            target_percent: percent(TARGET_PER_100K),
            this_month: month_view(month, fleet.this_month),
            last_month: month_view(month.before(), fleet.last_month),
            worst: fleet.worst.iter().map(|(npub, kept)| worst_view(*npub, *kept)).collect(),
        },
        bus: BusView { connected: health.connected, problem: health.problem },
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
