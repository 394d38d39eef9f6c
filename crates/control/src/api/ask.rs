//! Asking an agent's worker, which alone can open its wallet and its lock: a row, a wake-up, and a bounded wait.

use std::time::Duration;

use nexus_bus::{Heard, Wake};
use nexus_core::{Npub, TickId};
use nexus_store::wallet_request::{self, Answer as Said, WalletRequest};
use nexus_store::{Audit, Conflict};

use super::Answer;
use super::status;
use crate::app::Shared;
use crate::auth::Caller;
use crate::problem::{Code, Problem};

/// The answer is looked for this often, whatever the bus says.
const POLL_MS: u64 = 100;
/// Unanswered requests of one caller's patience: a worker that comes later finds it expired.
const EXPIRES_MS: i64 = 15_000;

/// Asks, and waits up to 10 s; none if nobody answered.
pub async fn ask(
    app: &Shared,
    npub: Npub,
    kind: &str,
    body: String,
    audit: impl Into<Option<Audit>>,
) -> Answer<Option<Said>> {
    let now = app.now();
    let id = TickId::new(now, app.random()).to_string();
    let request = WalletRequest {
        id: id.clone(),
        npub,
        kind: kind.to_owned(),
        body,
        created_at: now,
        expires_at: now.plus_ms(EXPIRES_MS),
        answer: None,
    };
    wallet_request::put(&app.store, request, audit.into()).await.map_err(|error| match error.conflict() {
        Some(Conflict::TooMany) => Problem::with(Code::RateLimited, "too many requests wait for this agent's worker"),
        _ => error.into(),
    })?;
    app.wake_agent(npub);
    wait(app, npub, &id).await
}

async fn wait(app: &Shared, npub: Npub, id: &str) -> Answer<Option<Said>> {
    let deadline = app.clock.mono().plus_ms(app.config.invoice_wait_ms);
    let mut bus = app.bus.subscribe();
    loop {
        let found = wallet_request::get(&app.store, npub, id).await?;
        if let Some(answer) = found.and_then(|request| request.answer) {
            return Ok(Some(answer));
        }
        if app.clock.mono() >= deadline {
            return Ok(None);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(POLL_MS)) => {}
            () = app.stop.cancelled() => return Ok(None),
            heard = bus.recv() => match heard {
                Ok(Heard::Wake(Wake::Event { npub: of, .. })) if of == npub => {}
                // Others' wakes must not make this read in a loop.
                _ => tokio::time::sleep(Duration::from_millis(POLL_MS / 4)).await,
            },
        }
    }
}

/// Says what stands in the way, as far as the rows know.
pub async fn unanswered(app: &Shared, caller: &Caller, npub: Npub, code: Code) -> Problem {
    let detail = match caller.agent(app, &npub.to_string()).await {
        Ok(agent) if agent.worker.is_none() => "no worker has this agent now".to_owned(),
        Ok(agent) => format!("its worker did not answer in time ({})", status::reason(&agent).text),
        Err(problem) => return problem,
    };
    Problem::with(code, detail).retry_after_secs(5)
}
