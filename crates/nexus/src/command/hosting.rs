//! `nexus hosting`

use std::time::Duration;

use comfy_table::Cell;
use nexus_client::api::Call;
use nexus_client::{Error, file};
use nexus_lightning::nwc::Connection;
use reqwest::Method;
use serde_json::{Value, json};

use super::agent::fund;
use crate::cli::{Global, HostingCommand, HostingInvoiceArgs, HostingRefundArgs, HostingRenewArgs};
use crate::output::{Output, field, group, moment, relative};
use crate::session::Session;

const LOOK: Duration = Duration::from_millis(500);
/// How long a payment is waited for: of play money, and of somebody's wallet.
const PLAY_TIMEOUT_MS: u64 = 30_000;
const WAIT_TIMEOUT_MS: u64 = 15 * 60_000;

pub async fn run(command: HostingCommand, global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    match command {
        HostingCommand::Plans => plans(&session).await,
        HostingCommand::Status => status(&session).await,
        HostingCommand::Invoice(args) => invoice(&session, &args).await,
        HostingCommand::Refund(args) => refund(&session, &args).await,
        HostingCommand::Renew(args) => renew(&session, &args).await,
        HostingCommand::History { limit } => history(&session, limit).await,
    }
}

async fn plans(session: &Session) -> anyhow::Result<()> {
    let answer = session.api.get("/v1/plans").await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    if answer["charged"] != true {
        session.output.line("Nothing is charged here: every account is paid.");
        return Ok(());
    }
    let bound = |value: &Value| value.as_u64().map_or("any".to_owned(), group);
    let plans = answer["plans"].as_array().cloned().unwrap_or_default();
    let rows = plans.iter().map(|plan| {
        let own = if plan["name"] == answer["plan"] { " (of new accounts)" } else { "" };
        [
            Cell::new(format!("{}{own}", field(plan, "name"))),
            Cell::new(group(plan["fee_sats"].as_u64().unwrap_or(0))),
            Cell::new(bound(&plan["agents"])),
            Cell::new(bound(&plan["ticks_per_day"])),
            Cell::new(plan["state_kib"].as_u64().map_or("256 KiB".to_owned(), |kib| format!("{kib} KiB"))),
            Cell::new(plan["retention_days"].as_u64().map_or("the host's".to_owned(), |days| format!("{days} days"))),
        ]
    });
    let heads = ["PLAN", "SATS A MONTH, EACH AGENT", "AGENTS", "TICKS A DAY", "STATE", "HISTORY KEPT"];
    session.output.line(session.output.table(heads, rows));
    let (trial, grace) = (field(&answer, "trial_days"), field(&answer, "grace_days"));
    session
        .output
        .line(format!("{trial} days of trial from the first agent on; {grace} days of grace after a paid month."));
    Ok(())
}

async fn status(session: &Session) -> anyhow::Result<()> {
    let answer = session.api.get("/v1/hosting").await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    if answer["charged"] != true {
        session.output.line("Nothing is charged here: every account is paid.");
        return Ok(());
    }
    let now = session.clock.now().0;
    let agents = answer["agents"].as_array().cloned().unwrap_or_default();
    let rows = agents.iter().map(|agent| {
        let until = agent["paid_until_ms"].as_i64();
        let until = until.map_or("-".to_owned(), |at| format!("{} ({})", moment(at), relative(at, now)));
        [Cell::new(field(agent, "name")), session.output.state(&field(agent, "hosting")), Cell::new(until)]
    });
    session.output.line(session.output.table(["AGENT", "HOSTING", "PAID UNTIL (UTC)"], rows));
    let credit = answer["credit_msat"].as_u64().unwrap_or(0) / 1_000;
    let (fee, missing) = (answer["fee_sats"].as_u64().unwrap_or(0), answer["missing_sats"].as_u64().unwrap_or(0));
    session.output.line(format!(
        "Plan {}: {} sats a month for each agent. Credit: {} sats.",
        field(&answer, "plan"),
        group(fee),
        group(credit)
    ));
    if missing > 0 {
        session.output.line(format!("The next month needs {} sats more.\nNext: nexus hosting invoice", group(missing)));
    }
    Ok(())
}

