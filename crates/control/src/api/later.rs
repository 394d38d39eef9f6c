//! Calls that are planned: each says by name that it is not there yet, so that nobody mistakes it for a wrong path.

use axum::Router;
use axum::routing::any;

use crate::app::Shared;
use crate::problem::{Code, Problem};

const LATER: [(&str, &str); 2] =
    [("/.well-known/lnurlp/{name}", "LNURL-pay"), ("/.well-known/nostr.json", "NIP-05 names")];

/// Routes that answer [`Code::NotYet`].
pub fn routes() -> Router<Shared> {
    LATER.iter().fold(Router::new(), |router, (path, what)| {
        router.route(path, any(move || async move { Problem::with(Code::NotYet, format!("{what}: not yet")) }))
    })
}
