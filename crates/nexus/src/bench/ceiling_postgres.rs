//! What PostgreSQL does on this machine with the rows of our ticks when nothing of ours is in the way.
//!
//! As [`super::ceiling`] for SQLite, and like it no SQL of the product: one connection, the same tables, the same rows.
//! Whole ticks are written set by set, one statement for all rows of a table, [`TOGETHER`] ticks to a transaction: no fence,
//! no check, no hash chain, no encryption, no append that waits for the one before it.

use nexus_core::Npub;
use nexus_store::PostgresConfig;
use tokio_postgres::{Client, Statement};

use super::Plan;
use super::ceiling::{HASH, Ids, OVERHEAD, event_body};
use super::postgres;
use super::shape::{APPENDS, EFFECT_BYTES, EFFECTS, STATE_BYTES};
use super::watch::{Figures, Samples, Window};

/// Ticks of one transaction.
pub const TOGETHER: usize = 64;

const TICK: &str = "INSERT INTO tick (tick_id, npub, cause, status, generation, started_at, cost_msat, actions, steps)
    SELECT t, n, 'heartbeat', 'open', 1, $3, 0, '[]', '[]' FROM unnest($1::bytea[], $2::bytea[]) AS u (t, n)";
const RECORDS: &str = "INSERT INTO journal (tick_id, seq, generation, kind, version, idem_class, digest, blob)
    SELECT t, s, 1, 'requested', 1, 'repeat', $2, $3 FROM unnest($1::bytea[]) AS u (t), generate_series(1, $4::bigint) AS s";
const EVENTS: &str = "INSERT INTO event (npub, seq, at, body, sealed, hash, relayed)
    SELECT n, s, $3, $4, NULL, $5, 0 FROM unnest($1::bytea[], $2::bigint[]) AS u (n, s)";
const CLOSE: &str = "UPDATE tick SET status = 'completed', ended_at = $2, cost_msat = 1000 WHERE tick_id = ANY($1)";
const STATE: &str =
    "UPDATE agent_state SET version = version + 1, generation = 1, blob = $2, at = $3 WHERE npub = ANY($1)";
const FOLD: &str = "DELETE FROM journal WHERE tick_id = ANY($1)";
const AGENT: &str = "UPDATE agent SET event_seq = event_seq + 2, event_head = $2, updated_at = $3, last_tick_at = $3,
    next_tick_at = $3::bigint + 900000, balance_at = $3, balance_msat = 5000 WHERE npub = ANY($1)";
const ONE_ROW: &str = "INSERT INTO journal (tick_id, seq, generation, kind, version, idem_class, digest, blob)
    VALUES ($1, $2, 1, 'requested', 1, 'repeat', $3, $4)";

struct Writer {
    client: Client,
    statements: Vec<Statement>,
    one_row: Statement,
    ids: Ids,
    /// The number of each agent's last event.
    event: i64,
}

/// Whole ticks in large transactions; then seven single rows, each committed, as one agent's appends would be.
pub async fn run(config: &PostgresConfig, agents: &[Npub], plan: &Plan) -> anyhow::Result<(Figures, Figures)> {
    let client = postgres::connect(config).await?;
    // Nothing has counted these tables' rows yet: without this the planner takes them for empty and reads them whole.
    client.batch_execute("SET enable_seqscan = off").await?;
    let mut statements = Vec::new();
    for sql in [TICK, RECORDS, EVENTS, CLOSE, STATE, FOLD, AGENT] {
        statements.push(client.prepare(sql).await?);
    }
    let one_row = client.prepare(ONE_ROW).await?;
    let mut writer = Writer { client, statements, one_row, ids: Ids::default(), event: 1 };
    let groups: Vec<&[Npub]> = agents.chunks(TOGETHER).collect();

    let (window, mut samples, mut commits) = (Window::open(plan.warm_up, plan.crowd), Samples::default(), 0);
    while !window.over() {
        for group in &groups {
            let began = window.now();
            writer.ticks(group, &window).await?;
            commits += 1;
            for _ in *group {
                samples.add(&window, began);
            }
        }
        writer.event += 2;
    }
    let crowd = samples.figures(&window, commits);

    let (window, mut samples, mut commits) = (Window::open(plan.warm_up, plan.alone), Samples::default(), 0);
    while !window.over() {
        let began = window.now();
        commits += writer.seven_rows(&window).await?;
        samples.add(&window, began);
    }
    Ok((crowd, samples.figures(&window, commits)))
}

