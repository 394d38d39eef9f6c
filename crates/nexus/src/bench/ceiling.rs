//! What SQLite does on this machine with the rows of our ticks when nothing of ours is in the way.
//!
//! This SQL is not the product's, which is all in `nexus-store`. It is a yardstick: one connection, one thread, the
//! same tables and settings, the same rows in groups as large as the agents in flight allow; no fence, no check of any
//! kind, no hash chain, no encryption, no answer to anybody. It must not be improved together with the product.

use std::path::Path;
use std::time::Duration;

use nexus_core::Npub;
use rusqlite::{Connection, OpenFlags, params};

use super::Plan;
use super::shape::{APPENDS, CLASS, EFFECT_BYTES, EFFECTS, KIND, STATE_BYTES};
use super::watch::{Figures, Samples, Window};

/// As the store's writer has it.
const GROUP: usize = 512;
/// As the store's connections have them.
const SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
    PRAGMA wal_autocheckpoint = 16000; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -32768;";
const BEGIN: &str = "INSERT INTO tick (tick_id, npub, cause, status, generation, started_at, cost_msat, actions, steps)
    VALUES (?1, ?2, 'heartbeat', 'open', 1, ?3, 0, '[]', '[]')";
const RECORD: &str = "INSERT INTO journal (tick_id, seq, generation, kind, version, idem_class, digest, blob)
    VALUES (?1, ?2, 1, ?3, 1, ?4, ?5, ?6)";
const EVENT: &str =
    "INSERT INTO event (npub, seq, at, body, sealed, hash, relayed) VALUES (?1, ?2, ?3, ?4, NULL, ?5, 0)";
const NUMBER: &str = "UPDATE agent SET event_seq = ?2, event_head = ?3 WHERE npub = ?1";
const CLOSE: &str = "UPDATE tick SET status = 'completed', ended_at = ?2, cost_msat = 1000 WHERE tick_id = ?1";
const STATE: &str = "UPDATE agent_state SET version = ?2, generation = 1, blob = ?3, at = ?4 WHERE npub = ?1";
const FOLD: &str = "DELETE FROM journal WHERE tick_id = ?1";
const AGENT: &str = "UPDATE agent SET event_seq = ?2, event_head = ?3, updated_at = ?4, last_tick_at = ?4,
    next_tick_at = ?4 + 900000, balance_at = ?4, balance_msat = 5000 WHERE npub = ?1";
/// What sealing adds to a blob.
pub const OVERHEAD: usize = nexus_seal::blob::BLOB_OVERHEAD;
pub const HASH: [u8; 32] = [5; 32];

/// One agent's place in its tick.
struct Line {
    npub: [u8; 32],
    tick: [u8; 16],
    /// Appends of the tick so far.
    step: usize,
    event: i64,
    version: i64,
    began: Duration,
}

struct Writer {
    connection: Connection,
    lines: Vec<Line>,
    ids: Ids,
    commits: u64,
}

/// With all agents in flight, then with one.
pub fn run(path: &Path, agents: &[Npub], plan: &Plan) -> anyhow::Result<(Figures, Figures)> {
    let connection = Connection::open(path)?;
    connection.execute_batch(SETTINGS)?;
    connection.set_prepared_statement_cache_capacity(32);
    let lines = agents.iter().map(Line::new).collect();
    let mut writer = Writer { connection, lines, ids: Ids::default(), commits: 0 };
    let crowd = writer.measure(Window::open(plan.warm_up, plan.crowd))?;
    writer.lines.truncate(1);
    let alone = writer.measure(Window::open(plan.warm_up, plan.alone))?;
    Ok((crowd, alone))
}

/// Groups that the store has committed so far: it numbers them.
pub fn commits(path: &Path) -> anyhow::Result<u64> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let value: i64 = connection.query_row("SELECT value FROM commit_marker WHERE id = 1", [], |row| row.get(0))?;
    Ok(u64::try_from(value)?)
}

