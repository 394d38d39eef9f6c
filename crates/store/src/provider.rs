//! What an agent remembers of compute providers.

use nexus_core::{Msat, Npub, UnixMs};

use crate::batch::params;
use crate::{Result, Statement, Store};

/// One thing that happened with a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Done {
        latency_ms: i64,
        price: Msat,
    },
    /// Abandoned before payment: silent, too dear, not acceptable.
    Abandoned,
    /// Paid, and nothing came.
    Disputed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    pub provider: Npub,
    pub done: u32,
    pub abandoned: u32,
    pub disputed: u32,
    /// Of the last finished job.
    pub latency_ms: i64,
    pub price: Msat,
    pub updated_at: UnixMs,
}

/// The agent's memory of all providers it has met, at most 1,000.
pub async fn scores(store: &Store, npub: Npub) -> Result<Vec<Score>> {
    let sql = "SELECT provider, done, abandoned, disputed, latency_ms, price_msat, updated_at FROM provider_score
        WHERE npub = ?1 ORDER BY updated_at DESC, provider LIMIT 1000";
    store
        .rows("read provider scores", sql, params![npub], |row| {
            Ok(Score {
                provider: row.get()?,
                done: row.get()?,
                abandoned: row.get()?,
                disputed: row.get()?,
                latency_ms: row.get()?,
                price: row.get()?,
                updated_at: row.get()?,
            })
        })
        .await
}

impl Fact {
    pub(crate) fn statement(self, npub: Npub, provider: Npub, now: UnixMs) -> Statement {
        let (done, abandoned, disputed, latency_ms, price) = match self {
            Self::Done { latency_ms, price } => (1_i64, 0_i64, 0_i64, latency_ms, price),
            Self::Abandoned => (0, 1, 0, 0, Msat::ZERO),
            Self::Disputed => (0, 0, 1, 0, Msat::ZERO),
        };
        Statement::write(
            "INSERT INTO provider_score (npub, provider, done, abandoned, disputed, latency_ms, price_msat, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (npub, provider) DO UPDATE SET
                done = provider_score.done + excluded.done,
                abandoned = provider_score.abandoned + excluded.abandoned,
                disputed = provider_score.disputed + excluded.disputed,
                latency_ms = CASE WHEN excluded.done = 1 THEN excluded.latency_ms ELSE provider_score.latency_ms END,
                price_msat = CASE WHEN excluded.done = 1 THEN excluded.price_msat ELSE provider_score.price_msat END,
                updated_at = excluded.updated_at",
            params![npub, provider, done, abandoned, disputed, latency_ms, price, now],
        )
    }
}
