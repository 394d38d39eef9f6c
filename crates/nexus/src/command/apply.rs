//! `nexus apply`: many agents, brought to what a manifest says.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use comfy_table::Cell;
use futures_util::{StreamExt, TryStreamExt};
use nexus_client::api::Call;
use nexus_client::create::{Draft, prepare};
use nexus_client::manifest::{Existing, MAX_BYTES, Manifest, Run, Step, Wanted};
use nexus_client::pool::Offer;
use nexus_client::{Api, Error, OwnerKeys, policy};
use nexus_core::{AgentConfig, Npub};
use nexus_seal::{Passphrase, SignedPool};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::agent::create::{keep_envelope, passphrase, pinned_pool};
use super::agent::list;
use crate::cli::{ApplyArgs, Global};
use crate::output::Output;
use crate::prompt;
use crate::session::{Session, npub_of};

/// Agents that are read, or changed, side by side.
const SIDE_BY_SIDE: usize = 8;
/// Agents that are made at once.
const MAX_CORES: usize = 4;
/// Times that a call is repeated which the host had no room for.
const PATIENCE: u32 = 20;

/// An agent of the manifest, and what is to be done about it.
struct Planned<'a> {
    name: &'a str,
    wanted: &'a Wanted,
    npub: Option<Npub>,
    steps: Vec<Step>,
}

pub async fn run(args: &ApplyArgs, global: &Global, output: Output) -> anyhow::Result<()> {
    let manifest = Manifest::read(&read(&args.file)?)?;
    let session = Session::open(global, output)?;
    let plan = plan(&session, &manifest).await?;
    let to_do: Vec<&Planned<'_>> = plan.iter().filter(|one| !one.steps.is_empty()).collect();
    let shown = show(&plan);
    if to_do.is_empty() || args.plan {
        session.output.either(&json!({ "plan": shown }), || table(&session, &to_do, plan.len()));
        return Ok(());
    }
    prompt::say(table(&session, &to_do, plan.len()));
    if !args.yes {
        if !prompt::terminal() {
            return Err(Error::Usage("nothing was changed\n  next: give --yes to do what the plan says".into()).into());
        }
        if !prompt::confirm(&format!("Do this for {} agents?", to_do.len())) {
            return Err(Error::Usage("nothing was changed\n  next: answer y, or give --yes".into()).into());
        }
    }
    let maker = Maker::new(&session, args, &to_do).await?;
    let (mut done, mut failed) = (0, Vec::new());
    let results = futures_util::stream::iter(to_do.iter().map(|one| {
        let (session, maker) = (&session, &maker);
        async move { (one.name, carry_out(session, maker, one).await) }
    }));
    let mut results = results.buffer_unordered(SIDE_BY_SIDE);
    while let Some((name, result)) = results.next().await {
        match result {
            Ok(()) => done += 1,
            Err(error) => failed.push((name, error)),
        }
        prompt::say(format!("{} of {}: {name}", done + failed.len(), to_do.len()));
    }
    report(&session, done, &failed, shown)
}

fn report(session: &Session, done: usize, failed: &[(&str, Error)], plan: Vec<Value>) -> anyhow::Result<()> {
    let problems: BTreeMap<&str, String> = failed.iter().map(|(name, error)| (*name, error.to_string())).collect();
    let document = json!({ "plan": plan, "done": done, "failed": problems });
    session.output.either(&document, || format!("{done} agents are as the manifest says now."));
    let Some((name, first)) = failed.first() else { return Ok(()) };
    Err(Error::Failed(format!(
        "{} agents are not: {name}: {first}\n  next: run the command again; what is done is not done twice",
        failed.len()
    ))
    .into())
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { attempted: "reading", path: path.to_owned(), source };
    let mut text = String::new();
    match path == Path::new("-") {
        true => std::io::stdin().take(MAX_BYTES + 1).read_to_string(&mut text),
        false => std::fs::File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_string(&mut text),
    }
    .map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::Usage(format!("the manifest has more than {MAX_BYTES} bytes\n  next: split it")));
    }
    Ok(text)
}