impl Line {
    fn new(npub: &Npub) -> Self {
        Self { npub: *npub.as_bytes(), tick: [0; 16], step: 0, event: 1, version: 1, began: Duration::ZERO }
    }
}

impl Writer {
    fn measure(&mut self, window: Window) -> anyhow::Result<Figures> {
        let mut samples = Samples::default();
        self.stagger(&window)?;
        let before = self.commits;
        while !window.over() {
            for first in (0..self.lines.len()).step_by(GROUP) {
                self.group(first..self.lines.len().min(first + GROUP), &window, &mut samples)?;
            }
        }
        Ok(samples.figures(&window, self.commits - before))
    }

    /// Agents don't tick in step: each group holds every kind of append.
    fn stagger(&mut self, window: &Window) -> anyhow::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for index in 0..self.lines.len() {
            while self.lines[index].step < index % APPENDS {
                self.append(index, window)?;
            }
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn group(&mut self, span: std::ops::Range<usize>, window: &Window, samples: &mut Samples) -> anyhow::Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for index in span.clone() {
            self.append(index, window)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.commits += 1;
        for line in &mut self.lines[span] {
            if line.step == APPENDS {
                samples.add(window, line.began);
                line.step = 0;
                line.began = window.now();
            }
        }
        Ok(())
    }

    fn append(&mut self, index: usize, window: &Window) -> rusqlite::Result<()> {
        let step = self.lines[index].step;
        let now = i64::try_from(window.now().as_millis()).unwrap_or_default() + 1_800_000_000_000;
        if step == 0 {
            self.begin(index, now)?;
        }
        if step < EFFECTS {
            let tick = self.lines[index].tick;
            let blob = [1_u8; EFFECT_BYTES + OVERHEAD];
            let seq = step as i64 + 1;
            self.connection.prepare_cached(RECORD)?.execute(params![tick, seq, KIND, CLASS, HASH, blob])?;
        } else {
            self.commit(index, now)?;
        }
        self.lines[index].step += 1;
        Ok(())
    }

    fn begin(&mut self, index: usize, now: i64) -> rusqlite::Result<()> {
        let tick = self.ids.next(now);
        let line = &mut self.lines[index];
        line.tick = tick;
        line.event += 1;
        let connection = &self.connection;
        connection.prepare_cached(BEGIN)?.execute(params![line.tick, line.npub, now])?;
        connection.prepare_cached(NUMBER)?.execute(params![line.npub, line.event, HASH])?;
        let body = event_body("tick_started", "");
        connection.prepare_cached(EVENT)?.execute(params![line.npub, line.event, now, body, HASH])?;
        Ok(())
    }

    fn commit(&mut self, index: usize, now: i64) -> rusqlite::Result<()> {
        let line = &mut self.lines[index];
        line.event += 1;
        line.version += 1;
        let connection = &self.connection;
        let blob = [2_u8; STATE_BYTES + OVERHEAD];
        connection.prepare_cached(CLOSE)?.execute(params![line.tick, now])?;
        connection.prepare_cached(STATE)?.execute(params![line.npub, line.version, blob, now])?;
        connection.prepare_cached(FOLD)?.execute(params![line.tick])?;
        connection.prepare_cached(AGENT)?.execute(params![line.npub, line.event, HASH, now])?;
        let body = event_body("tick_completed", r#","actions":[]"#);
        connection.prepare_cached(EVENT)?.execute(params![line.npub, line.event, now, body, HASH])?;
        Ok(())
    }
}

/// As the product's: milliseconds first, then bits without order (splitmix64).
#[derive(Default)]
pub struct Ids(u64);

impl Ids {
    pub fn next(&mut self, now: i64) -> [u8; 16] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut id = [0; 16];
        id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        id[8..].copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
        id
    }
}

/// As long as the product's.
pub fn event_body(name: &str, more: &str) -> String {
    format!(r#"{{"type":"{name}","tick_id":"01978d3e-0000-7000-8000-000000000000"{more}}}"#)
}
