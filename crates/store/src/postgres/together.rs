//! The same statement of many batches as one.
//!
//! In a group most batches say the same of different agents: a guard, a record, an event. Statement by statement that
//! costs the server a plan's start for each, which is most of what it does. So batches of one shape, each by a worker for
//! an agent of its own, go place by place: the first statement of all, then the second. It serves only for as long as
//! all of it holds. What does not is found here, and the group runs again batch by batch.

use std::collections::{BTreeMap, BTreeSet};

use super::pipeline::Reply;
use crate::batch::{Batch, Expect, Lock, Output, Statement, Value};
use crate::row::Row;

/// Tables whose rows are one agent's, named in the statement by the agent or by something of it.
const OWN: [&str; 9] =
    ["agent", "agent_state", "budget", "event", "inbox", "journal", "payment", "publication", "tick"];

/// The rows of many agents, locked in the order of their keys as their updates will lock them.
pub(crate) const LOCK_AGENTS: &str = "SELECT 1 FROM agent WHERE npub = ?1 /*in order*/";

/// What a group asks of the server, in order.
pub(crate) enum Step<'a> {
    /// A statement of one batch, which is named by its place in the group.
    One { batch: usize, statement: &'a Statement },
    /// A statement of all batches of a set: the first one's, and the parameters of each.
    All { set: usize, statement: &'a Statement, params: Vec<&'a [Value]> },
}

/// Batches of one shape, by their places in the group.
pub(crate) struct Set {
    pub(crate) batches: Vec<usize>,
}

/// The steps of a group, and the sets that they speak of.
pub(crate) struct Steps<'a> {
    pub(crate) steps: Vec<Step<'a>>,
    pub(crate) sets: Vec<Set>,
}

impl Steps<'_> {
    /// The outputs of each batch of the group, if every statement did what it must.
    pub(crate) fn read(&self, batches: usize, mut replies: impl Iterator<Item = Reply>) -> Option<Vec<Vec<Output>>> {
        let mut outputs = vec![Vec::new(); batches];
        for step in &self.steps {
            let Reply::Done { output, .. } = replies.next()? else { return None };
            match step {
                Step::One { batch, statement } => {
                    if matches!(statement.expect, Expect::Rows(rows, _) if output.affected != rows) {
                        return None;
                    }
                    outputs.get_mut(*batch)?.push(output);
                }
                Step::All { set, statement, params } => {
                    let told = self::outputs(statement, params, output)?;
                    for (batch, output) in self.sets.get(*set)?.batches.iter().zip(told) {
                        outputs.get_mut(*batch)?.push(output);
                    }
                }
            }
        }
        Some(outputs)
    }
}

/// The agents whose rows these batches lock, in their order.
pub(crate) fn locks(batches: &[&Batch]) -> Vec<Value> {
    let agents: BTreeSet<&[u8]> = batches.iter().filter_map(|batch| super::lock::agent_of(batch)).collect();
    agents.into_iter().map(|npub| Value::Blob(npub.to_vec())).collect()
}

/// Whose batch it is, if it is a worker's and nothing of its outputs is read but the numbers of events.
fn whose(batch: &Batch) -> Option<&[u8]> {
    let guard = batch.statements.first()?;
    let hosted =
        batch.fence.is_some() && guard.sql.starts_with("SELECT 1 FROM agent WHERE npub = ?1 AND generation = ?2");
    match guard.params.first() {
        Some(Value::Blob(npub)) if hosted && batch.numbers.is_some() => Some(npub),
        _ => None,
    }
}

