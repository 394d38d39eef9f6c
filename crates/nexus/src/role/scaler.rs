//! `nexus scaler`: runs as many workers of one pool and region on this machine as `/v1/fleet` says there should be.
//!
//! How many is decided in `nexus_core::placement::Crew`. Workers are processes of this program with this environment and
//! configuration. Should the scaler be killed, they live on, and the next one counts them as those of others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nexus_client::{Api, Auth, file};
use nexus_core::placement::{Crew, CrewRules, CrewStep, Seen};
use nexus_core::time::random;
use nexus_core::{Clock, Entropy, MonoMs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::{health, listen, stop};
use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::Global;
use crate::config::{Config, Loaded};
use crate::output::Output;
use crate::role;

/// An answer that takes longer is none.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest line that a worker may print when it is ready.
const MAX_LINE: u64 = 16 * 1024;

pub async fn run(loaded: Loaded, global: &Global, output: Output) -> anyhow::Result<()> {
    let config = loaded.config;
    if config.worker.id_file.is_some() {
        bail!(
            "workers of a scaler can't share worker.id_file\n  next: take it out of the configuration; each start is a new worker"
        );
    }
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let api = open_api(&config, &clock, &entropy)?;
    let (listener, at) = listen::bind("health", "--health-port", config.health.bind, config.health.port).await?;
    let shown = Arc::new(Mutex::new(Shown::default()));
    let router = Router::new()
        .route("/healthz", get(async || Json(json!({ "alive": true }))))
        .route("/readyz", get(ready))
        .with_state(shown.clone());
    let _health = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await }));
    let (region, pool) = (&config.worker.region, &config.worker.pool);
    let document = json!({
        "ready": true, "role": "scaler", "region": region, "pool": pool, "health": health::url(at),
        "process": std::process::id(),
    });
    if output.json {
        output.record(&document);
    } else {
        output.line(format!("Scaling workers in {region}, pool {pool}\nHealth at {}", health::url(at)));
    }
    let rules = CrewRules {
        min: config.scaler.min_workers,
        max: config.scaler.max_workers,
        settle_ms: config.scaler.settle_ms,
    };
    let scaler = Scaler {
        config_file: global.config.clone(),
        config,
        api,
        clock,
        entropy,
        crew: Crew::new(rules),
        members: BTreeMap::new(),
        ends: JoinSet::new(),
        numbers: 0,
        shown,
    };
    scaler.run().await
}

