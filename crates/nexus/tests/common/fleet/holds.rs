//! What holds after every fault.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::people::Load;
use super::{Fleet, STUCK_SECS};
use crate::common::eventually;

impl Fleet {
    /// People begin to write to every agent, in turn.
    pub fn load(&self) -> Load {
        Load::start(self.ready["relay"].as_str().unwrap(), self.agents.values().cloned().collect())
    }

    /// Everyone is written to once more, then nobody; what must hold after a fault is over.
    pub fn holds(&mut self, load: Load, what: &str) {
        load.round();
        self.sent.extend(load.finish());
        let mut open = Vec::new();
        let settled = eventually(STUCK_SECS, || {
            open = self.unsettled();
            open.is_empty().then_some(())
        });
        assert!(settled.is_some(), "{what}: {STUCK_SECS} s later: {open:#?}");
        self.nothing_doubled(what);
        self.chains_verify();
    }

    /// How often each message was answered: by (agent, message id) for mentions, by (agent, sender) for direct messages.
    fn answers(&self) -> HashMap<(String, String), u64> {
        let sql = "SELECT encode(e.pubkey, 'hex'), t.value, COUNT(*) FROM relay_event e
            JOIN relay_tag t ON t.event_id = e.id JOIN agent a ON a.npub = e.pubkey
            WHERE (e.kind = 1 AND t.name = 'e') OR (e.kind = 4 AND t.name = 'p') GROUP BY 1, 2";
        let count = |row: Vec<String>| ((row[0].clone(), row[1].clone()), row[2].parse().unwrap());
        self.rows(sql).into_iter().map(count).collect()
    }

    /// What is still to come, or stuck.
    fn unsettled(&self) -> Vec<String> {
        let answers = self.answers();
        let mut open: Vec<String> = self
            .sent
            .iter()
            .filter(|sent| sent.acknowledged && !answers.contains_key(&sent.key()))
            .map(|sent| format!("not answered: {sent:?}"))
            .collect();
        for (what, sql) in [
            ("an open tick", "SELECT a.name, t.cause FROM tick t JOIN agent a USING (npub) WHERE t.status = 'open'"),
            (
                "an open payment",
                "SELECT a.name, p.state FROM payment p JOIN agent a USING (npub) WHERE p.state NOT IN ('settled', 'failed', 'canceled')",
            ),
            (
                "an event to publish",
                "SELECT a.name, p.kind FROM publication p JOIN agent a USING (npub) WHERE p.done = 0",
            ),
            ("held budget", "SELECT a.name, b.win FROM budget b JOIN agent a USING (npub) WHERE b.held_msat <> 0"),
            (
                "not on a live worker",
                "SELECT a.name, a.reason_code FROM agent a LEFT JOIN worker w USING (worker_id)
                 WHERE w.worker_id IS NULL OR w.dead = 1",
            ),
            ("a reason to wait", "SELECT name, reason_code, reason_text FROM agent WHERE reason_code IS NOT NULL"),
            (
                "overdue",
                "SELECT name, next_tick_at FROM agent
                 WHERE next_tick_at IS NULL OR next_tick_at < (extract(epoch FROM now()) * 1000 - 10000)",
            ),
        ] {
            open.extend(self.rows(sql).into_iter().map(|row| format!("{what}: {}", row.join(" "))));
        }
        open
    }

