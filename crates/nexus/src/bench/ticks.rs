//! Ticks through the store, as the worker writes them: under the fence, encrypted, one append after another.

use std::sync::Arc;

use nexus_core::event::EventBody;
use nexus_core::time::random;
use nexus_core::trigger::Trigger;
use nexus_core::{Hash32, Msat, TickId, UnixMs};
use nexus_seal::blob::Purpose;
use nexus_store::agent::Change;
use nexus_store::event::NewEvent;
use nexus_store::journal::{self, Append, Record};
use nexus_store::tick::{self, Begin, Commit, NewState};
use nexus_store::{Fence, Store};

use super::host::{Agent, Host};
use super::shape::{CLASS, EFFECT_BYTES, EFFECTS, KIND, STATE_BYTES};
use super::watch::{Figures, Samples, Window};
use super::{Plan, World};

/// What a ticking agent needs of its host.
struct Pen {
    world: World,
    store: Store,
    fence: Fence,
    window: Window,
}

/// All agents at once, each tick after tick.
pub async fn crowd(host: &mut Host, plan: &Plan) -> anyhow::Result<Figures> {
    let agents = std::mem::take(&mut host.agents);
    let (figures, agents) = measure(host, agents, Window::open(plan.warm_up, plan.crowd)).await?;
    host.agents = agents;
    Ok(figures)
}

/// One agent, tick after tick, with nothing to share a commit with.
pub async fn alone(host: &mut Host, plan: &Plan) -> anyhow::Result<Figures> {
    let one = host.agents.drain(..).take(1).collect();
    Ok(measure(host, one, Window::open(plan.warm_up, plan.alone)).await?.0)
}

async fn measure(host: &Host, agents: Vec<Agent>, window: Window) -> anyhow::Result<(Figures, Vec<Agent>)> {
    let pen = Arc::new(Pen { world: host.world.clone(), store: host.store.clone(), fence: host.fence, window });
    let before = host.commits().await?;
    let running: Vec<_> = agents.into_iter().map(|agent| tokio::spawn(live(pen.clone(), agent))).collect();
    let (mut samples, mut agents) = (Samples::default(), Vec::with_capacity(running.len()));
    for agent in running {
        let (more, agent) = agent.await??;
        samples.join(more);
        agents.push(agent);
    }
    let commits = host.commits().await?.saturating_sub(before);
    Ok((samples.figures(&pen.window, commits), agents))
}

async fn live(pen: Arc<Pen>, mut agent: Agent) -> anyhow::Result<(Samples, Agent)> {
    let mut samples = Samples::default();
    // Agents don't tick in step.
    let [early, late] = random(&*pen.world.entropy);
    tokio::time::sleep(pen.window.warm_up() * u32::from(u16::from_be_bytes([early, late])) / 65_536 / 2).await;
    while !pen.window.over() {
        let began = pen.window.now();
        pen.tick(&mut agent).await?;
        samples.add(&pen.window, began);
    }
    Ok((samples, agent))
}

impl Pen {
    async fn tick(&self, agent: &mut Agent) -> anyhow::Result<()> {
        let at = self.world.clock.now();
        let id = TickId::new(at, random(&*self.world.entropy));
        let begin = Begin {
            fence: self.fence,
            npub: agent.npub,
            generation: agent.generation,
            tick: id,
            trigger: Trigger::Heartbeat,
            at,
            inbox: Vec::new(),
            records: vec![self.record(agent, id, 1)?],
            events: vec![NewEvent::new(at, EventBody::TickStarted { tick_id: id })],
            side: Vec::new(),
        };
        tick::begin(&self.store, begin).await?;
        for seq in 2..=EFFECTS as u32 {
            let append = Append {
                fence: self.fence,
                npub: agent.npub,
                generation: agent.generation,
                tick: id,
                at: self.world.clock.now(),
                records: vec![self.record(agent, id, seq)?],
                side: Vec::new(),
            };
            journal::append(&self.store, append).await?;
        }
        let commit = self.commit(agent, id)?;
        tick::commit(&self.store, commit).await?;
        agent.version += 1;
        Ok(())
    }

    fn record(&self, agent: &Agent, tick_id: TickId, seq: u32) -> anyhow::Result<Record> {
        let purpose = Purpose::Journal { tick_id, seq };
        let blob = agent.key.seal(purpose, &[1; EFFECT_BYTES], &*self.world.entropy)?;
        let digest = Hash32::sha256(&blob);
        Ok(Record { seq: i64::from(seq), kind: KIND.into(), version: 1, class: CLASS.into(), digest, blob })
    }

    fn commit(&self, agent: &Agent, tick: TickId) -> anyhow::Result<Commit> {
        let at = self.world.clock.now();
        let blob = agent.key.seal(Purpose::State, &[2; STATE_BYTES], &*self.world.entropy)?;
        Ok(Commit {
            fence: self.fence,
            npub: agent.npub,
            generation: agent.generation,
            tick,
            at,
            failed: None,
            again: false,
            state: Some(NewState { version: agent.version + 1, after: agent.version, blob: blob.into() }),
            cost: Msat::new(1_000),
            actions: "[]".into(),
            steps: "[]".into(),
            sealed: None,
            change: Change {
                balance: Some(Msat::sats(5)),
                last_tick_at: Some(at),
                next_tick_at: Some(Some(UnixMs(at.0 + 900_000))),
                ..Change::default()
            },
            events: vec![NewEvent::new(at, EventBody::TickCompleted { tick_id: tick, actions: Vec::new() })],
            side: Vec::new(),
        })
    }
}
