//! How late timers are: many heartbeats due within seconds on one worker.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use nexus_bus::{Bus, Heard, Wake};
use nexus_core::{Npub, UnixMs};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::idle::row;
use super::resting::{Crowd, Place};
use super::spread::Spread;
use super::{World, place};
use crate::cli::TimersArgs;
use crate::output::{Output, group};

const GOAL_P50_MS: f64 = 5.0;
const GOAL_P99_MS: f64 = 25.0;
/// After the last was due.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
pub struct Timers {
    ticks: usize,
    seconds: u64,
    cores: usize,
    /// From due to begun.
    begun: Spread,
    /// From due to durable and announced.
    durable: Spread,
}

pub async fn run(world: &World, args: &TimersArgs) -> anyhow::Result<Timers> {
    let directory = place(&args.directory()?)?;
    let ticks = args.ticks as usize;
    let grace = 8_000 + i64::from(args.ticks);
    let span = i64::try_from(args.seconds)? * 1_000;
    let crowd = Crowd { agents: ticks, heartbeat_secs: 86_400, due_ms: grace..grace + span };
    let (host, made_at) = Place::open(world, directory.path())?.fill(&crowd).await?;
    let due = due(&host.path)?;
    let (reconciler, worker) = (host.reconciler()?, host.worker());
    let mut bus = host.bus.subscribe();
    host.wait_placed(&worker, ticks, 60_000, Duration::from_millis(50)).await?;
    if world.clock.now() >= made_at.plus_ms(grace - 1_200) {
        bail!("placing took too long for this measurement\n  next: give fewer --ticks");
    }
    let mut heard: HashMap<Npub, UnixMs> = HashMap::with_capacity(ticks);
    let listening = async {
        while heard.len() < ticks {
            match bus.recv().await {
                // The first event of an agent that comes when it is due is that of its tick.
                Ok(Heard::Wake(Wake::Event { npub, .. })) => {
                    let now = world.clock.now();
                    if due.get(&npub).is_some_and(|due| now >= *due) {
                        heard.entry(npub).or_insert(now);
                    }
                }
                Ok(Heard::Wake(_) | Heard::Lagged) => {}
                Err(_) => break,
            }
        }
    };
    let limit = Duration::from_secs(args.seconds) + Duration::from_millis(grace.unsigned_abs()) + PATIENCE;
    let _ = tokio::time::timeout(limit, listening).await;
    worker.stop().await;
    reconciler.stop().await;
    if heard.len() < ticks {
        bail!("only {} of {ticks} ticks were seen", heard.len());
    }
    let durable = heard.iter().filter_map(|(npub, at)| Some((at.0 - due.get(npub)?.0).unsigned_abs() * 1_000));
    let durable = Spread::of(durable.collect());
    let begun = begun(&host.path, &due)?;
    Ok(Timers {
        ticks,
        seconds: args.seconds,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        begun,
        durable,
    })
}

/// When each agent is due.
fn due(path: &std::path::Path) -> anyhow::Result<HashMap<Npub, UnixMs>> {
    pairs(path, "SELECT npub, next_tick_at FROM agent")?
        .map_or(Ok(HashMap::new()), |pairs| Ok(pairs.into_iter().collect()))
}

fn begun(path: &std::path::Path, due: &HashMap<Npub, UnixMs>) -> anyhow::Result<Spread> {
    let begun = pairs(path, "SELECT npub, started_at FROM tick")?.unwrap_or_default();
    let late = begun.into_iter().filter_map(|(npub, at)| Some((at.0 - due.get(&npub)?.0).unsigned_abs() * 1_000));
    Ok(Spread::of(late.collect()))
}

fn pairs(path: &std::path::Path, sql: &str) -> anyhow::Result<Option<Vec<(Npub, UnixMs)>>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((Npub::from_bytes(row.get(0)?), UnixMs(row.get(1)?))))?;
    Ok(Some(rows.collect::<Result<_, _>>()?))
}

impl Timers {
    pub fn text(&self, output: &Output) -> String {
        let rows = [
            row("ticks", group(self.ticks as u64), "", None, output),
            row("due within, s", self.seconds.to_string(), "", None, output),
            row("late when begun, p50 ms", format!("{:.0}", self.begun.p50_ms), "", None, output),
            row("late when begun, p99 ms", format!("{:.0}", self.begun.p99_ms), "", None, output),
            row(
                "late when durable, p50 ms",
                format!("{:.0}", self.durable.p50_ms),
                "5",
                Some(self.durable.p50_ms < GOAL_P50_MS),
                output,
            ),
            row(
                "late when durable, p99 ms",
                format!("{:.0}", self.durable.p99_ms),
                "25",
                Some(self.durable.p99_ms < GOAL_P99_MS),
                output,
            ),
            row("late when durable, most ms", format!("{:.0}", self.durable.max_ms), "", None, output),
        ];
        output.table(["", "here", "goal", ""], rows)
    }
}
