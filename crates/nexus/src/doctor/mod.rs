//! `nexus doctor`: is this host in order, and if not, what to do.

mod backup;
mod disk;
mod fleet;
mod live;

use nexus_client::Error;
use nexus_core::time::random;
use serde::Serialize;
use serde_json::json;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::{DoctorArgs, Global};
use crate::config::{Config, Loaded};
use crate::dev::data_dir;
use crate::output::Output;
use crate::role;
use crate::role::base;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, detail: detail.into(), next: None }
    }

    pub fn warn(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, detail: detail.into(), next: Some(next.into()) }
    }

    pub fn fail(check: &'static str, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, detail: detail.into(), next: Some(next.into()) }
    }
}

/// Looks at everything, says each thing in a line, and ends with exit code 1 when something fails.
pub async fn run(args: DoctorArgs, loaded: Loaded, global: &Global, output: Output) -> anyhow::Result<()> {
    let configuration = disk::configuration(global, &loaded);
    let mut findings = if fleet::is_one(&loaded.config) {
        let mut findings = vec![configuration];
        findings.extend(fleet::check(&loaded.config, &args.role).await);
        findings
    } else {
        alone(configuration, &loaded).await?
    };
    findings.extend(backup::last(&loaded.config).await);
    findings.extend(objects(&loaded.config).await);
    show(&findings, output);
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count();
    if failed > 0 {
        return Err(Error::Failed(format!(
            "{failed} checks failed\n  next: do what stands beside them, then run it again"
        ))
        .into());
    }
    Ok(())
}

/// A host in one process.
async fn alone(configuration: Finding, loaded: &Loaded) -> anyhow::Result<Vec<Finding>> {
    let dir = role::data_dir(&loaded.config)?;
    let running = data_dir::is_held(&dir);
    let clock = SystemClock::new();
    let mut findings = vec![configuration, disk::directory(&dir)];
    if dir.exists() {
        findings.extend(disk::keys(&dir, &clock));
        findings.push(disk::clock(&dir, &clock));
        findings.push(disk::database(&dir, running).await);
    }
    findings.extend(if running { live::running(&dir).await } else { live::stopped(&loaded.config).await });
    Ok(findings)
}

/// Whether the object store, if there is one, takes, gives and deletes.
async fn objects(config: &Config) -> Option<Finding> {
    const CHECK: &str = "object store";
    let objects = match base::open_objects(config) {
        Ok(objects) => objects?,
        Err(error) => return Some(Finding::fail(CHECK, format!("{error:#}"), "correct [objects]")),
    };
    let name = hex::encode(random::<8>(&SystemEntropy));
    Some(match objects.probe(&name).await {
        Ok(()) => Finding::ok(CHECK, format!("{:?}: put, read and deleted a probe", config.objects.kind)),
        Err(why) => Finding::fail(CHECK, why, "check [objects], the credentials, and that the store runs"),
    })
}

fn show(findings: &[Finding], output: Output) {
    if output.json {
        let healthy = findings.iter().all(|finding| finding.verdict != Verdict::Fail);
        output.document(&json!({ "healthy": healthy, "checks": findings }));
        return;
    }
    let rows = findings.iter().map(|finding| {
        let detail = match &finding.next {
            Some(next) => format!("{}\nnext: {next}", finding.detail),
            None => finding.detail.clone(),
        };
        [output.state(finding.verdict.as_str()), finding.check.into(), detail.into()]
    });
    output.line(output.table(["", "CHECK", "FOUND"], rows));
}
