//! The one place where a test can stop a worker: the boundary at which effects are performed.
//!
//! Without the `faults` feature every call below is empty and the environment is not read.

/// Where a tick can be stopped. `point` is the name of an effect or of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Before,
    After,
}

/// Stops the process for good at a named point, so that a test can kill it there.
///
/// With the feature, `NEXUS_FAULT=before:pay` (or `after:act#2`, the second time) writes `fault reached: before:pay`
/// to standard error and never goes on.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    #[cfg(feature = "faults")]
    plan: Option<std::sync::Arc<Plan>>,
}

#[cfg(feature = "faults")]
#[derive(Debug)]
struct Plan {
    point: String,
    nth: u32,
    hits: std::sync::atomic::AtomicU32,
    log: bool,
}

impl Faults {
    /// The plan that the environment names, with the `faults` feature; nothing without it.
    pub fn from_environment() -> Self {
        #[cfg(feature = "faults")]
        {
            Self { plan: std::env::var("NEXUS_FAULT").ok().map(|text| std::sync::Arc::new(Plan::parse(&text))) }
        }
        #[cfg(not(feature = "faults"))]
        Self::default()
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
        if plan.point == point && plan.hits.fetch_add(1, Ordering::SeqCst) + 1 == plan.nth {
            let _ = writeln!(std::io::stderr(), "fault reached: {point}");
            std::future::pending::<()>().await;
        }
    }

    /// Passes a point.
    #[cfg(not(feature = "faults"))]
    pub async fn pass(&self, _at: At, _name: &str) {}
}

#[cfg(feature = "faults")]
impl Plan {
    fn parse(text: &str) -> Self {
        let (point, nth) = text.split_once('#').unwrap_or((text, "1"));
        Self {
            point: point.to_owned(),
            nth: nth.parse().unwrap_or(1),
            hits: std::sync::atomic::AtomicU32::new(0),
            log: point == "log",
        }
    }
}
