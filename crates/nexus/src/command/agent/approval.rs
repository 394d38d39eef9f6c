//! `nexus agent approvals`, `approve`, `refuse`

use std::time::Duration;

use comfy_table::Cell;
use nexus_client::approval::{self, Details, Shown};
use nexus_client::view::Viewer;
use nexus_client::{Error, OwnerKey};
use nexus_core::Npub;
use nexus_core::action::Action;
use nexus_core::approval::Answer;
use serde_json::{Value, json};

use crate::cli::{AnswerArgs, ApprovalsArgs};
use crate::output::{field, group, printable, relative};
use crate::prompt;
use crate::session::Session;

/// How long an answer's effect is waited for.
const LOOKS: u32 = 75;
const LOOK_MS: u64 = 200;

pub async fn list(session: &Session, args: &ApprovalsArgs) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let shown = approval::list(&session.api, &npub, args.all).await?;
    // A key that needs no passphrase is used without being asked for.
    let at_hand = session.context.owner.as_ref().is_some_and(OwnerKey::is_development);
    let viewer = match (args.open || at_hand) && !shown.is_empty() {
        true => {
            let keys = session.owner_keys()?;
            Some(Viewer::open(&session.as_owner(&keys), &npub, &keys).await?)
        }
        false => None,
    };
    let details: Vec<Option<Details>> =
        shown.iter().map(|one| viewer.as_ref().and_then(|viewer| one.details(viewer).ok())).collect();
    if session.output.json {
        let views: Vec<Value> =
            shown.iter().zip(&details).map(|(one, details)| opened(one, details.as_ref())).collect();
        session.output.document(&json!({ "approvals": views }));
        return Ok(());
    }
    if shown.is_empty() {
        session.output.line("Nothing waits for you.");
        return Ok(());
    }
    let now = session.clock.now().0;
    let rows = shown.iter().map(|one| {
        [
            Cell::new(one.id),
            session.output.state(one.view["state"].as_str().unwrap_or("-")),
            Cell::new(what(&one.view)),
            Cell::new(one.view["expires_at_ms"].as_i64().map_or("-".to_owned(), |at| relative(at, now))),
        ]
    });
    session.output.line(session.output.table(["APPROVAL", "STATE", "WHAT", "EXPIRES"], rows));
    for (one, details) in shown.iter().zip(&details) {
        if let Some(details) = details {
            session.output.line(format!("\n{}\n{}", one.id, describe(details)));
        }
    }
    session.output.line(format!("\nNext: nexus agent approve {0} ID, or nexus agent refuse {0} ID", args.agent));
    Ok(())
}

pub async fn answer(session: &Session, args: &AnswerArgs, answer: Answer) -> anyhow::Result<()> {
    let npub = session.agent(&args.agent).await?;
    let keys = session.owner_keys()?;
    let api = session.as_owner(&keys);
    let shown = find(&approval::list(&api, &npub, true).await?, args)?;
    let viewer = Viewer::open(&api, &npub, &keys).await?;
    match (shown.details(&viewer), answer) {
        (Ok(details), _) => prompt::say(describe(&details)),
        (Err(error), Answer::Approved) => return Err(error.into()),
        (Err(_), Answer::Denied) => {}
    }
    let signer = keys.signer();
    let taken = approval::answer(&api, &*signer, &npub, &shown, answer, &args.reason, session.clock.now()).await?;
    let (view, known) =
        if taken { follow(&api, &npub, &shown, answer).await? } else { (current(&api, &npub, &shown).await?, true) };
    let state = field(&view, "state");
    let mut document = view.clone();
    document["changed"] = json!(taken);
    session.output.either(&document, || match (taken, known) {
        (false, _) => format!("Nothing changed: it is {state} already."),
        (true, true) => format!("{}: {state}{}", shown.id, ended(&view)),
        (true, false) => {
            format!("The answer is stored; the agent acts on it when it runs. Next: nexus agent status {}", args.agent)
        }
    });
    Ok(())
}