/// Sets first, then what is alone. Batches come in the order of their agents and stay in it within a set.
pub(crate) fn steps<'a>(batches: &[&'a Batch]) -> Steps<'a> {
    let mut of_agent: BTreeMap<&[u8], usize> = BTreeMap::new();
    for batch in batches {
        // Whatever else speaks of the agent counts, too: what is one agent's keeps its order.
        for npub in whose(batch).into_iter().chain(super::lock::agent_of(batch)).collect::<BTreeSet<_>>() {
            *of_agent.entry(npub).or_default() += 1;
        }
    }
    let alone = |batch: &Batch| whose(batch).is_none_or(|npub| of_agent.get(npub).is_none_or(|count| *count > 1));
    let mut found: Vec<Set> = Vec::new();
    for (place, batch) in batches.iter().enumerate().filter(|(_, batch)| !alone(batch)) {
        let same = |set: &&mut Set| {
            set.batches.first().and_then(|first| batches.get(*first)).is_some_and(|first| same_shape(first, batch))
        };
        match found.iter_mut().find(same) {
            Some(set) => set.batches.push(place),
            None => found.push(Set { batches: vec![place] }),
        }
    }
    found.retain(|set| set.batches.len() > 1);
    let together: BTreeSet<usize> = found.iter().flat_map(|set| set.batches.iter().copied()).collect();
    let mut steps = Vec::new();
    for (number, set) in found.iter().enumerate() {
        let members: Vec<(usize, &'a Batch)> =
            set.batches.iter().filter_map(|place| Some((*place, *batches.get(*place)?))).collect();
        let Some((_, first)) = members.first() else { continue };
        for (place, statement) in first.statements.iter().enumerate() {
            let of_all = || members.iter().filter_map(|(batch, other)| Some((*batch, other.statements.get(place)?)));
            if sql(statement).is_some() {
                let params = of_all().map(|(_, statement)| statement.params.as_slice()).collect();
                steps.push(Step::All { set: number, statement, params });
            } else {
                steps.extend(of_all().map(|(batch, statement)| Step::One { batch, statement }));
            }
        }
    }
    for (batch, found) in batches.iter().enumerate().filter(|(place, _)| !together.contains(place)) {
        steps.extend(found.statements.iter().map(|statement| Step::One { batch, statement }));
    }
    Steps { steps, sets: found }
}

fn same_shape(one: &Batch, other: &Batch) -> bool {
    let same = |(one, other): (&Statement, &Statement)| {
        one.sql == other.sql
            && one.lock == other.lock
            && one.expect == other.expect
            && one.params.len() == other.params.len()
            && one.params.iter().zip(&other.params).all(|(one, other)| kind(one) == kind(other))
    };
    one.statements.len() == other.statements.len() && one.statements.iter().zip(&other.statements).all(same)
}

/// The array type of a parameter.
fn kind(value: &Value) -> Option<&'static str> {
    use crate::batch::Kind;
    match value {
        Value::Null => None,
        Value::Int(_) | Value::Absent(Kind::Int) => Some("bigint[]"),
        Value::Text(_) | Value::Absent(Kind::Text) => Some("text[]"),
        Value::Blob(_) | Value::Absent(Kind::Blob) => Some("bytea[]"),
    }
}

