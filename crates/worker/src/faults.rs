//! The one place where a test can stop a worker: the boundary at which effects are performed.
//!
//! Without the `faults` feature every call below is empty and the environment is not read.

/// State and journals are written in this format, and read up to it.
pub const WIRE_VERSION: u32 = nexus_core::tick::RECORD_VERSION;

/// Where a tick can be stopped. `point` is the name of an effect or of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Before,
    After,
}

/// Something that goes wrong at a named point, for a test.
///
/// With the feature, `NEXUS_FAULT=before:pay` (or `after:act#2`, the second time; `#0`, each time) writes
/// `fault reached: before:pay` to standard error and never goes on, so that a test can kill the process there.
/// `freeze:before:pay` stops the whole process as SIGSTOP does, and goes on there after SIGCONT; `panic:…` panics;
/// `slow-3000:…` takes so many milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "faults")]
    plan: Option<std::sync::Arc<Plan>>,
    #[cfg(feature = "broken")]
    broken: Option<Broken>,
}

/// A defect that a test wants in this worker, to see it found.
#[cfg(feature = "broken")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A payment leaves before the journal says so.
    IntentNotJournaled,
    /// A payment whose fate is not known is sent again, and the second answer believed.
    ResentWhenUnknown,
    /// Another invoice for a job that is paid is paid too.
    SecondInvoicePaid,
}

#[cfg(feature = "broken")]
impl Faults {
    /// A worker with this defect.
    pub fn broken(broken: Broken) -> Self {
        Self { broken: Some(broken), ..Self::default() }
    }

    pub(crate) fn is_broken(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }
}

#[cfg(feature = "faults")]
#[derive(Debug)]
struct Plan {
    course: Course,
    point: String,
    /// 0: each time.
    nth: u32,
    hits: std::sync::atomic::AtomicU32,
    log: bool,
}

#[cfg(feature = "faults")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Hang,
    Freeze,
    Panic,
    Slow(u64),
}

impl Faults {
    /// The plan that the environment names, with the `faults` feature; nothing without it.
    pub fn from_environment() -> Self {
        #[cfg(feature = "faults")]
        {
            Self {
                plan: std::env::var("NEXUS_FAULT").ok().map(|text| std::sync::Arc::new(Plan::parse(&text))),
                #[cfg(feature = "broken")]
                broken: None,
            }
        }
        #[cfg(not(feature = "faults"))]
        Self::default()
    }

    /// What this worker reads and writes: [`WIRE_VERSION`], or what `NEXUS_FAULT_VERSION` says in a build for tests, as
    /// if it were of a later release.
    pub fn version(&self) -> u32 {
        #[cfg(feature = "faults")]
        if let Some(version) = std::env::var("NEXUS_FAULT_VERSION").ok().and_then(|text| text.parse().ok()) {
            return version;
        }
        WIRE_VERSION
    }

    /// Passes a point, or stops there.
    #[cfg(feature = "faults")]
    pub async fn pass(&self, at: At, name: &str) {
        use std::io::Write;
        use std::sync::atomic::Ordering;

        let Some(plan) = &self.plan else { return };
        let point = format!("{}:{name}", if at == At::Before { "before" } else { "after" });
        if plan.log {
            let _ = writeln!(std::io::stderr(), "fault point: {point}");
        }
        if plan.point != point {
            return;
        }
        let hit = plan.hits.fetch_add(1, Ordering::SeqCst) + 1;
        if plan.nth != 0 && hit != plan.nth {
            return;
        }
        let _ = writeln!(std::io::stderr(), "fault reached: {point}");
        match plan.course {
            Course::Hang => std::future::pending().await,
            Course::Slow(ms) => {
                tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
                let _ = writeln!(std::io::stderr(), "fault passed: {point}");
            }
            #[expect(clippy::panic, reason = "what this fault is")]
            Course::Panic => panic!("fault reached: {point}"),
            Course::Freeze => {
                // Comes back when somebody sends SIGCONT, and everything that this process waited for is long over.
                let id = std::process::id().to_string();
                let _ = std::process::Command::new("kill").args(["-STOP", &id]).status();
                let _ = writeln!(std::io::stderr(), "fault passed: {point}");
            }
        }
    }

    /// Passes a point.
    #[cfg(not(feature = "faults"))]
    pub async fn pass(&self, _at: At, _name: &str) {}
}

#[cfg(feature = "faults")]
impl Plan {
    fn parse(text: &str) -> Self {
        let (course, text) = match text.split_once(':') {
            Some(("freeze", rest)) => (Course::Freeze, rest),
            Some(("panic", rest)) => (Course::Panic, rest),
            Some((slow, rest)) if slow.starts_with("slow-") => {
                (Course::Slow(slow["slow-".len()..].parse().unwrap_or(1_000)), rest)
            }
            _ => (Course::Hang, text),
        };
        let (point, nth) = text.split_once('#').unwrap_or((text, "1"));
        Self {
            course,
            point: point.to_owned(),
            nth: nth.parse().unwrap_or(1),
            hits: std::sync::atomic::AtomicU32::new(0),
            log: point == "log",
        }
    }
}
