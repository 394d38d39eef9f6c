//! Where a host's time goes: what its worker says of each step, and the processor time of its threads (Linux).

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

const SUM: &str = "nexus_tick_step_seconds_sum{step=\"";
const COUNT: &str = "nexus_tick_step_seconds_count{step=\"";
/// Answers larger than this are cut off.
const MOST: u64 = 4 * 1_024 * 1_024;

/// Seconds and how often, by step; and milliseconds of processor time, by thread name.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    steps: BTreeMap<String, (f64, f64)>,
    threads: BTreeMap<String, f64>,
}

/// What one tick of a run took.
#[derive(Debug, Clone, Serialize)]
pub struct Share {
    pub what: String,
    pub ms_per_tick: f64,
}

impl Profile {
    /// What a host has done so far.
    pub async fn of(process: u32, api: &Url) -> anyhow::Result<Self> {
        let figures = metrics(api).await.context("reading the host's metrics")?;
        let mut steps: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in figures.lines() {
            if let Some((step, value)) = labelled(line, SUM) {
                steps.entry(step).or_default().0 = value;
            } else if let Some((step, value)) = labelled(line, COUNT) {
                steps.entry(step).or_default().1 = value;
            }
        }
        Ok(Self { steps, threads: threads(process)? })
    }

    /// Until each step's record was durable since `before`, for each of `ticks`.
    pub fn steps_since(&self, before: &Self, ticks: usize) -> Vec<Share> {
        let seconds =
            self.steps.iter().map(|(step, (sum, _))| (step, sum - before.steps.get(step).map_or(0.0, |was| was.0)));
        shares(seconds.map(|(step, seconds)| (step.clone(), seconds * 1_000.0)), ticks)
    }

    /// Processor time since `before`, for each of `ticks`.
    pub fn threads_since(&self, before: &Self, ticks: usize) -> Vec<Share> {
        let used = self.threads.iter().map(|(name, ms)| (name.clone(), ms - before.threads.get(name).unwrap_or(&0.0)));
        shares(used, ticks)
    }
}

/// Largest first.
fn shares(times: impl Iterator<Item = (String, f64)>, ticks: usize) -> Vec<Share> {
    let share = |(what, ms): (String, f64)| Share { what, ms_per_tick: ms / ticks.max(1) as f64 };
    let mut shares: Vec<Share> = times.filter(|(_, ms)| *ms > 0.0).map(share).collect();
    shares.sort_by(|a, b| b.ms_per_tick.total_cmp(&a.ms_per_tick));
    shares
}

fn labelled(line: &str, name: &str) -> Option<(String, f64)> {
    let (label, value) = line.strip_prefix(name)?.split_once("\"} ")?;
    Some((label.to_owned(), value.trim().parse().ok()?))
}

/// One plain request over loopback (RFC 1945: the answer ends with the connection).
async fn metrics(api: &Url) -> anyhow::Result<String> {
    let addresses = api.socket_addrs(|| None)?;
    let mut stream = TcpStream::connect(addresses.as_slice()).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {}\r\n\r\n", api.authority()).as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).await?;
    anyhow::ensure!(answer.split_whitespace().nth(1) == Some("200"), "an answer that is not 200");
    Ok(answer)
}

/// A hundred of the kernel's clock ticks are a second.
fn threads(process: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut threads = BTreeMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).context("reading processor time (Linux only)")?;
    for task in tasks.flatten() {
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("?", |(_, name)| name);
        let fields: Vec<&str> = tail.split(' ').collect();
        let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        *threads.entry(name.to_owned()).or_default() += (ticks(11) + ticks(12)) * 10.0;
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_what_the_host_says() {
        let line = "nexus_tick_step_seconds_sum{step=\"paid\"} 0.125";
        assert_eq!(labelled(line, SUM), Some(("paid".to_owned(), 0.125)));
        assert_eq!(labelled(line, COUNT), None);
        let before = Profile { steps: BTreeMap::from([("paid".to_owned(), (1.0, 4.0))]), ..Profile::default() };
        let after = Profile { steps: BTreeMap::from([("paid".to_owned(), (1.5, 8.0))]), ..Profile::default() };
        let shares = after.steps_since(&before, 10);
        assert_eq!((shares.len(), shares[0].what.as_str(), shares[0].ms_per_tick), (1, "paid", 50.0));
    }

    #[test]
    fn this_process_has_threads() {
        assert!(!threads(std::process::id()).unwrap().is_empty());
    }
}