fn ended(view: &Value) -> String {
    view["ended"].as_str().map_or(String::new(), |ended| format!(" ({})", printable(ended)))
}

async fn current(api: &nexus_client::Api, npub: &Npub, shown: &Shown) -> Result<Value, Error> {
    Ok(approval::read(api, npub, shown.id).await?.view)
}

/// Waits for what the answer leads to, within bounds.
async fn follow(api: &nexus_client::Api, npub: &Npub, shown: &Shown, answer: Answer) -> Result<(Value, bool), Error> {
    let mut view = current(api, npub, shown).await?;
    for _ in 0..LOOKS {
        let state = view["state"].as_str().unwrap_or_default();
        let over = match answer {
            Answer::Approved => !matches!(state, "requested" | "approved"),
            Answer::Denied => state != "requested",
        };
        if over {
            return Ok((view, true));
        }
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        view = current(api, npub, shown).await?;
    }
    let known = view["state"] != "requested";
    Ok((view, known))
}

fn find(all: &[Shown], args: &AnswerArgs) -> Result<Shown, Error> {
    let mut fits = all.iter().filter(|one| one.id.to_string().starts_with(&args.id));
    let next = format!("next: `nexus agent approvals {}` shows them", args.agent);
    match (fits.next(), fits.next()) {
        (Some(one), None) => Ok(Shown { id: one.id, digest: one.digest, request: one.request, view: one.view.clone() }),
        (Some(_), Some(_)) => Err(Error::Usage(format!("several approvals begin so\n  {next}"))),
        (None, _) => Err(Error::NotFound(format!("no approval begins so\n  {next}"))),
    }
}

fn opened(one: &Shown, details: Option<&Details>) -> Value {
    let mut view = one.view.clone();
    if let Some(Details { asked, why }) = details {
        view["opened"] = json!({ "asked": asked, "why": why });
    }
    view
}

fn what(view: &Value) -> String {
    let amount = view["amount_sats"].as_u64().map(|sats| format!(" {} sats", group(sats)));
    format!("{}{}", field(view, "action"), amount.unwrap_or_default())
}

/// The whole action, in words: what is signed for.
fn describe(details: &Details) -> String {
    let asked = &details.asked;
    let to = || asked.answers.map_or("somebody".to_owned(), |answers| answers.author.to_string());
    let what = match &asked.action {
        Action::Post { text } => format!("post a note:\n    {}", printable(text)),
        Action::Reply { text, .. } => format!("reply to {}:\n    {}", to(), printable(text)),
        Action::Dm { to, text } => format!("write to {to}:\n    {}", printable(text)),
        Action::Zap { to, event, amount, comment } => {
            let event = event.map(|id| format!(", for their event {id}")).unwrap_or_default();
            format!("zap {} sats to {to}{event}:\n    {}", group(amount.sats_ceil()), printable(comment))
        }
        Action::UpdateGoal { goal, .. } => format!("change a goal:\n    {}", printable(goal)),
        Action::SummariseMemory { covers, text } => {
            format!("remember {covers} old memories as:\n    {}", printable(text))
        }
        Action::AddMemory { text } => format!("remember:\n    {}", printable(text)),
        Action::None => "nothing".to_owned(),
    };
    format!("  It asks because {}.\n  It wants to {what}", printable(&details.why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::approval::Asked;
    use nexus_core::{TickId, UnixMs};

    #[test]
    fn what_is_signed_for_is_told_whole_and_moves_no_cursor() {
        let asked = Asked {
            agent: Npub::from_bytes([1; 32]),
            tick_id: TickId::new(UnixMs(5), [1; 10]),
            index: 0,
            action: Action::Dm { to: Npub::from_bytes([2; 32]), text: "hello\u{1b}[2J".to_owned() },
            answers: None,
            trusted: true,
        };
        let text = describe(&Details { asked, why: "its recipient is not listed".to_owned() });
        assert!(text.contains("npub1") && text.contains("hello") && text.contains("not listed"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }
}