/// What the host has of each agent, and what is to be done about it. Nothing is changed.
async fn plan<'a>(session: &Session, manifest: &'a Manifest) -> Result<Vec<Planned<'a>>, Error> {
    let listed = list::all(session, None, None).await?;
    let mut known: BTreeMap<&str, &Value> = BTreeMap::new();
    for agent in &listed {
        known.insert(agent["name"].as_str().unwrap_or_default(), agent);
    }
    let owner = session.context.owner.as_ref().map(nexus_client::OwnerKey::npub);
    let owner = owner.ok_or_else(|| Error::NoOwnerKey(session.context.name.clone()))?;
    let known = &known;
    let agents = manifest.agents.iter().map(|(name, wanted)| async move {
        let existing = match known.get(name.as_str()) {
            Some(agent) => Some(existing(session, agent, &owner).await?),
            None => None,
        };
        let steps = wanted.plan(name, existing.as_ref())?;
        Ok(Planned { name, wanted, npub: existing.map(|existing| existing.npub), steps })
    });
    futures_util::stream::iter(agents).buffered(SIDE_BY_SIDE).try_collect().await
}

async fn existing(session: &Session, listed: &Value, owner: &Npub) -> Result<Existing, Error> {
    let npub = npub_of(listed)?;
    let path = format!("/v1/agents/{npub}");
    let status = patiently(|| session.api.get(&path)).await?;
    let odd = |error: serde_json::Error| Error::Protocol { attempted: "reading an agent", why: error.to_string() };
    let config: AgentConfig = serde_json::from_value(status["config"].clone()).map_err(odd)?;
    let signed = patiently(|| policy::stored(&session.api, &npub, owner)).await?;
    let desired = if listed["desired"] == "running" { Run::Running } else { Run::Stopped };
    Ok(Existing { npub, desired, config, policy: signed.map(|signed| signed.policy) })
}

/// Repeats a call that the host had no room for, when it says that there is some.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> Result<T, Error> {
    let mut left = PATIENCE;
    loop {
        match call().await {
            Err(Error::Api(problem)) if problem.code == "rate_limited" && left > 0 => {
                left -= 1;
                let secs = problem.retry_after_secs.unwrap_or(1).clamp(1, 60);
                tokio::time::sleep(Duration::from_secs(secs)).await;
            }
            said => return said,
        }
    }
}

fn show(plan: &[Planned<'_>]) -> Vec<Value> {
    let row = |one: &Planned<'_>| {
        let steps: Vec<String> = one.steps.iter().map(Step::to_string).collect();
        json!({ "name": one.name, "steps": steps })
    };
    plan.iter().map(row).collect()
}