/// The statement for arrays of its parameters, in PostgreSQL's words. A read, an update and a deletion return the number
/// of the batch for each of its rows; an insertion what it returns for one, behind the value of its first column.
/// None: it is said for each batch.
pub(crate) fn sql(statement: &Statement) -> Option<String> {
    let one = !matches!(statement.expect, Expect::Rows(rows, _) if rows != 1);
    if statement.lock != Lock::None || !one || statement.params.is_empty() {
        return None;
    }
    let mut from = String::from("unnest(");
    let mut names = String::new();
    for (place, param) in (1..).zip(&statement.params) {
        from += &format!("{}${place}::{}", if place > 1 { ", " } else { "" }, kind(param)?);
        names += &format!("p{place}, ");
    }
    from += &format!(") WITH ORDINALITY AS u ({names}n)");
    if statement.sql == LOCK_AGENTS {
        let agents = format!("SELECT a.npub FROM {from} JOIN agent a ON a.npub = u.p1");
        return Some(format!("{agents} ORDER BY u.p1 FOR NO KEY UPDATE OF a"));
    }
    let text = named(statement.sql.trim());
    let own = |table: &str| OWN.contains(&table);
    if let Some(rest) = text.strip_prefix("SELECT 1 ") {
        let table = rest.strip_prefix("FROM ").and_then(first_word);
        return (table.is_some_and(own) || rest.starts_with("WHERE NOT EXISTS (SELECT 1 FROM payment"))
            .then(|| format!("SELECT u.n FROM {from} CROSS JOIN LATERAL ({text}) AS q"));
    }
    if let Some(rest) = text.strip_prefix("UPDATE ") {
        own(first_word(rest)?).then_some(())?;
        let (change, condition) = split(&text, "WHERE")?;
        (split(change, "FROM").is_none() && split(condition, "RETURNING").is_none()).then_some(())?;
        return Some(format!("{change} FROM {from} WHERE ({condition}) RETURNING u.n"));
    }
    if let Some(rest) = text.strip_prefix("DELETE FROM ") {
        own(first_word(rest)?).then_some(())?;
        let (change, condition) = split(&text, "WHERE")?;
        (split(change, "USING").is_none() && split(condition, "RETURNING").is_none()).then_some(())?;
        return Some(format!("{change} USING {from} WHERE ({condition}) RETURNING u.n"));
    }
    let table = first_word(text.strip_prefix("INSERT INTO ")?)?;
    own(table).then_some(())?;
    let (into, rest) = split(&text, "VALUES")?;
    let (values, rest) = tuple(rest.trim_start())?;
    let rest = rest.trim();
    // What a conflict does can't name the batch.
    (!rest.contains("u.p") && !rest.starts_with(',')).then_some(())?;
    let Some((before, returned)) = split_or_start(rest, "RETURNING") else {
        return Some(format!("{into} SELECT {values} FROM {from} {rest}"));
    };
    let first = into.split_once('(').and_then(|(_, columns)| columns.split([',', ')']).next())?.trim();
    values.starts_with("u.p1,").then_some(())?;
    Some(format!("{into} SELECT {values} FROM {from} {before} RETURNING {first}, {returned}"))
}

/// What each batch of a set would have been answered, if the statement held for every one of them exactly as it should.
pub(crate) fn outputs(statement: &Statement, params: &[&[Value]], output: Output) -> Option<Vec<Output>> {
    let inserts = statement.sql.trim_start().starts_with("INSERT");
    let wanted = matches!(statement.expect, Expect::Rows(..));
    if inserts && !output.rows.is_empty() {
        let mut by_first: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
        for mut row in output.rows {
            let Some(Value::Blob(first)) = (!row.0.is_empty()).then(|| row.0.remove(0)) else { return None };
            if by_first.insert(first, row).is_some() {
                return None;
            }
        }
        let told = params.iter().map(|params| match params.first() {
            Some(Value::Blob(first)) => by_first.remove(first).map(|row| Output { affected: 1, rows: vec![row] }),
            _ => None,
        });
        return told.collect();
    }
    if wanted && inserts && output.affected != params.len() as u64 {
        return None;
    }
    if wanted && !inserts {
        let mut met = vec![false; params.len()];
        for row in &output.rows {
            let Some(Value::Int(number)) = row.0.first() else { return None };
            let place = usize::try_from(*number).ok()?.checked_sub(1)?;
            if std::mem::replace(met.get_mut(place)?, true) {
                return None;
            }
        }
        if met.contains(&false) {
            return None;
        }
    }
    Some(params.iter().map(|_| Output { affected: u64::from(wanted), rows: Vec::new() }).collect())
}

/// `u.p1` for `?1`.
fn named(sql: &str) -> String {
    sql.replace('?', "u.p")
}

fn first_word(text: &str) -> Option<&str> {
    text.split_whitespace().next()
}

/// Before and behind the first `word` outside of parentheses.
fn split<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let (mut depth, mut before) = (0_i32, ' ');
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        let behind = text.get(place..)?.strip_prefix(word).filter(|_| depth == 0 && before.is_whitespace());
        if let Some(behind) = behind.filter(|behind| behind.is_empty() || behind.starts_with([' ', '\n', '('])) {
            return Some((text.get(..place)?.trim_end(), behind.trim_start()));
        }
        before = letter;
    }
    None
}

