//! Whole ticks: mentions, signatures, relay, a provider that is paid over the development network, and a reply.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::task::JoinSet;

use super::idle::row;
use super::live::Live;
use super::profile::{Profile, Share};
use super::spread::Spread;
use super::watch::Watch;
use super::{World, memory, place};
use crate::cli::FullArgs;
use crate::output::{Output, group};

const PATIENCE: Duration = Duration::from_secs(60);
/// Control plane, worker, relay, provider and development network together.
const GOAL_MEMORY: u64 = 300 * 1_048_576;
/// Of one agent: more in an hour are refused.
pub const MAX_EACH: u32 = 50;

#[derive(Debug, Serialize)]
pub struct Full {
    ticks: usize,
    agents: usize,
    cores: usize,
    ticks_per_second: f64,
    /// From sending the mention to `tick_completed`, all agents at once.
    whole: Spread,
    /// Processor time of the host for one tick, in milliseconds: relay, control, worker, provider, money, store.
    host_cpu_ms_per_tick: f64,
    /// Of one core, while the ticks ran.
    host_cpu_share: f64,
    /// In the worker, until the record of each step was durable: of the whole time from begun to completed.
    steps: Vec<Share>,
    /// The host's processor time, by the names of its threads.
    threads: Vec<Share>,
    /// Of the whole host, at most, in bytes.
    host_memory_bytes: u64,
}

pub async fn run(world: &World, args: &FullArgs, directory: &std::path::Path) -> anyhow::Result<Full> {
    let directory = place(directory)?;
    let host = std::sync::Arc::new(Live::start(world, directory.path()).await?);
    let watch = Watch::start();
    let mut agents = Vec::new();
    for n in 0..args.full_agents {
        agents.push(host.agent(&format!("agent{n}"), watch).await?);
    }
    let each = args.each.min(MAX_EACH) as usize;
    let process = host.process().context("the host ended")?;
    let (before, began) = (Profile::of(process, host.api()).await?, watch.elapsed());
    let mut running = JoinSet::new();
    for mut agent in agents {
        let host = host.clone();
        running.spawn(async move {
            let mut samples = Vec::new();
            for n in 0..each {
                let sent = watch.elapsed();
                host.mention(&agent.npub, &format!("good morning {n}")).await?;
                let done = agent.wait("tick_completed", PATIENCE).await?;
                samples.push(u64::try_from((done.at - sent).as_micros()).unwrap_or(u64::MAX));
            }
            anyhow::Ok(samples)
        });
    }
    let mut samples = Vec::new();
    while let Some(done) = running.join_next().await {
        samples.extend(done??);
    }
    let (after, took) = (Profile::of(process, host.api()).await?, watch.elapsed() - began);
    let host_memory_bytes = memory::peak_of(process)?;
    if let Some(host) = std::sync::Arc::into_inner(host) {
        host.stop().await;
    }
    let ticks = samples.len();
    let (steps, threads) = (after.steps_since(&before, ticks), after.threads_since(&before, ticks));
    let cpu_ms_per_tick: f64 = threads.iter().map(|share| share.ms_per_tick).sum();
    Ok(Full {
        ticks,
        agents: args.full_agents as usize,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        ticks_per_second: ticks as f64 / took.as_secs_f64(),
        whole: Spread::of(samples),
        host_cpu_ms_per_tick: cpu_ms_per_tick,
        host_cpu_share: cpu_ms_per_tick * ticks as f64 / took.as_secs_f64() / 1_000.0,
        steps,
        threads,
        host_memory_bytes,
    })
}

impl Full {
    pub fn text(&self, output: &Output) -> String {
        let rows = [
            row("whole ticks", group(self.ticks as u64), "", None, output),
            row("agents at once", group(self.agents as u64), "", None, output),
            row("ticks a second", format!("{:.1}", self.ticks_per_second), "", None, output),
            row("mention to tick_completed, p50 ms", format!("{:.1}", self.whole.p50_ms), "", None, output),
            row("mention to tick_completed, p99 ms", format!("{:.1}", self.whole.p99_ms), "", None, output),
            row("host's processor time, ms a tick", format!("{:.1}", self.host_cpu_ms_per_tick), "", None, output),
            row("host's share of a core", format!("{:.2}", self.host_cpu_share), "", None, output),
            row(
                "host's memory at most, MiB",
                format!("{:.0}", self.host_memory_bytes as f64 / 1_048_576.0),
                "300",
                Some(self.host_memory_bytes < GOAL_MEMORY),
                output,
            ),
        ];
        let table = output.table(["", "here", "goal", ""], rows);
        let shares = |title: &str, shares: &[Share]| {
            let rows = shares.iter().map(|share| [share.what.clone(), format!("{:.2}", share.ms_per_tick)]);
            output.table([title, "ms a tick"], rows.map(|row| row.map(comfy_table::Cell::new)))
        };
        let (steps, threads) = (shares("step", &self.steps), shares("processor, by thread", &self.threads));
        format!("{table}\n\n{steps}\n\n{threads}")
    }
}
