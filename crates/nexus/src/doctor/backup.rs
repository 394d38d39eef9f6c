//! Whether there is a way back.

use nexus_core::Clock;
use nexus_store::backup::{self, Place};

use super::Finding;
use crate::ambient::SystemClock;
use crate::backup::place;
use crate::config::Config;
use crate::output::moment;

const CHECK: &str = "backup";

/// None while there is no database to back up; that the database can't be reached is another finding's to say.
pub async fn last(config: &Config) -> Option<Finding> {
    let place = place(config).ok()?;
    if let Place::Sqlite(path) = &place
        && !path.exists()
    {
        return None;
    }
    let next = "nexus backup --dir DIR --every 1h";
    Some(match backup::last_at(place).await.ok()? {
        None => Finding::warn(CHECK, "none was ever made", next),
        Some(last) => {
            let every = last.every_secs.map_or_else(String::new, |secs| format!(", one is due every {secs} s"));
            let detail = format!("the last was made at {} (UTC){every}", moment(last.at.0));
            match last.is_stale(SystemClock::new().now()) {
                true => Finding::warn(CHECK, detail, format!("it is old: {next}")),
                false => Finding::ok(CHECK, detail),
            }
        }
    })
}
