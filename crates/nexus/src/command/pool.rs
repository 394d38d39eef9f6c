//! `nexus pool`

use std::path::Path;
use std::sync::Arc;

use comfy_table::Cell;
use nexus_client::pool;
use nexus_core::Entropy;
use serde_json::json;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::cli::Global;
use crate::dev::keys;
use crate::output::Output;
use crate::session::Session;

/// Makes the keys of a new fleet, and says which belongs where.
pub async fn create(dir: &Path, output: Output) -> anyhow::Result<()> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let made = keys::create_pool(dir, &SystemClock::new(), &entropy).await?;
    let document = json!({
        "pool_id": made.pool.document.pool_id, "root_fingerprint": made.pool.fingerprint(), "root": made.root,
        "identity": made.identity, "documents": made.documents, "operator": made.operator,
    });
    output.either(&document, || {
        let pairs = output.pairs([
            ("root key", Cell::new(made.pool.fingerprint())),
            ("keep offline", Cell::new(made.root.display())),
            ("for workers", Cell::new(made.identity.display())),
            ("for control", Cell::new(made.documents.display())),
            ("for control", Cell::new(made.operator.display())),
        ]);
        format!(
            "{pairs}\nNext: pool.identity_file of workers, pool.document_file and operator.key_file of control planes"
        )
    });
    Ok(())
}

pub async fn run(global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    let offer = pool::fetch(&session.api).await?;
    let signed = offer.verify(session.context.pool.as_ref(), None, session.clock.now())?;
    let pinned = session.context.pool.is_some();
    if output.json {
        output.document(&json!({
            "pool_id": signed.document.pool_id,
            "root": signed.root,
            "root_fingerprint": signed.fingerprint(),
            "pinned": pinned,
            "recipient": signed.recipient(),
            "documents": offer.chain.len(),
            "runner": offer.runner,
            "public_origin": offer.public_origin,
            "relay": offer.relay_url,
        }));
        return Ok(());
    }
    let verdict = if pinned { "follows from the pinned one" } else { "not pinned: compare the fingerprint" };
    output.line(output.pairs([
        ("pool", Cell::new(&signed.document.pool_id)),
        ("root key", Cell::new(signed.fingerprint())),
        ("verdict", Cell::new(verdict)),
        ("sealed to", Cell::new(signed.recipient())),
        ("runner", Cell::new(offer.runner.map_or("-".to_owned(), |runner| runner.to_string()))),
        ("host", Cell::new(&offer.public_origin)),
        ("relay", Cell::new(offer.relay_url.as_deref().unwrap_or("-"))),
    ]));
    Ok(())
}
