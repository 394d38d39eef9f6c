//! From a mention that the relay takes to `tick_started` on an open WebSocket.

use std::time::Duration;

use serde::Serialize;

use super::idle::row;
use super::live::Live;
use super::spread::Spread;
use super::watch::Watch;
use super::{World, place};
use crate::cli::WakeArgs;
use crate::output::{Output, group};

const GOAL_P50_MS: f64 = 5.0;
const GOAL_P99_MS: f64 = 25.0;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
pub struct Wake {
    wakes: usize,
    agents: usize,
    cores: usize,
    /// From handing the signed event to the relay's connection to its OK.
    accepted: Spread,
    /// From the relay's OK to `tick_started`; nothing when that came first.
    after_ok: Spread,
    /// From sending the event to `tick_started`.
    from_sending: Spread,
    /// From sending the event to `tick_completed`: thought, paid and answered.
    whole: Spread,
}

pub async fn run(world: &World, args: &WakeArgs) -> anyhow::Result<Wake> {
    let directory = place(&args.directory()?)?;
    let host = Live::start(world, directory.path()).await?;
    let watch = Watch::start();
    let mut agents = Vec::new();
    for n in 0..args.agents {
        agents.push(host.agent(&format!("agent{n}"), watch).await?);
    }
    let mut samples: [Vec<u64>; 4] = Default::default();
    for n in 0..args.wakes as usize {
        let at = n % agents.len();
        let agent = &mut agents[at];
        let sent = watch.elapsed();
        host.mention(&agent.npub, &format!("good morning {n}")).await?;
        let accepted = watch.elapsed();
        let started = agent.wait("tick_started", PATIENCE).await?;
        let completed = agent.wait("tick_completed", PATIENCE).await?;
        let times = [accepted - sent, started.at.saturating_sub(accepted), started.at - sent, completed.at - sent];
        for (samples, time) in samples.iter_mut().zip(times) {
            samples.push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }
    drop(agents);
    host.stop().await;
    let [accepted, after_ok, from_sending, whole] = samples.map(Spread::of);
    Ok(Wake {
        wakes: args.wakes as usize,
        agents: args.agents as usize,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        accepted,
        after_ok,
        from_sending,
        whole,
    })
}

impl Wake {
    pub fn text(&self, output: &Output) -> String {
        let ms = |ms: f64| format!("{ms:.2}");
        let rows = [
            row("mentions", group(self.wakes as u64), "", None, output),
            row("relay's OK, p50 ms", ms(self.accepted.p50_ms), "", None, output),
            row("relay's OK, p99 ms", ms(self.accepted.p99_ms), "", None, output),
            row(
                "OK to tick_started, p50 ms",
                ms(self.after_ok.p50_ms),
                "5",
                Some(self.after_ok.p50_ms < GOAL_P50_MS),
                output,
            ),
            row(
                "OK to tick_started, p99 ms",
                ms(self.after_ok.p99_ms),
                "25",
                Some(self.after_ok.p99_ms < GOAL_P99_MS),
                output,
            ),
            row("sent to tick_started, p50 ms", ms(self.from_sending.p50_ms), "", None, output),
            row("sent to tick_started, p99 ms", ms(self.from_sending.p99_ms), "", None, output),
            row("sent to tick_completed, p50 ms", ms(self.whole.p50_ms), "", None, output),
            row("sent to tick_completed, p99 ms", ms(self.whole.p99_ms), "", None, output),
        ];
        output.table(["", "here", "goal", ""], rows)
    }
}