fn table(session: &Session, to_do: &[&Planned<'_>], all: usize) -> String {
    if to_do.is_empty() {
        return format!("Nothing to do: {all} agents are as the manifest says.");
    }
    let rows = to_do.iter().map(|one| {
        let steps: Vec<String> = one.steps.iter().map(Step::to_string).collect();
        [Cell::new(one.name), Cell::new(steps.join("; "))]
    });
    let table = session.output.table(["AGENT", "WHAT IS TO BE DONE"], rows);
    format!("{table}\n{} agents to change, {} as they should be.", to_do.len(), all - to_do.len())
}

/// What changing agents takes beside the session: asked of the user once for all of them.
struct Maker {
    keys: Option<Arc<OwnerKeys>>,
    api: Option<Api>,
    /// For new agents.
    new: Option<Arc<(Passphrase, Offer, SignedPool)>>,
    /// Closing an envelope takes a core for half a second and 256 MiB.
    cores: Semaphore,
}

impl Maker {
    async fn new(session: &Session, args: &ApplyArgs, to_do: &[&Planned<'_>]) -> Result<Self, Error> {
        let any = |wanted: fn(&Step) -> bool| to_do.iter().any(|one| one.steps.iter().any(wanted));
        let creates = any(|step| matches!(step, Step::Create));
        let signs = creates || any(|step| matches!(step, Step::Sign(..)));
        let keys = signs.then(|| session.owner_keys()).transpose()?.map(Arc::new);
        let new = match creates {
            false => None,
            true => {
                let (passphrase, generated) = passphrase(session, args.passphrase_file.as_deref())?;
                if generated {
                    prompt::say(format!(
                        "Passphrase of the new agents' mnemonics, shown once:\n\n    {}\n",
                        passphrase.expose()
                    ));
                }
                let (offer, signed) = pinned_pool(session).await?;
                Some(Arc::new((passphrase, offer, signed)))
            }
        };
        let api = keys.as_ref().map(|keys| session.as_owner(keys));
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_CORES);
        Ok(Self { keys, api, new, cores: Semaphore::new(cores) })
    }

    fn owner(&self) -> Result<(&Arc<OwnerKeys>, &Api), Error> {
        let missing = || Error::Failed("the owner key was not opened".to_owned());
        Ok((self.keys.as_ref().ok_or_else(missing)?, self.api.as_ref().ok_or_else(missing)?))
    }
}

async fn carry_out(session: &Session, maker: &Maker, planned: &Planned<'_>) -> Result<(), Error> {
    let mut npub = planned.npub;
    for step in &planned.steps {
        let missing = || Error::Failed("the agent is not there".to_owned());
        match step {
            Step::Create => npub = Some(create(session, maker, planned).await?),
            Step::Configure(patch) => {
                let path = format!("/v1/agents/{}", npub.ok_or_else(missing)?);
                patiently(|| async {
                    let read = session.api.call(Call::new(Method::GET, path.as_str())).await?;
                    let call = Call::new(Method::PATCH, path.as_str()).json(&json!({ "config": patch }));
                    session.api.call(call.header("if-match", read.etag.as_deref().unwrap_or("*"))).await
                })
                .await?;
            }
            Step::Sign(next, _) => {
                let (keys, api) = maker.owner()?;
                let npub = npub.ok_or_else(missing)?;
                let event = policy::sign(&*keys.signer(), next, session.clock.now()).await?;
                patiently(|| policy::store(api, &npub, &event)).await?;
            }
            Step::Start => post(session, npub.ok_or_else(missing)?, "start", &json!({})).await?,
            Step::Stop => post(session, npub.ok_or_else(missing)?, "stop", &json!({ "when": "after_tick" })).await?,
        }
    }
    Ok(())
}

async fn post(session: &Session, npub: Npub, what: &str, body: &Value) -> Result<(), Error> {
    let path = format!("/v1/agents/{npub}/{what}");
    patiently(|| session.api.post(&path, body)).await.map(drop)
}

async fn create(session: &Session, maker: &Maker, planned: &Planned<'_>) -> Result<Npub, Error> {
    let (keys, api) = maker.owner()?;
    let missing = || Error::Failed("the host's pool was not read".to_owned());
    let new = Arc::clone(maker.new.as_ref().ok_or_else(missing)?);
    let wanted = planned.wanted;
    // Agent and version are set where it is signed.
    let document = wanted.document(&keys.npub(), 1);
    let draft = Draft {
        name: planned.name.to_owned(),
        config: wanted.config()?,
        mnemonic: None,
        passphrase: new.0.clone(),
        policy: Some(document.to_string()),
        persona: wanted.persona.clone().unwrap_or_default(),
        goals: wanted.goals.clone().unwrap_or_default(),
        custody: wanted.custody(),
        bunker: None,
    };
    let broken = |error: &dyn std::fmt::Display| Error::Failed(format!("making the agent: {error}"));
    let prepared = {
        let _core = maker.cores.acquire().await.map_err(|error| broken(&error))?;
        let (api, keys, runtime) = (session.api.clone(), Arc::clone(keys), Handle::current());
        let made = spawn_blocking(move || runtime.block_on(prepare(&api, &keys, &new.1, &new.2, draft)));
        made.await.map_err(|error| broken(&error))??
    };
    keep_envelope(session, &prepared.npub(), prepared.envelope())?;
    patiently(|| prepared.send(api)).await?;
    Ok(prepared.npub())
}
