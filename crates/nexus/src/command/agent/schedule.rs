//! `nexus agent schedule`

use comfy_table::Cell;
use nexus_client::Error;
use nexus_client::api::Call;
use nexus_core::UnixMs;
use nexus_core::agent::CatchUp;
use nexus_core::schedule::plan::{Overlap, Schedule, When, moment as moment_of};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::{CatchUpArg, OverlapArg, ScheduleArgs, ScheduleCommand};
use crate::output::{moment, relative};
use crate::session::Session;

pub async fn run(session: &Session, command: ScheduleCommand) -> anyhow::Result<()> {
    match command {
        ScheduleCommand::Add(args) => add(session, &args).await,
        ScheduleCommand::List { agent } => list(session, &agent).await,
        ScheduleCommand::Remove { agent, name } => remove(session, &agent, &name).await,
    }
}

/// The schedules of an agent, as they were read.
struct Held {
    path: String,
    etag: String,
    schedules: Vec<Schedule>,
}

async fn held(session: &Session, agent: &str) -> anyhow::Result<Held> {
    let path = format!("/v1/agents/{}", session.agent(agent).await?);
    let read = session.api.call(Call::new(Method::GET, path.as_str())).await?;
    let schedules = match &read.body["config"]["schedules"] {
        Value::Null => Vec::new(),
        found => serde_json::from_value(found.clone())
            .map_err(|error| Error::Protocol { attempted: "reading schedules", why: error.to_string() })?,
    };
    Ok(Held { path, etag: read.etag.unwrap_or_else(|| "*".to_owned()), schedules })
}

async fn keep(session: &Session, held: &Held) -> Result<(), Error> {
    let body = json!({ "config": { "schedules": held.schedules } });
    let call = Call::new(Method::PATCH, held.path.as_str()).json(&body).header("if-match", &held.etag);
    session.api.call(call).await.map(|_| ())
}

async fn add(session: &Session, args: &ScheduleArgs) -> anyhow::Result<()> {
    let now = session.clock.now();
    let schedule = wanted(args, now).map_err(Error::Usage)?;
    let plan = schedule.plan().map_err(|invalid| Error::Usage(invalid.to_string()))?;
    let Some(next) = plan.next_after(now) else {
        return Err(Error::Usage(format!("schedule {:?}: it is never due again", schedule.name)).into());
    };
    let mut held = held(session, &args.agent).await?;
    match held.schedules.iter_mut().find(|there| there.name == schedule.name) {
        Some(there) => *there = schedule.clone(),
        None => held.schedules.push(schedule.clone()),
    }
    keep(session, &held).await?;
    session.output.either(&shown(&schedule, Some(next)), || {
        let (name, due) = (&schedule.name, moment(next.0));
        format!("{} is woken by {name}, first at {due} UTC ({}).", args.agent, relative(next.0, now.0))
    });
    Ok(())
}

fn wanted(args: &ScheduleArgs, now: UnixMs) -> Result<Schedule, String> {
    let when = match (&args.cron, args.every, &args.at) {
        (Some(expression), _, _) => When::Cron { expression: expression.clone(), zone: args.zone.clone() },
        (_, Some(secs), _) => When::Every { secs, from_ms: now.plus_ms(i64::from(secs) * 1_000) },
        (_, _, Some(text)) => When::Once { at_ms: moment_of(text, &args.zone)? },
        (None, None, None) => return Err("say when: --cron, --every or --at".to_owned()),
    };
    let overlap = match args.overlap {
        OverlapArg::Skip => Overlap::Skip,
        OverlapArg::QueueOne => Overlap::QueueOne,
    };
    let catch_up = match args.catch_up {
        CatchUpArg::Once => CatchUp::Once,
        CatchUpArg::Skip => CatchUp::Skip,
        CatchUpArg::All => CatchUp::All,
    };
    Ok(Schedule { name: args.name.clone(), when, overlap, catch_up, window_secs: args.window })
}

async fn list(session: &Session, agent: &str) -> anyhow::Result<()> {
    let (held, now) = (held(session, agent).await?, session.clock.now());
    let due: Vec<_> = held
        .schedules
        .iter()
        .map(|schedule| (schedule, schedule.plan().ok().and_then(|plan| plan.next_after(now))))
        .collect();
    if session.output.json {
        let schedules: Vec<Value> = due.iter().map(|(schedule, next)| shown(schedule, *next)).collect();
        session.output.document(&json!({ "schedules": schedules }));
        return Ok(());
    }
    let rows = due.iter().map(|(schedule, next)| {
        let next = next.map_or("never again".to_owned(), |at| format!("{} ({})", moment(at.0), relative(at.0, now.0)));
        let (overlap, catch_up) = (json!(schedule.overlap), json!(schedule.catch_up));
        [
            Cell::new(&schedule.name),
            Cell::new(when(&schedule.when)),
            Cell::new(next),
            Cell::new(overlap.as_str().unwrap_or_default()),
            Cell::new(catch_up.as_str().unwrap_or_default()),
        ]
    });
    session.output.line(session.output.table(["NAME", "WHEN", "NEXT (UTC)", "OVERLAP", "CATCH UP"], rows));
    Ok(())
}

fn when(when: &When) -> String {
    match when {
        When::Once { at_ms } => format!("once, {}", moment(at_ms.0)),
        When::Every { secs, .. } => format!("every {secs} s"),
        When::Cron { expression, zone } => format!("{expression} {zone}"),
    }
}

fn shown(schedule: &Schedule, next: Option<UnixMs>) -> Value {
    let mut document = json!(schedule);
    document["next_at_ms"] = json!(next);
    document
}

async fn remove(session: &Session, agent: &str, name: &str) -> anyhow::Result<()> {
    let mut held = held(session, agent).await?;
    let before = held.schedules.len();
    held.schedules.retain(|schedule| schedule.name != name);
    if held.schedules.len() == before {
        return Err(Error::NotFound(format!(
            "{agent} has no schedule {name:?}\n  next: nexus agent schedule list {agent}"
        ))
        .into());
    }
    keep(session, &held).await?;
    session.output.either(&json!({ "removed": name }), || format!("{name} wakes {agent} no more."));
    Ok(())
}
