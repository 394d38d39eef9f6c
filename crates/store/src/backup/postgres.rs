//! Lines from PostgreSQL, and back. The server writes and reads the rows' JSON itself.

use nexus_core::{Hash32, Npub, UnixMs};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::{
    Contents, DUMP, Header, KEPT, LOAD, NOTE, ObjectName, SERIALS, Step, afterwards, check_columns, corrupt, failed,
    value,
};
use crate::postgres::{Dialer, Failure, Wire, migrate};
use crate::{PostgresConfig, Result, StoreError};

/// Rows read at a time: a row may hold a state.
const FETCH: usize = 64;
/// Rows and bytes of one statement that writes.
const ROWS: usize = 256;
const BYTES: usize = 1024 * 1024;

pub(super) async fn note(config: PostgresConfig, name: &str, value: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO installation_value (name, value) VALUES ('{name}', '{}')
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        value.replace('\'', "''")
    );
    ask(config, &sql).await.map(drop)
}

pub(super) async fn noted(config: PostgresConfig, name: &str) -> Result<Option<String>> {
    let sql = format!("SELECT value FROM installation_value WHERE name = '{name}'");
    Ok(ask(config, &sql).await?.into_iter().next())
}

async fn ask(config: PostgresConfig, sql: &str) -> Result<Vec<String>> {
    let dialer = Dialer::new(config)?;
    let mut wire = dialer.owner().await.map_err(|failure| dialer.unreachable(&failure))?;
    let found = wire.simple(sql).await.map_err(|failure| failed(NOTE, failure));
    wire.close().await;
    found
}

/// Reads everything in one transaction, beside whoever writes.
pub(super) async fn dump(
    config: PostgresConfig,
    at: UnixMs,
    lines: &mpsc::Sender<String>,
) -> Result<(Contents, Vec<ObjectName>)> {
    let dialer = Dialer::new(config)?;
    let mut wire = dialer.owner().await.map_err(|failure| dialer.unreachable(&failure))?;
    wire.be_patient(migrate::PATIENCE);
    let read = read(&mut wire, at, lines).await;
    wire.close().await;
    read
}

async fn read(wire: &mut Wire, at: UnixMs, lines: &mpsc::Sender<String>) -> Result<(Contents, Vec<ObjectName>)> {
    let database = |failure: Failure| failed(DUMP, failure);
    let send = async |line: String| lines.send(line).await.map_err(|_| StoreError::Closed { attempted: DUMP });
    wire.simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(database)?;
    let (schema, known) = (migrate::version(wire).await.map_err(database)?, crate::migrate::known());
    match schema {
        found if found > known => return Err(StoreError::NewerSchema { found, known }),
        found if found < known => return Err(StoreError::OlderSchema { found, known }),
        _ => {}
    }
    let sql = "SELECT json_build_array(installation, epoch)::text FROM installation WHERE id = 1";
    let found = wire.simple(sql).await.map_err(database)?;
    let named: Option<(String, i64)> = found.first().and_then(|text| serde_json::from_str(text).ok());
    let (installation, epoch) = named.ok_or_else(|| failed(DUMP, "the database has no installation"))?;
    send(json!(Header::new(schema, at, installation, epoch)).to_string()).await?;
    let mut contents = Contents::default();
    for table in KEPT {
        let columns = columns(wire, table).await.map_err(database)?;
        let names: Vec<&String> = columns.iter().map(|column| &column.name).collect();
        send(json!({ "table": table, "columns": names }).to_string()).await?;
        let values: Vec<String> = columns.iter().map(Column::written).collect();
        let open = format!(
            "DECLARE rows NO SCROLL CURSOR FOR SELECT json_build_array({})::text FROM {table}",
            values.join(", ")
        );
        wire.simple(&open).await.map_err(database)?;
        loop {
            let rows = wire.simple(&format!("FETCH FORWARD {FETCH} FROM rows")).await.map_err(database)?;
            if rows.is_empty() {
                break;
            }
            contents.rows += rows.len() as u64;
            contents.agents += if *table == "agent" { rows.len() as u64 } else { 0 };
            for row in rows {
                send(row).await?;
            }
        }
        wire.simple("CLOSE rows").await.map_err(database)?;
    }
    let sql = "SELECT json_build_array(encode(npub, 'hex'), encode(hash, 'hex'), size)::text FROM blob
        WHERE dropped_at IS NULL AND claimed = 0";
    let found = wire.simple(sql).await.map_err(database)?;
    let names = found.iter().map(|text| object(text)).collect::<Option<_>>();
    let names = names.ok_or_else(|| failed(DUMP, "the name of an object can't be read"))?;
    wire.simple("ROLLBACK").await.map_err(database)?;
    Ok((contents, names))
}

fn object(text: &str) -> Option<ObjectName> {
    let (npub, hash, size): (String, String, u64) = serde_json::from_str(text).ok()?;
    let bytes = |text: &str| <[u8; 32]>::try_from(hex::decode(text).ok()?).ok();
    Some(ObjectName { npub: Npub::from_bytes(bytes(&npub)?), hash: Hash32::from_bytes(bytes(&hash)?), size })
}

struct Column {
    name: String,
    kind: String,
}

impl Column {
    /// The value as it stands in a line.
    fn written(&self) -> String {
        let name = &self.name;
        match self.kind.as_str() {
            "bytea" => format!(
                "CASE WHEN {name} IS NULL THEN NULL ELSE json_build_object('b', translate(encode({name}, 'base64'), E'\\n', '')) END"
            ),
            _ => name.clone(),
        }
    }

