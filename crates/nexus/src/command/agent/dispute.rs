//! `nexus agent disputes`: what was paid and not served, and what proves it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use comfy_table::Cell;
use nexus_client::Error;
use nexus_client::api::Call;
use nexus_client::view::Viewer;
use nexus_core::dispute::DisputeId;
use nexus_core::{Msat, Npub, UnixMs};
use nexus_nostr::dispute::{self, Bundle, Evidence, Invoice};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::DisputesArgs;
use crate::output::{Output, field, group, moment, relative};
use crate::session::Session;

pub async fn run(session: &Session, args: &DisputesArgs) -> anyhow::Result<()> {
    let name = args.agent.as_deref().unwrap_or_default();
    let npub = session.agent(name).await?;
    let Some(prefix) = &args.id else { return list(session, &npub, name, args.all).await };
    let view = find(session, &npub, prefix).await?;
    if args.settled || args.close {
        return end(session, &npub, &view, if args.settled { "settled_elsewhere" } else { "closed" }).await;
    }
    let bundle = opened(session, &npub, &view).await?;
    match &args.out {
        Some(out) => write(session.output, out, &bundle),
        None => show(session, name, &bundle),
    }
}

async fn list(session: &Session, npub: &Npub, name: &str, all: bool) -> anyhow::Result<()> {
    let answer = session.api.get(&format!("/v1/agents/{npub}/disputes?limit=200&all={all}")).await?;
    let rows = answer["disputes"].as_array().cloned().unwrap_or_default();
    let output = session.output;
    if output.json {
        let rows: Vec<Value> = rows.into_iter().map(without_sealed).collect();
        output.document(&json!({ "disputes": rows }));
        return Ok(());
    }
    if rows.is_empty() {
        output.line("Nothing was paid and not served.");
        return Ok(());
    }
    let now = session.clock.now().0;
    let cells = rows.iter().map(|row| {
        [
            Cell::new(field(row, "id")),
            output.state(row["state"].as_str().unwrap_or("-")),
            Cell::new(format!("{} sats", group(row["amount_msat"].as_u64().unwrap_or(0).div_ceil(1_000)))),
            Cell::new(field(row, "provider")),
            Cell::new(row["silent_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now))),
        ]
    });
    output.line(output.table(["DISPUTE", "STATE", "PAID", "PROVIDER", "SINCE"], cells));
    output.line(format!("\nNext: nexus agent disputes {name} ID --out FILE keeps the evidence of one"));
    Ok(())
}

/// The one whose id begins so.
async fn find(session: &Session, npub: &Npub, prefix: &str) -> anyhow::Result<Value> {
    let answer = session.api.get(&format!("/v1/agents/{npub}/disputes?limit=200&all=true")).await?;
    let rows = answer["disputes"].as_array().cloned().unwrap_or_default();
    let mut fitting = rows.into_iter().filter(|row| row["id"].as_str().is_some_and(|id| id.starts_with(prefix)));
    match (fitting.next(), fitting.next()) {
        (Some(row), None) => Ok(session.api.get(&format!("/v1/agents/{npub}/disputes/{}", field(&row, "id"))).await?),
        (None, _) => {
            Err(Error::NotFound(format!("no dispute {prefix}\n  next: `nexus agent disputes A --all`")).into())
        }
        (Some(_), Some(_)) => {
            Err(Error::Refused(format!("more than one dispute begins with {prefix}\n  next: give more of its id"))
                .into())
        }
    }
}

async fn end(session: &Session, npub: &Npub, view: &Value, state: &str) -> anyhow::Result<()> {
    let id = field(view, "id");
    let call = Call::new(Method::POST, format!("/v1/agents/{npub}/disputes/{id}")).json(&json!({ "state": state }));
    let row = without_sealed(session.api.call(call).await?.body);
    session.output.either(&row, || format!("{id}: {}", field(&row, "state")));
    Ok(())
}

/// What the host says of it, as far as it is not in the evidence.
#[derive(Deserialize)]
struct Said {
    id: DisputeId,
    provider: Npub,
    amount_msat: Msat,
    fee_msat: Msat,
    paid_at_ms: Option<UnixMs>,
    silent_at_ms: UnixMs,
    state: nexus_core::dispute::DisputeState,
}

/// The evidence, opened with the reader's key.
async fn opened(session: &Session, npub: &Npub, view: &Value) -> anyhow::Result<Bundle> {
    let keys = session.owner_keys()?;
    let viewer = Viewer::open(&session.as_owner(&keys), npub, &keys).await?;
    let odd = |why: &str| Error::Refused(format!("{why}\n  next: ask the operator; the host changed or lost history"));
    let said: Said =
        serde_json::from_value(view.clone()).map_err(|_| odd("the host shows a dispute of another form"))?;
    let text = view["sealed"].as_str().and_then(|sealed| viewer.text(sealed));
    let text = text.ok_or_else(|| odd("the evidence of this dispute does not open with your key"))?;
    let evidence: Evidence =
        serde_json::from_str(text.expose()).map_err(|_| odd("what is kept of this dispute is no evidence"))?;
    if evidence.dispute_id != said.id {
        return Err(odd("what the host gives is another dispute's").into());
    }
    Ok(Bundle {
        nexus_dispute: dispute::FORMAT,
        agent: *npub,
        provider: said.provider,
        amount: said.amount_msat,
        fee: said.fee_msat,
        paid_at: said.paid_at_ms,
        silent_at: said.silent_at_ms,
        state: said.state,
        evidence,
    })
}

fn write(output: Output, out: &Path, bundle: &Bundle) -> anyhow::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(bundle)?;
    bytes.push(b'\n');
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // With the preimage in it: whoever shows it decides to whom.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(out).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written.with_context(|| format!("writing {}\n  next: name a file that is not there yet", out.display()))?;
    let document = json!({ "file": out, "dispute_id": bundle.evidence.dispute_id });
    output.either(&document, || {
        format!("Written to {0}.\nNext: nexus agent disputes verify {0} checks it, anywhere", out.display())
    });
    Ok(())
}

fn show(session: &Session, name: &str, bundle: &Bundle) -> anyhow::Result<()> {
    let output = session.output;
    if output.json {
        output.document(bundle);
        return Ok(());
    }
    let evidence = &bundle.evidence;
    let at = |at: UnixMs| Cell::new(format!("{} UTC", moment(at.0)));
    let preimage = evidence.preimage.map_or("-".to_owned(), |preimage| preimage.to_string());
    output.line(output.pairs([
        ("dispute", Cell::new(evidence.dispute_id)),
        ("state", output.state(bundle.state.as_str())),
        ("provider", Cell::new(bundle.provider)),
        ("paid", Cell::new(format!("{} and a fee of {}", bundle.amount, bundle.fee))),
        ("at", bundle.paid_at.map_or(Cell::new("not known to have arrived"), at)),
        ("silent until", at(bundle.silent_at)),
        ("request", Cell::new(evidence.request.id)),
        ("heard", Cell::new(format!("{} signed events", evidence.heard.len()))),
        ("preimage", Cell::new(preimage)),
        ("late result", Cell::new(evidence.late.as_ref().map_or("none".to_owned(), |late| late.id.to_string()))),
    ]));
    let id = evidence.dispute_id;
    output.line(format!("\nNext: nexus agent disputes {name} {id} --out FILE writes the evidence for others"));
    Ok(())
}

/// Checks a file, without a host.
pub fn verify(file: &Path, output: Output) -> anyhow::Result<()> {
    let next = "next: ask whoever gave you the file for what `nexus agent disputes A ID --out FILE` writes";
    let size = std::fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
    let proven = if size > dispute::MAX_BUNDLE as u64 {
        Err(dispute::Unproven::TooLarge)
    } else {
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        Bundle::read(&bytes).and_then(|bundle| {
            let invoice = nexus_lightning::decode_bolt11(&bundle.evidence.bolt11)
                .map(|invoice| Invoice { hash: invoice.hash, amount: invoice.amount })
                .map_err(|error| error.to_string());
            dispute::verify(&bundle, invoice)
        })
    };
    let proven = proven.map_err(|why| Error::Refused(format!("{} proves nothing: {why}\n  {next}", file.display())))?;
    output.either(&proven, || {
        let answered = proven.answered.map_or("nothing in the file answers it".to_owned(), |id| {
            format!("a result signed by the provider came after all ({id})")
        });
        format!(
            "{} asked (event {}),\n{} asked {} for it (event {}),\nand the invoice {} was paid: the preimage is its own.\nSilence leaves no proof; {answered}.",
            proven.agent, proven.request, proven.provider, proven.amount, proven.asked_by, proven.payment_hash
        )
    });
    Ok(())
}

fn without_sealed(mut row: Value) -> Value {
    if let Some(members) = row.as_object_mut() {
        members.remove("sealed");
    }
    row
}
