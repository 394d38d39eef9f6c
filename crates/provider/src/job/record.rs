//! One line of the ledger's file.

use nexus_core::{Hash32, Npub, UnixMs};
use nostr::event::Event;
use serde::{Deserialize, Serialize};

use super::{Job, Stage};

#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) job: Hash32,
    pub(super) customer: Npub,
    pub(super) at: UnixMs,
    #[serde(flatten)]
    pub(super) stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Box<Event>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Box<Event>>,
}

impl Record {
    pub(super) fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// All of a job in one line.
    pub(super) fn of(job: &Job) -> Self {
        Self {
            job: job.id,
            customer: job.customer,
            at: job.at,
            stage: job.stage.clone(),
            request: job.request.clone(),
            result: job.result.clone(),
        }
    }

    /// What the line makes of the job that earlier lines made.
    pub(super) fn apply(self, before: Option<Job>) -> Job {
        let (request, result) = before.map_or((None, None), |job| (job.request, job.result));
        let mut job = Job {
            id: self.job,
            customer: self.customer,
            at: self.at,
            stage: self.stage,
            request: self.request.or(request),
            result: self.result.or(result),
        };
        job.shed();
        job
    }
}

impl Job {
    /// Drops what its stage has no more use for.
    pub(super) fn shed(&mut self) {
        match self.stage {
            Stage::Accepted | Stage::Invoiced { .. } | Stage::Paid { .. } | Stage::Delivered { .. } => {}
            Stage::Published { .. } => self.request = None,
            Stage::Closed { .. } => {
                self.request = None;
                self.result = None;
            }
        }
    }
}