fn open_api(config: &Config, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> anyhow::Result<Api> {
    let Some(origin) = &config.scaler.api else {
        bail!(
            "a scaler asks a control plane how many workers there should be\n  next: set scaler.api (NEXUS_SCALER_API) to its origin"
        );
    };
    let Some(path) = &config.scaler.token_file else {
        bail!(
            "a scaler needs an operator's token\n  next: set scaler.token_file (NEXUS_SCALER_TOKEN_FILE); `nexus token create --scope read` makes one"
        );
    };
    let token = Zeroizing::new(file::read_secret(path)?.trim().to_owned());
    Ok(Api::new(origin.clone(), Auth::Bearer(token), Arc::clone(clock), Arc::clone(entropy))?)
}

struct Scaler {
    config: Config,
    config_file: Option<PathBuf>,
    api: Api,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    crew: Crew,
    /// By number, in the order of their starts.
    members: BTreeMap<u64, Member>,
    ends: JoinSet<(u64, std::io::Result<ExitStatus>)>,
    numbers: u64,
    shown: Arc<Mutex<Shown>>,
}

struct Member {
    process: Option<Pid>,
    started: MonoMs,
    /// Known when it is ready.
    id: Arc<Mutex<Option<String>>>,
    draining: bool,
}

/// What `/readyz` tells.
#[derive(Default)]
struct Shown {
    problem: Option<String>,
    answered: bool,
    target: u32,
    workers: Vec<Value>,
}

impl Scaler {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut rounds = tokio::time::interval(Duration::from_millis(self.config.scaler.period_ms));
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let told = stop::requested();
        tokio::pin!(told);
        loop {
            tokio::select! {
                biased;
                () = &mut told => return self.end().await,
                Some(ended) = self.ends.join_next() => {
                    if let Ok((number, status)) = ended {
                        self.ended(number, &status);
                    }
                }
                _ = rounds.tick() => self.round().await,
            }
        }
    }

    async fn round(&mut self) {
        let seen = match tokio::time::timeout(API_TIMEOUT, self.api.get("/v1/fleet")).await {
            Ok(Ok(fleet)) => self.read(&fleet),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err("the control plane does not answer in time".to_owned()),
        };
        let seen = match seen {
            Ok(seen) => {
                self.show(None);
                Some(seen)
            }
            Err(problem) => {
                tracing::warn!(%problem, "how many workers there should be is not known; those there are stay");
                self.show(Some(problem));
                None
            }
        };
        let running =
            u32::try_from(self.members.values().filter(|member| !member.draining).count()).unwrap_or(u32::MAX);
        match self.crew.look(seen, running, self.clock.mono()) {
            CrewStep::Start(count) => (0..count).for_each(|_| self.start()),
            CrewStep::Drain(count) => self.drain(count),
            CrewStep::Stay => {}
        }
        let problem = self.shown.lock().unwrap_or_else(PoisonError::into_inner).problem.clone();
        self.show(problem);
    }

    /// What the fleet wants here, and how many live workers it has that are not ours.
    fn read(&self, fleet: &Value) -> Result<Seen, String> {
        let (region, pool) = (self.config.worker.region.as_str(), self.config.worker.pool.as_str());
        let here = |row: &&Value| row["region"] == region && row["pool"] == pool;
        let rows = |name: &str| fleet[name].as_array().ok_or_else(|| format!("the answer has no `{name}`"));
        let wanted = rows("regions")?.iter().find(here).map_or(Some(0), |row| row["desired_workers"].as_u64());
        let desired =
            wanted.and_then(|count| u32::try_from(count).ok()).ok_or("the answer has no `desired_workers`")?;
        let ours: Vec<String> = self.members.values().filter_map(Member::id).collect();
        let others = rows("workers")?.iter().filter(here).filter(|row| {
            row["state"] == "live" && row["id"].as_str().is_some_and(|id| ours.iter().all(|own| own != id))
        });
        Ok(Seen { desired, others: u32::try_from(others.count()).unwrap_or(u32::MAX) })
    }

    fn start(&mut self) {
        self.numbers += 1;
        let number = self.numbers;
        match self.spawn() {
            Ok(mut child) => {
                let process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                let id = Arc::new(Mutex::new(None));
                tracing::info!(process = child.id(), "worker started");
                let told = id.clone();
                self.ends.spawn(async move {
                    listen_to(&mut child, &told).await;
                    (number, child.wait().await)
                });
                self.members.insert(number, Member { process, started: self.clock.mono(), id, draining: false });
            }
            Err(error) => {
                tracing::error!(%error, "a worker can't be started");
                self.pause(0);
            }
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(path) = &self.config_file {
            command.arg("--config").arg(path);
        }
        command
            .args(["worker", "--json", "--health-port", "0"])
            .args(["--region", &self.config.worker.region, "--pool", &self.config.worker.pool])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal reaches this process alone, which then tells its workers.
            .process_group(0)
            .spawn()
    }

    /// The last ones started hand their agents over and end.
    fn drain(&mut self, count: u32) {
        let running = self.members.values_mut().rev().filter(|member| !member.draining);
        for member in running.take(usize::try_from(count).unwrap_or(usize::MAX)) {
            tracing::info!(worker = member.id(), "worker told to drain");
            member.draining = true;
            member.signal(Signal::TERM);
        }
    }

    fn ended(&mut self, number: u64, status: &std::io::Result<ExitStatus>) {
        let Some(member) = self.members.remove(&number) else { return };
        let status = status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        if member.draining {
            tracing::info!(worker = member.id(), %status, "worker ended");
        } else {
            let pause_ms = self.pause(self.clock.mono().since(member.started));
            tracing::error!(worker = member.id(), %status, pause_ms, "a worker ended by itself; another is started after a pause");
        }
        let problem = self.shown.lock().unwrap_or_else(PoisonError::into_inner).problem.clone();
        self.show(problem);
    }

    fn pause(&mut self, lived_ms: u64) -> u64 {
        let [jitter] = random::<1>(&*self.entropy);
        self.crew.crashed(lived_ms, jitter, self.clock.mono())
    }

    fn show(&self, problem: Option<String>) {
        let worker = |member: &Member| {
            let process = member.process.map(Pid::as_raw_nonzero);
            json!({ "worker": member.id(), "process": process, "draining": member.draining })
        };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.answered |= problem.is_none();
        shown.problem = problem;
        shown.target = self.crew.target();
        shown.workers = self.members.values().map(worker).collect();
    }

    /// Drains all. Told again, it has them end at once; what is left after their time is killed.
    async fn end(mut self) -> anyhow::Result<()> {
        tracing::info!(workers = self.members.len(), "told to stop: draining all workers");
        self.drain(u32::MAX);
        self.show(Some("the scaler stops".to_owned()));
        let limit = Duration::from_millis(self.config.worker.drain_ms) + role::STOP_TIMEOUT;
        let again = async {
            stop::requested().await;
        };
        tokio::select! {
            ended = tokio::time::timeout(limit, self.all_ended()) => {
                if ended.is_ok() {
                    return Ok(());
                }
            }
            () = again => {}
        }
        // A worker that hears it twice ends at once.
        self.members.values().for_each(|member| member.signal(Signal::TERM));
        if tokio::time::timeout(role::STOP_TIMEOUT, self.all_ended()).await.is_err() {
            self.members.values().for_each(|member| member.signal(Signal::KILL));
            self.all_ended().await;
        }
        bail!("not every worker had the time to hand its agents over; they are taken over as from dead ones")
    }

    async fn all_ended(&mut self) {
        while let Some(ended) = self.ends.join_next().await {
            if let Ok((number, status)) = ended {
                self.ended(number, &status);
            }
        }
    }
}

impl Member {
    fn id(&self) -> Option<String> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn signal(&self, signal: Signal) {
        // It may have ended a moment ago: then there is nothing to tell it, and its number is not free before it was waited for.
        if let Some(process) = self.process
            && let Err(error) = kill_process(process, signal)
        {
            tracing::debug!(%error, "a worker was not told");
        }
    }
}

/// Reads the one line that a worker prints when it is ready.
async fn listen_to(child: &mut Child, id: &Mutex<Option<String>>) {
    let Some(stdout) = child.stdout.take() else { return };
    let mut line = String::new();
    let mut reader = BufReader::new(stdout.take(MAX_LINE));
    if reader.read_line(&mut line).await.is_ok()
        && let Ok(said) = serde_json::from_str::<Value>(&line)
    {
        *id.lock().unwrap_or_else(PoisonError::into_inner) = said["worker"].as_str().map(str::to_owned);
    }
}

async fn ready(State(shown): State<Arc<Mutex<Shown>>>) -> Response {
    let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    let ready = shown.answered && shown.problem.is_none();
    let waiting = (!shown.answered).then(|| "the control plane was not asked yet".to_owned());
    let mut check = json!({ "name": "control", "ready": ready });
    if let Some(reason) = shown.problem.clone().or(waiting) {
        check["reason"] = Value::String(reason);
    }
    let body = json!({ "ready": ready, "checks": [check], "target_workers": shown.target, "workers": shown.workers });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}
