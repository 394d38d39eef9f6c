//! Live events: the bus wakes, the store is read, nothing is skipped.
//!
//! A feed remembers the last number it gave. Each round reads what the store has after it, and only when there is
//! nothing does it wait: for a wake of this agent, or for the timer that covers lost wakes. It subscribes before it
//! reads first, so nothing falls between.

mod sse;
mod websocket;

use std::time::Duration;

use nexus_bus::{Heard, Subscription, Wake};
use nexus_core::{MonoMs, Npub};
use nexus_store::agent::Agent;
use nexus_store::event;

use crate::api::event::EventView;
use crate::app::{Shared, StreamGuard};
use crate::auth::{self, Caller};
use crate::problem::{Code, Problem};

pub use sse::sse;
pub use websocket::websocket;

/// Events read at once.
const PAGE: u32 = 100;
/// The store is read this often whatever the bus says.
const POLL_MS: u64 = 2_000;
/// Whether the caller may still read is asked this often.
const REVALIDATE_MS: u64 = 30_000;
/// A reader that takes nothing for so long is cut off.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Something is sent this often, so that dead connections show.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Why a feed is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The agent was deleted.
    Gone,
    /// The token was revoked, or the membership ended.
    Revoked,
    /// Events were pruned faster than they were read.
    Pruned,
    /// This process stops: connect again.
    Stopping,
    /// Recorded here.
    Failed,
}

impl Over {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Gone => "the agent was deleted",
            Self::Revoked => "access was revoked",
            Self::Pruned => "events are older than what is kept",
            Self::Stopping => "the host stops, connect again",
            Self::Failed => "something failed here",
        }
    }
}

/// One reader's position in one agent's events.
pub struct Feed {
    app: Shared,
    caller: Caller,
    npub: Npub,
    after: i64,
    subscription: Box<dyn Subscription>,
    checked_at: MonoMs,
    _guard: StreamGuard,
}

impl Feed {
    /// A feed of what follows `after`; of what happens from now on without it.
    pub async fn open(app: &Shared, caller: Caller, agent: &Agent, after: Option<i64>) -> Result<Self, Problem> {
        let guard = app.open_stream(caller.id())?;
        let subscription = app.bus.subscribe();
        let after = after.unwrap_or(agent.event_seq);
        if !(0..=agent.event_seq).contains(&after) {
            return Err(Problem::invalid("after", "use the `seq` of an event that you have, or 0"));
        }
        let mut feed = Self {
            app: Shared::clone(app),
            caller,
            npub: agent.npub,
            after,
            subscription,
            checked_at: app.clock.mono(),
            _guard: guard,
        };
        feed.refuse_pruned(agent.event_seq).await?;
        Ok(feed)
    }

    /// A reader that wants to resume has to be told when it can't; 0 asks for whatever is kept.
    async fn refuse_pruned(&mut self, last: i64) -> Result<(), Problem> {
        if self.after == 0 || self.after == last {
            return Ok(());
        }
        let first = event::after(&self.app.store, self.npub, self.after, 1).await?;
        match first.first().map(|stored| stored.event.seq) {
            Some(seq) if seq == self.after + 1 => Ok(()),
            Some(seq) => Err(Problem::new(Code::EventsPruned).extra("oldest_seq", seq)),
            None => Err(Problem::new(Code::EventsPruned)),
        }
    }

    /// The next events, at least one. Cancel-safe: a number counts as given only when this returns.
    pub async fn next(&mut self) -> Result<Vec<EventView>, Over> {
        loop {
            let events = self.read().await?;
            if let Some(last) = events.last() {
                self.after = last.event.seq;
                return Ok(events);
            }
            self.check_caller().await?;
            self.wait().await?;
        }
    }

    async fn read(&mut self) -> Result<Vec<EventView>, Over> {
        let stored = event::after(&self.app.store, self.npub, self.after, PAGE).await.map_err(failed)?;
        let gap = stored.first().is_some_and(|first| self.after != 0 && first.event.seq != self.after + 1);
        if gap { Err(Over::Pruned) } else { Ok(stored.into_iter().map(EventView::from).collect()) }
    }

    async fn check_caller(&mut self) -> Result<(), Over> {
        let now = self.app.clock.mono();
        if now.since(self.checked_at) < REVALIDATE_MS {
            return Ok(());
        }
        self.checked_at = now;
        let store = &self.app.store;
        let agent = nexus_store::agent::get_owned(store, self.caller.id(), self.npub).await.map_err(failed)?;
        if agent.is_none() {
            return Err(Over::Gone);
        }
        match auth::still_valid(&self.app, &self.caller).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Over::Revoked),
            Err(_) => Err(Over::Failed),
        }
    }

    async fn wait(&mut self) -> Result<(), Over> {
        let timer = tokio::time::sleep(Duration::from_millis(POLL_MS));
        tokio::pin!(timer);
        loop {
            tokio::select! {
                () = self.app.stop.cancelled() => return Err(Over::Stopping),
                () = &mut timer => return Ok(()),
                heard = self.subscription.recv() => match heard {
                    Ok(Heard::Wake(Wake::Event { npub, seq })) if npub == self.npub && seq > self.after => return Ok(()),
                    Ok(Heard::Lagged) => return Ok(()),
                    Ok(Heard::Wake(_)) => {}
                    Err(_) => return Err(Over::Stopping),
                },
            }
        }
    }
}

fn failed(error: nexus_store::StoreError) -> Over {
    tracing::error!(%error, "an event stream could not read");
    Over::Failed
}
