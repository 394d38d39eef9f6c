//! A client that froze in the middle of a transaction must not keep its locks.
//!
//! Between two round trips the server ends such a session by itself (`idle_in_transaction_session_timeout`). In the middle of
//! one it does not: while it waits for the rest of what a client was saying, or for a client to take its answers, no timeout
//! of the server runs. So whoever waits for a lock looks who is in the way, and ends those that wait for their client.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::session::Dialer;
use super::wire::{Failure, Wire};

/// Waits beside an answer that does not come: from time to time, ends the frozen sessions that the session `pid` waits for, be it
/// through others. Never returns; costs nothing before the first look.
pub(crate) async fn watch(dialer: &Dialer, pid: i32) -> Infallible {
    let frozen = dialer.config.frozen_after();
    let mut looking = None;
    sleep(frozen / 2).await;
    loop {
        match look(dialer, &mut looking, pid, frozen).await {
            Ok(0) => {}
            Ok(ended) => tracing::warn!(ended, "ended sessions whose clients froze inside a transaction"),
            Err(failure) => {
                tracing::debug!(error = %failure, "cannot look who is in the way");
                looking = None;
            }
        }
        sleep(frozen / 4).await;
    }
}

async fn look(dialer: &Dialer, looking: &mut Option<Wire>, pid: i32, frozen: Duration) -> Result<usize, Failure> {
    let wire = match looking {
        Some(wire) => wire,
        None => looking.insert(dialer.onlooker().await?),
    };
    Ok(wire.simple(&eviction(pid, frozen)).await?.len())
}

/// Ends whoever stands in the way and has said nothing for so long, or stands in one transaction for twice as long, and waits
/// for its own client. One that lives and was merely slow loses a connection, which its writer sees through.
fn eviction(pid: i32, frozen: Duration) -> String {
    let silent = frozen.as_millis();
    let long = silent.saturating_mul(2);
    format!(
        "WITH RECURSIVE ahead (pid) AS (
             SELECT unnest(pg_blocking_pids({pid})) UNION SELECT unnest(pg_blocking_pids(a.pid)) FROM ahead a)
         SELECT pg_terminate_backend(s.pid) FROM pg_stat_activity s JOIN ahead USING (pid)
         WHERE s.wait_event IN ('ClientRead', 'ClientWrite') AND s.xact_start IS NOT NULL
             AND (clock_timestamp() - s.state_change > interval '{silent} ms'
                 OR clock_timestamp() - s.xact_start > interval '{long} ms')"
    )
}