fn split_or_start<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(word).map(|behind| ("", behind.trim_start())).or_else(|| split(text, word))
}

/// What stands between the parentheses that `text` begins with, and what stands behind them.
fn tuple(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_i32;
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((text.get(1..place)?.trim(), text.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Verdict, params};

    fn of(sql: &'static str, params: Vec<Value>) -> Statement {
        Statement::write(sql, params).one_or(Verdict::Stale)
    }

    #[test]
    fn statements_for_arrays() {
        let guard = Statement::read("SELECT 1 FROM agent WHERE npub = ?1 AND generation = ?2", params![vec![1_u8], 2]);
        assert_eq!(
            sql(&guard.one_or(Verdict::Stale)).unwrap(),
            "SELECT u.n FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS u (p1, p2, n) CROSS JOIN LATERAL \
             (SELECT 1 FROM agent WHERE npub = u.p1 AND generation = u.p2) AS q"
        );
        let update = of("UPDATE tick SET a = ?2, b = (SELECT 1 WHERE ?1 = c)\n WHERE d = ?1 OR e = 0", params!["x", 1]);
        assert_eq!(
            sql(&update).unwrap(),
            "UPDATE tick SET a = u.p2, b = (SELECT 1 WHERE u.p1 = c) FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY \
             AS u (p1, p2, n) WHERE (d = u.p1 OR e = 0) RETURNING u.n"
        );
        let delete = of("DELETE FROM journal WHERE tick_id = ?1", params![vec![1_u8]]);
        assert!(sql(&delete).unwrap().starts_with("DELETE FROM journal USING unnest($1::bytea[])"));
        let insert = of(
            "INSERT INTO event (npub, seq) VALUES (?1, (SELECT s FROM agent WHERE npub = ?1)) RETURNING seq",
            params![vec![1_u8]],
        );
        assert_eq!(
            sql(&insert).unwrap(),
            "INSERT INTO event (npub, seq) SELECT u.p1, (SELECT s FROM agent WHERE npub = u.p1) FROM unnest($1::bytea[]) \
             WITH ORDINALITY AS u (p1, n)  RETURNING npub, seq"
        );
        let nothing = of("INSERT INTO journal (a) VALUES (?1) ON CONFLICT DO NOTHING", params![1]);
        assert!(sql(&nothing).unwrap().ends_with("ON CONFLICT DO NOTHING"));
    }

    #[test]
    fn what_is_not_an_agents_own_stays_alone() {
        for alone in [
            of("UPDATE counter SET value = value + 1 WHERE name = ?1", params!["x"]),
            of("UPDATE account SET a = ?2 WHERE id = ?1", params![1, 2]),
            of("UPDATE agent SET a = 1 FROM b WHERE c = ?1", params![1]),
            of("INSERT INTO budget (a) VALUES (?1) ON CONFLICT (a) DO UPDATE SET b = ?1", params![1]),
            of("INSERT INTO tick (a) SELECT b FROM c WHERE d = ?1", params![1]),
            Statement::read("SELECT 1 FROM agent WHERE npub = ?1", params![1]).lock(Lock::Update),
            Statement::write("DELETE FROM tick WHERE a = ?1", vec![Value::Null]),
        ] {
            assert_eq!(sql(&alone), None, "{alone:?}");
        }
    }

    #[test]
    fn each_batch_is_met_exactly_once() {
        let update = of("UPDATE tick SET a = ?2 WHERE d = ?1", params![1, 2]);
        let (one, two) = (params![1, 2], params![3, 4]);
        let params = [one.as_slice(), two.as_slice()];
        let told = |numbers: &[i64]| {
            let rows: Vec<Row> = numbers.iter().map(|number| Row(vec![Value::Int(*number)])).collect();
            outputs(&update, &params, Output { affected: rows.len() as u64, rows }).is_some()
        };
        assert!(told(&[2, 1]));
        for wrong in [vec![], vec![1], vec![1, 1], vec![1, 2, 2], vec![0, 1], vec![1, 3]] {
            assert!(!told(&wrong), "{wrong:?}");
        }
    }
}
