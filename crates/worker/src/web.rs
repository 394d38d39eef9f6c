//! What a worker asks of web servers that others named, so that a simulation can stand in for them.

use futures::FutureExt;
use futures::future::BoxFuture;
use nexus_egress::{Egress, EgressError};

/// Servers of others as a worker uses them.
pub trait Web: Send + Sync + 'static {
    /// Status and body of a GET: of public addresses alone, bounded in size and time, no redirect followed.
    fn get<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(u16, Vec<u8>), EgressError>>;

    /// Whether this machine itself may be asked, and by HTTP.
    fn development(&self) -> bool;
}

impl Web for Egress {
    fn get<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(u16, Vec<u8>), EgressError>> {
        Self::get(self, url).boxed()
    }

    fn development(&self) -> bool {
        Self::development(self)
    }
}
