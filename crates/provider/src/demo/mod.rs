//! The demo planner: deterministic rules in place of a model, and it says so in everything that it writes.
//!
//! It reads the prompt of an agent's tick and answers with the JSON that a model would; any other prompt gets a
//! short plain answer. The same prompt always gives the same answer.

mod date;
mod goal;
mod talk;

use futures::future::BoxFuture;
use nexus_core::action::Action;
use nexus_core::prompt::{self, DATA_MARKER, PromptMessage};
use tokio::sync::mpsc;

use crate::backend::{Backend, BackendError, Completion, Prompt};
use crate::price::estimate_tokens;

/// The model's name in announcements.
pub const DEMO_MODEL: &str = "nexus-demo-planner";
/// Ends everything that the planner writes for others. A message that carries it is not answered, so that two
/// demo agents don't talk to each other for ever.
pub const SIGNATURE: &str = "— demo planner, not a language model";
/// Messages answered in one tick; with memory and goals it stays under the 16 actions of an answer.
const MAX_REPLIES: usize = 10;
const MAX_GOALS: usize = 2;
const MAX_QUOTE: usize = 140;

/// The planner as a backend.
#[derive(Debug, Default)]
pub struct DemoBackend;

impl Backend for DemoBackend {
    fn models(&self) -> Vec<String> {
        vec![DEMO_MODEL.to_owned()]
    }

    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt,
        partial: mpsc::Sender<String>,
    ) -> BoxFuture<'a, Result<Completion, BackendError>> {
        Box::pin(async move {
            let text = answer(&prompt.text);
            // Nobody listening is no reason to stop.
            let _ = partial.send(text.clone()).await;
            let tokens = Some(estimate_tokens(&prompt.text) + estimate_tokens(&text));
            Ok(Completion { text, tokens })
        })
    }
}

/// Answers any prompt.
pub fn answer(text: &str) -> String {
    if !text.contains(DATA_MARKER) {
        return signed(&talk::plain(text));
    }
    let actions = prompt::parse(text).map_or_else(Vec::new, |prompt| plan(&prompt));
    let actions = if actions.is_empty() { vec![Action::None] } else { actions };
    serde_json::json!({ "actions": actions }).to_string()
}

/// Longest summary, in bytes.
const MAX_SUMMARY: usize = 4_000;

/// What an agent does in a tick with this prompt.
pub fn plan(prompt: &prompt::Prompt) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut noted = Vec::new();
    for message in prompt.messages.iter().take(MAX_REPLIES) {
        let (action, note) = respond(prompt, message);
        actions.extend(action);
        noted.extend(note);
    }
    if !noted.is_empty() {
        actions.push(Action::AddMemory { text: noted.join("\n") });
    }
    actions.extend(summary(prompt));
    if matches!(prompt.trigger.as_str(), "heartbeat" | "manual") {
        let open = prompt.goals.iter().filter(|goal| !goal.done);
        let worked = open.map(|goal| goal::pursue(prompt, goal)).filter(|actions| !actions.is_empty());
        actions.extend(worked.take(MAX_GOALS).flatten());
    }
    actions
}

/// The beginnings of the oldest memories, when they are to be summed up.
fn summary(prompt: &prompt::Prompt) -> Option<Action> {
    let covers = u32::try_from(prompt.condense.len()).ok().filter(|covers| *covers > 0)?;
    let covered: usize = prompt.condense.iter().map(String::len).sum();
    let share = MAX_SUMMARY.min(covered / 2) / prompt.condense.len();
    let begun = prompt.condense.iter().map(|memory| {
        let end = (0..=memory.len().min(share.saturating_sub(1))).rev().find(|end| memory.is_char_boundary(*end));
        memory.get(..end.unwrap_or(0)).unwrap_or_default().lines().next().unwrap_or_default().trim()
    });
    let text = begun.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n");
    (!text.is_empty() && text.len() <= covered).then_some(Action::SummariseMemory { covers, text })
}

/// The answer to one message, and what to remember of it.
fn respond(prompt: &prompt::Prompt, message: &PromptMessage) -> (Option<Action>, Option<String>) {
    let from = message.from.as_deref().map_or("somebody", short);
    let said = quote(&message.text);
    match message.kind.as_str() {
        "mention" | "dm" if message.text.contains(SIGNATURE) => (None, None),
        "dm" if !prompt.memory.is_empty() && talk::zap(&message.text).is_some() => {
            let note = format!("{} {from} asked for a zap: {said}", date::day(prompt.now));
            (talk::zap(&message.text), Some(note))
        }
        "mention" | "dm" => {
            let text = signed(&talk::reply(prompt, message));
            let note = format!("{} answered {from} ({}): {said}", date::day(prompt.now), message.kind);
            (Some(Action::Reply { to: message.label.clone(), text }), Some(note))
        }
        "zap" => (None, Some(format!("{} zap from {from}: {said}", date::day(prompt.now)))),
        "manual" => match strip_prefix_word(&message.text, "post") {
            Some(text) => (Some(Action::Post { text: signed(text) }), None),
            None if talk::zap(&message.text).is_some() => (talk::zap(&message.text), None),
            None => (None, Some(format!("{} the owner said: {said}", date::day(prompt.now)))),
        },
        kind => (None, Some(format!("{} {kind}: {said}", date::day(prompt.now)))),
    }
}

fn signed(text: &str) -> String {
    format!("{text}\n\n{SIGNATURE}")
}

/// One line of a text, cut to a readable length.
fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(MAX_QUOTE).collect();
    if cut.len() < line.len() { format!("“{cut}…”") } else { format!("“{cut}”") }
}

fn short(npub: &str) -> &str {
    npub.get(..13).unwrap_or(npub)
}

/// What follows a leading word (and a colon), if something does.
fn strip_prefix_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let head = text.trim().get(..word.len())?;
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    let rest = &text.trim()[word.len()..];
    let rest = rest.strip_prefix(':').or_else(|| rest.strip_prefix(char::is_whitespace))?.trim();
    (!rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests;
