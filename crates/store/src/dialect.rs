//! What differs between the engines that the same statements run on.

/// Words of the migrations that stand for an engine's own.
const SQLITE_DDL: [(&str, &str); 3] =
    [(" BYTES", " BLOB"), (" SERIAL", " INTEGER PRIMARY KEY AUTOINCREMENT"), (" CLUSTERED", " WITHOUT ROWID")];

/// A migration in SQLite's words.
pub(crate) fn sqlite_ddl(migration: &str) -> String {
    SQLITE_DDL.iter().fold(migration.to_owned(), |text, (word, own)| text.replace(word, own))
}

/// The hash chain's step, a function of this name in every engine: SHA-256 of head and digest, one after the other.
pub(crate) const CHAIN: &str = "chain";

/// Whether the fence holds, under a shared lock where the engine has row locks.
pub(crate) const FENCE: &str = "SELECT 1 FROM worker_fence WHERE worker_id = ?1 AND incarnation = ?2";
