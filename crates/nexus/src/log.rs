//! The log, on standard error. Other people's code speaks at `info` at most, whatever is asked for: at `trace` some of
//! it prints what passes through it.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogForm;

/// Sets the log up for this process. `level` is for our own code.
pub fn init(form: LogForm, level: LevelFilter, colour: bool) {
    let ours = FilterFn::new(|meta| is_ours(meta.target()) || *meta.level() <= tracing::Level::INFO);
    let by_target = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("nexus", level);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    let started = match form {
        LogForm::Text => registry.with(layer.with_ansi(colour).with_filter(by_target).with_filter(ours)).try_init(),
        LogForm::Json => registry.with(layer.json().with_filter(by_target).with_filter(ours)).try_init(),
    };
    drop(started);
}

/// Every crate of this workspace is named `nexus` or `nexus_…`.
fn is_ours(target: &str) -> bool {
    target.strip_prefix("nexus").is_some_and(|rest| rest.is_empty() || rest.starts_with('_') || rest.starts_with("::"))
}

/// The level that the configuration and `-v` ask for.
pub fn level(configured: &str, verbose: u8) -> Option<LevelFilter> {
    match verbose {
        0 => configured.parse().ok(),
        1 => Some(LevelFilter::DEBUG),
        _ => Some(LevelFilter::TRACE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_targets_are_ours() {
        for ours in ["nexus", "nexus_worker::tick", "nexus::dev"] {
            assert!(is_ours(ours), "{ours}");
        }
        for theirs in ["hyper", "nexusthing", "reqwest::connect", "tokio_tungstenite"] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn levels_have_names() {
        assert_eq!(level("warn", 0), Some(LevelFilter::WARN));
        assert_eq!(level("warn", 2), Some(LevelFilter::TRACE));
        assert_eq!(level("loud", 0), None);
    }
}