    /// Answers, payments, books, and whatever left under an agent's name.
    fn nothing_doubled(&self, what: &str) {
        let answers = self.answers();
        for sent in &self.sent {
            let count = answers.get(&sent.key()).copied().unwrap_or(0);
            assert!(count <= 1, "{what}: answered {count} times: {sent:?}");
        }
        for (wrong, sql) in [
            (
                "two payments of a step",
                "SELECT step FROM payment WHERE state = 'settled' GROUP BY npub, step HAVING COUNT(*) > 1",
            ),
            (
                "two payments of a tick",
                "SELECT tick_id FROM payment WHERE state = 'settled' AND tick_id IS NOT NULL GROUP BY tick_id HAVING COUNT(*) > 1",
            ),
            (
                "an answer that was not journaled",
                "SELECT e.kind, e.json FROM relay_event e JOIN agent a ON a.npub = e.pubkey
                 WHERE e.kind IN (1, 4) AND NOT EXISTS (SELECT 1 FROM publication p WHERE p.event_id = e.id)",
            ),
            (
                "books that disagree",
                "SELECT a.name, p.paid, b.spent FROM agent a,
                 LATERAL (SELECT COALESCE(SUM(amount_msat + fee_msat), 0) paid FROM payment WHERE npub = a.npub AND state = 'settled') p,
                 LATERAL (SELECT COALESCE(SUM(settled_msat), 0) spent FROM budget WHERE npub = a.npub AND win LIKE 'day:%') b
                 WHERE p.paid <> b.spent",
            ),
        ] {
            let rows = self.rows(sql);
            assert!(rows.is_empty(), "{what}: {wrong}: {rows:?}");
        }
        self.ledgers_agree(what);
    }

    /// What the development network settled is what the store says was settled, and the funding of each agent. Both are read
    /// while heartbeats go on paying, so a payment may be on its way from one to the other; what is wrong stays wrong.
    fn ledgers_agree(&self, what: &str) {
        let mut wrong = None;
        let agree = eventually(STUCK_SECS, || {
            wrong = self.disagreement();
            wrong.is_none().then_some(())
        });
        assert!(agree.is_some(), "{what}: {}", wrong.unwrap_or_default());
    }

    fn disagreement(&self) -> Option<String> {
        let paid: BTreeSet<String> = self
            .rows("SELECT encode(hash, 'hex') FROM payment WHERE state = 'settled'")
            .into_iter()
            .map(|row| row[0].clone())
            .collect();
        let mut settled: HashMap<String, u32> = HashMap::new();
        for hash in self.settled_on_the_network() {
            *settled.entry(hash).or_default() += 1;
        }
        let twice: Vec<_> = settled.iter().filter(|(_, times)| **times > 1).collect();
        if !twice.is_empty() {
            return Some(format!("settled twice: {twice:?}"));
        }
        let missing: Vec<_> = paid.iter().filter(|hash| !settled.contains_key(*hash)).collect();
        if !missing.is_empty() {
            return Some(format!("only the store says that these were paid: {missing:?}"));
        }
        let unknown = settled.keys().filter(|hash| !paid.contains(*hash)).count();
        let funded = self.agents.len() + self.gifts;
        (unknown != funded).then(|| format!("{unknown} payments that the store does not know, and {funded} fundings"))
    }

    /// Hashes of settled payments, as the network's own log has them.
    fn settled_on_the_network(&self) -> Vec<String> {
        fn look(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Array(items) => items.iter().for_each(|item| look(item, found)),
                Value::Object(fields) if fields.get("entry").is_some_and(|entry| entry == "settle") => {
                    found.push(fields["key"]["hash"].as_str().unwrap().to_owned());
                }
                // Of a snapshot.
                Value::Object(fields)
                    if fields.get("row").is_some_and(|row| row == "payment")
                        && fields["payment"]["state"] == "settled" =>
                {
                    found.push(fields["key"]["hash"].as_str().unwrap().to_owned());
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.dir.join("devnet")).unwrap().flatten() {
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            for line in text.lines().filter_map(|line| line.get(17..)) {
                if let Ok(value) = serde_json::from_str::<Value>(line) {
                    look(&value, &mut found);
                }
            }
        }
        assert!(!found.is_empty(), "the network's log holds no settlement");
        found
    }

    fn chains_verify(&self) {
        for name in self.agents.keys() {
            let verified = self.ok(&["agent", "events", name, "--verify"]);
            assert_eq!(verified["verified"], true, "{name}: {verified}");
        }
    }
}