    /// The value as it is read from `row`, a line's array, at `place`.
    fn read(&self, place: usize) -> String {
        match self.kind.as_str() {
            "bytea" => format!("decode(row -> {place} ->> 'b', 'base64')"),
            "bigint" => format!("CAST(row ->> {place} AS BIGINT)"),
            _ => format!("row ->> {place}"),
        }
    }
}

async fn columns(wire: &mut Wire, table: &str) -> std::result::Result<Vec<Column>, Failure> {
    let sql = format!(
        "SELECT json_build_array(column_name, data_type)::text FROM information_schema.columns
         WHERE table_schema = current_schema() AND table_name = '{table}' ORDER BY ordinal_position"
    );
    let found = wire.simple(&sql).await?;
    let read = |text: &String| serde_json::from_str(text).ok().map(|(name, kind)| Column { name, kind });
    let unreadable = || Failure::Lost("a column can't be read".into());
    found.iter().map(read).collect::<Option<Vec<_>>>().filter(|columns| !columns.is_empty()).ok_or_else(unreadable)
}

/// All of it in one transaction, the schema apart: a database that has one and nothing in it is as good as an empty one.
pub(super) async fn load(
    config: PostgresConfig,
    header: Header,
    at: UnixMs,
    mut steps: mpsc::Receiver<Step>,
) -> Result<Contents> {
    let dialer = Dialer::new(config)?;
    let mut wire = dialer.owner().await.map_err(|failure| dialer.unreachable(&failure))?;
    wire.be_patient(migrate::PATIENCE);
    let found = migrate::version(&mut wire).await.map_err(|failure| failed(LOAD, failure))?;
    if found > header.schema {
        let message = format!(
            "the database has schema {found} already and the backup {}: restore into a new, empty database",
            header.schema
        );
        return Err(StoreError::Settings { message });
    }
    migrate::run_to(&dialer, header.schema).await?;
    let written = write(&mut wire, at, &mut steps).await;
    if written.is_err() {
        // The server does the same when the connection ends.
        let _ = wire.simple("ROLLBACK").await;
    }
    wire.close().await;
    let contents = written?;
    migrate::run_to(&dialer, crate::migrate::known()).await?;
    Ok(contents)
}

async fn write(wire: &mut Wire, at: UnixMs, steps: &mut mpsc::Receiver<Step>) -> Result<Contents> {
    let database = |failure: Failure| failed(LOAD, failure);
    wire.simple("BEGIN").await.map_err(database)?;
    let used = "SELECT (SELECT COUNT(*) FROM agent) + (SELECT COUNT(*) FROM account)";
    if wire.simple(used).await.map_err(database)? != ["0"] {
        let message = "there are agents or accounts already: nothing is restored over a database".to_owned();
        return Err(StoreError::Settings { message });
    }
    let mut contents = Contents::default();
    let mut into: Option<Into> = None;
    loop {
        match steps.recv().await {
            None => return Err(corrupt("it ends before its last line")),
            Some(Step::End) => break,
            Some(Step::Table { table, columns: given }) => {
                if let Some(into) = &mut into {
                    into.flush(wire).await?;
                }
                // Before it is part of a statement.
                if !KEPT.contains(&table.as_str()) {
                    return Err(corrupt(&format!("it has a table {table:?}, which no backup has")));
                }
                let there = columns(wire, &table).await.map_err(database)?;
                let names: Vec<String> = there.iter().map(|column| column.name.clone()).collect();
                check_columns(&table, &given, &names)?;
                wire.simple(&format!("DELETE FROM {table}")).await.map_err(database)?;
                into = Some(Into::new(table, &given, &there));
            }
            Some(Step::Row(row)) => {
                let Some(into) = &mut into else { return Err(corrupt("a row before its table")) };
                into.add(&row)?;
                contents.rows += 1;
                contents.agents += u64::from(into.table == "agent");
                if into.rows.len() >= ROWS || into.bytes >= BYTES {
                    into.flush(wire).await?;
                }
            }
        }
    }
    if let Some(into) = &mut into {
        into.flush(wire).await?;
    }
    for (table, column) in SERIALS {
        let sql = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), (SELECT COALESCE(MAX({column}), 0) + 1 FROM {table}), false)"
        );
        wire.simple(&sql).await.map_err(database)?;
    }
    for sql in afterwards(at) {
        wire.simple(&sql).await.map_err(database)?;
    }
    wire.simple("COMMIT").await.map_err(database)?;
    Ok(contents)
}

/// Rows on their way into one table.
struct Into {
    table: String,
    width: usize,
    before: String,
    after: String,
    rows: Vec<String>,
    bytes: usize,
}

impl Into {
    fn new(table: String, given: &[String], there: &[Column]) -> Self {
        let read = given.iter().enumerate().filter_map(|(place, name)| {
            there.iter().find(|column| column.name == *name).map(|column| column.read(place))
        });
        let values: Vec<String> = read.collect();
        let before = format!(
            "INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM json_array_elements('",
            given.join(", "),
            values.join(", ")
        );
        Self { table, width: given.len(), before, after: "') AS line (row)".to_owned(), rows: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, row: &[Json]) -> Result<()> {
        if row.len() != self.width {
            let (table, width) = (&self.table, self.width);
            return Err(corrupt(&format!("a row of {table} has {} values, not {width}", row.len())));
        }
        for json in row {
            value(json)?;
        }
        // Quotes are the only thing that a literal of this server's standard form escapes.
        let text = json!(row).to_string().replace('\'', "''");
        self.bytes += text.len();
        self.rows.push(text);
        Ok(())
    }

    async fn flush(&mut self, wire: &mut Wire) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let sql = format!("{}[{}]{}", self.before, self.rows.join(","), self.after);
        self.rows.clear();
        self.bytes = 0;
        wire.simple(&sql).await.map(drop).map_err(|failure| failed(LOAD, failure))
    }
}