async fn invoice(session: &Session, args: &HostingInvoiceArgs) -> anyhow::Result<()> {
    let sats = match args.sats {
        Some(sats) => sats,
        None => {
            let status = session.api.get("/v1/hosting").await?;
            match status["missing_sats"].as_u64() {
                Some(missing) if missing > 0 => missing,
                _ => {
                    let why = "the next month is covered\n  next: say how much with --sats".to_owned();
                    return Err(Error::Usage(why).into());
                }
            }
        }
    };
    let made = session.api.post("/v1/invoices", &json!({ "amount_sats": sats })).await?;
    let bolt11 = fund::checked(&made, sats)?;
    let id = field(&made, "id");
    if args.invoice_only {
        session.output.either(&made, || bolt11.clone());
        return Ok(());
    }
    let patience = match fund::account_for(&session.context, &bolt11).await? {
        Some(wallet) => {
            fund::pay(session, &wallet, &bolt11).await?;
            PLAY_TIMEOUT_MS
        }
        None => {
            fund::show(session, &bolt11, sats);
            WAIT_TIMEOUT_MS
        }
    };
    let deadline = session.clock.mono().plus_ms(patience);
    loop {
        let found = session.api.get(&format!("/v1/invoices/{id}")).await?;
        if found["state"] == "paid" {
            session.output.either(&found, || {
                format!("{} sats of credit came in.\nNext: nexus hosting status", group(paid_sats(&found)))
            });
            return Ok(());
        }
        if session.clock.mono() >= deadline {
            let text = "nobody has paid yet\n  next: the invoice stays valid for an hour; `nexus hosting history`";
            return Err(Error::Failed(text.to_owned()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn refund(session: &Session, args: &HostingRefundArgs) -> anyhow::Result<()> {
    let keys = session.owner_keys()?;
    let owner = session.as_owner(&keys);
    let body = json!({ "amount_sats": args.sats, "invoice": args.to });
    let made = owner.post("/v1/hosting/refunds", &body).await?;
    let hash = field(&made, "payment_hash");
    let deadline = session.clock.mono().plus_ms(PLAY_TIMEOUT_MS);
    loop {
        let all = session.api.get("/v1/hosting/refunds").await?;
        let all = all["refunds"].as_array().cloned().unwrap_or_default();
        let found =
            all.into_iter().find(|refund| refund["payment_hash"] == hash.as_str()).unwrap_or_else(|| made.clone());
        match found["state"].as_str().unwrap_or_default() {
            "settled" => {
                let fee = found["fee_msat"].as_u64().unwrap_or(0).div_ceil(1_000);
                session.output.either(&found, || {
                    format!("{} sats are back with you; the network took {}.", group(args.sats), group(fee))
                });
                return Ok(());
            }
            "failed" | "canceled" => {
                let why = found["why"].as_str().unwrap_or("it was not paid").to_owned();
                return Err(Error::Failed(format!("{why}\n  next: it is credit again; try another invoice")).into());
            }
            _ if session.clock.mono() >= deadline => {
                session.output.either(&found, || {
                    "It is on its way. What comes of it stands in `nexus hosting history`.".to_owned()
                });
                return Ok(());
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn renew(session: &Session, args: &HostingRenewArgs) -> anyhow::Result<()> {
    const PATH: &str = "/v1/hosting/renewal";
    if args.off {
        let keys = session.owner_keys()?;
        session.as_owner(&keys).call(Call::new(Method::DELETE, PATH)).await?;
        session.output.either(&json!({ "enabled": false }), || {
            "The wallet is forgotten. What it was asked for already may still be paid.".to_owned()
        });
        return Ok(());
    }
    let shown = match (&args.nwc_file, args.month_cap) {
        (Some(path), Some(sats)) => {
            let uri = file::read_secret(path)?;
            if let Err(error) = Connection::parse(&uri) {
                let next = "make a connection in your wallet's settings";
                return Err(Error::Usage(format!("{}: {error}\n  next: {next}", path.display())).into());
            }
            let keys = session.owner_keys()?;
            let body = json!({ "connection": uri.trim(), "month_cap_sats": sats });
            session.as_owner(&keys).call(Call::new(Method::PUT, PATH).json(&body)).await?.body
        }
        _ => session.api.get(PATH).await?,
    };
    session.output.either(&shown, || {
        if shown["wallet"].is_null() {
            return "No wallet of yours pays hosting.\nNext: nexus hosting renew --nwc-file F --month-cap SATS"
                .to_owned();
        }
        let sats = |name: &str| shown[name].as_u64().unwrap_or(0);
        let mut text = format!(
            "Wallet {} pays hosting, up to {} sats a month; {} are spent in this one.",
            field(&shown, "wallet").chars().take(16).collect::<String>(),
            group(sats("month_cap_sats")),
            group(sats("spent_msat").div_ceil(1_000))
        );
        if let Some(problem) = shown["problem"].as_str() {
            text.push_str(&format!("\nIt does not pay now: {problem}"));
        }
        if shown["enabled"] != true {
            text.push_str("\nIt is not asked any more.\nNext: nexus hosting renew --nwc-file F --month-cap SATS");
        }
        text
    });
    Ok(())
}

fn paid_sats(invoice: &Value) -> u64 {
    invoice["paid_msat"].as_u64().unwrap_or(0) / 1_000
}

async fn history(session: &Session, limit: u32) -> anyhow::Result<()> {
    let answer = session.api.get(&format!("/v1/hosting/history?limit={limit}")).await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    let entries = answer["entries"].as_array().cloned().unwrap_or_default();
    let rows = entries.iter().map(|entry| {
        let msat = entry["credit_msat"].as_i64().unwrap_or(0);
        let sign = if msat < 0 { "-" } else { "+" };
        let part = msat.unsigned_abs() % 1_000;
        let part = if part == 0 { String::new() } else { format!(".{part:03}") };
        [
            Cell::new(entry["at_ms"].as_i64().map_or("-".to_owned(), moment)),
            Cell::new(field(entry, "kind")),
            Cell::new(format!("{sign}{}{part}", group(msat.unsigned_abs() / 1_000))),
            Cell::new(field(entry, "note")),
        ]
    });
    session.output.line(session.output.table(["WHEN (UTC)", "WHAT", "SATS", "FOR"], rows));
    Ok(())
}
