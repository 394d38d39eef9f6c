//! Being told to stop.

/// Returns when the process is asked to end: Ctrl-C, or SIGTERM.
pub async fn requested() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            },
            Err(error) => {
                tracing::warn!(%error, "SIGTERM can't be heard; Ctrl-C can");
                let _ = tokio::signal::ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Ends the process at once when it is asked a second time. The journals say where to go on.
pub async fn at_once_when_asked_again() {
    requested().await;
    std::process::exit(1);
}