/// Transactions that the store's writers have committed so far: each counts its own.
pub async fn commits(client: &Client) -> anyhow::Result<u64> {
    let sql = "SELECT CAST(COALESCE(SUM(value), 0) AS BIGINT) FROM commit_marker";
    let value: i64 = client.query_one(sql, &[]).await?.get(0);
    Ok(u64::try_from(value)?)
}

impl Writer {
    async fn ticks(&mut self, agents: &[Npub], window: &Window) -> anyhow::Result<()> {
        let now = now(window);
        let npubs: Vec<&[u8]> = agents.iter().map(|npub| npub.as_bytes().as_slice()).collect();
        let ids: Vec<[u8; 16]> = agents.iter().map(|_| self.ids.next(now)).collect();
        let ids: Vec<&[u8]> = ids.iter().map(<[u8; 16]>::as_slice).collect();
        let (first, second) = (vec![self.event + 1; agents.len()], vec![self.event + 2; agents.len()]);
        let (started, completed) = (event_body("tick_started", ""), event_body("tick_completed", r#","actions":[]"#));
        let (hash, blob, state) =
            (HASH.as_slice(), vec![1_u8; EFFECT_BYTES + OVERHEAD], vec![2_u8; STATE_BYTES + OVERHEAD]);
        let effects = EFFECTS as i64;
        let client = &self.client;
        let [tick, records, events, close, row, fold, agent] = self.statements.as_slice() else {
            anyhow::bail!("the ceiling has seven statements");
        };
        // Sent at once, answered in order.
        let done = tokio::join!(
            client.batch_execute("BEGIN"),
            async { client.execute(tick, &[&ids, &npubs, &now]).await },
            async { client.execute(records, &[&ids, &hash, &blob, &effects]).await },
            async { client.execute(events, &[&npubs, &first, &now, &started, &hash]).await },
            async { client.execute(close, &[&ids, &now]).await },
            async { client.execute(row, &[&npubs, &state, &now]).await },
            async { client.execute(fold, &[&ids]).await },
            async { client.execute(agent, &[&npubs, &hash, &now]).await },
            async { client.execute(events, &[&npubs, &second, &now, &completed, &hash]).await },
            client.batch_execute("COMMIT"),
        );
        done.0?;
        for count in [done.1?, done.2? / effects.unsigned_abs(), done.3?, done.4?, done.5?, done.7?, done.8?] {
            anyhow::ensure!(count == agents.len() as u64, "the ceiling wrote {count} rows for {} ticks", agents.len());
        }
        anyhow::ensure!(done.6? == agents.len() as u64 * effects.unsigned_abs(), "the ceiling left journal rows");
        Ok(done.9?)
    }

    async fn seven_rows(&mut self, window: &Window) -> anyhow::Result<u64> {
        let id = self.ids.next(now(window));
        let blob = vec![1_u8; EFFECT_BYTES + OVERHEAD];
        for seq in 1..=APPENDS as i64 {
            self.client.execute(&self.one_row, &[&id.as_slice(), &seq, &HASH.as_slice(), &blob]).await?;
        }
        Ok(APPENDS as u64)
    }
}

fn now(window: &Window) -> i64 {
    i64::try_from(window.now().as_millis()).unwrap_or_default() + 1_800_000_000_000
}
