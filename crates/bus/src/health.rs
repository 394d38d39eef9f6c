//! How a bus is doing.

use serde::Serialize;

/// Counters start at zero with the process. Nobody is unready for want of a bus: without one, things only take longer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct BusHealth {
    /// Messages go out and come in.
    pub connected: bool,
    /// Why not, or what does not work although it is connected. At most 300 bytes, and no secret.
    pub problem: Option<String>,
    /// Times that a connection was made.
    pub connects: u64,
    /// Wakes that were handed to the connection.
    pub published: u64,
    /// Wakes that were given up before they left: the queue was full, or the connection went away.
    pub dropped: u64,
    /// Wakes that came in, our own among them.
    pub received: u64,
    /// Messages that were no wake of this version.
    pub ignored: u64,
}

impl BusHealth {
    /// A bus that cannot be away.
    pub const fn in_process() -> Self {
        Self { connected: true, problem: None, connects: 0, published: 0, dropped: 0, received: 0, ignored: 0 }
    }
}
