//! `nexus context`

use comfy_table::Cell;
use nexus_client::{Context, OwnerKey};
use nexus_seal::pool::fingerprint;
use serde_json::{Value, json};

use crate::cli::ContextCommand;
use crate::output::Output;
use crate::session;

pub fn run(command: ContextCommand, output: Output) -> anyhow::Result<()> {
    match command {
        ContextCommand::List => list(output),
        ContextCommand::Use { name } => {
            session::contexts()?.use_context(&name)?;
            output.either(&json!({ "context": name }), || format!("Using the context `{name}`."));
            Ok(())
        }
        ContextCommand::Show { name } => show(name.as_deref(), output),
    }
}

fn list(output: Output) -> anyhow::Result<()> {
    let contexts = session::contexts()?;
    let used = contexts.select(None).map(|context| context.name).ok();
    let mut all = Vec::new();
    for name in contexts.names()? {
        all.push(contexts.load(&name)?);
    }
    if output.json {
        let rows: Vec<Value> = all.iter().map(|context| document(context, used.as_deref())).collect();
        output.document(&rows);
    } else if all.is_empty() {
        output.line("No contexts yet: `nexus dev` makes one, `nexus login --url URL --new` too.");
    } else {
        let rows = all.iter().map(|context| {
            let mark = if used.as_deref() == Some(&context.name) { "*" } else { "" };
            let owner = context.owner.as_ref().map_or("-".to_owned(), |owner| owner.npub().short());
            [
                Cell::new(mark),
                Cell::new(&context.name),
                Cell::new(context.url.as_str()),
                Cell::new(owner),
                Cell::new(key(context)),
            ]
        });
        output.line(output.table(["", "NAME", "HOST", "OWNER", "KEY"], rows));
    }
    Ok(())
}

fn show(name: Option<&str>, output: Output) -> anyhow::Result<()> {
    let contexts = session::contexts()?;
    let used = contexts.select(None).map(|context| context.name).ok();
    let context = contexts.select(name)?;
    if output.json {
        output.document(&document(&context, used.as_deref()));
        return Ok(());
    }
    let root = context.pool.as_ref().map_or("not pinned yet".to_owned(), |pool| fingerprint(&pool.root));
    output.line(output.pairs([
        ("name", Cell::new(&context.name)),
        ("host", Cell::new(context.url.as_str())),
        ("owner", Cell::new(context.owner.as_ref().map_or("-".to_owned(), |owner| owner.npub().to_string()))),
        ("owner key", Cell::new(key(&context))),
        ("token", Cell::new(if context.token.is_some() { "kept" } else { "none" })),
        ("root key", Cell::new(root)),
        ("devnet", Cell::new(context.devnet.as_deref().unwrap_or("-"))),
        ("file", Cell::new(contexts.path(&context.name).display().to_string())),
    ]));
    Ok(())
}

fn key(context: &Context) -> &'static str {
    match &context.owner {
        Some(OwnerKey::Development { .. }) => "development, not encrypted",
        Some(OwnerKey::Encrypted { .. }) => "encrypted (NIP-49)",
        None => "none",
    }
}

/// A context without its secrets.
fn document(context: &Context, used: Option<&str>) -> Value {
    json!({
        "name": context.name,
        "url": context.url,
        "used": used == Some(context.name.as_str()),
        "owner": context.owner.as_ref().map(OwnerKey::npub),
        "owner_key": key(context),
        "has_token": context.token.is_some(),
        "pool": context.pool,
        "root_fingerprint": context.pool.as_ref().map(|pool| fingerprint(&pool.root)),
        "devnet": context.devnet,
    })
}
