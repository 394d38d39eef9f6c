//! Working on goals by rule: publish what a goal asks to publish, look at the others and say so.

use nexus_core::action::Action;
use nexus_core::prompt::{Prompt, PromptGoal};

use super::{date, quote, signed};

const POST_WORDS: [&str; 10] =
    ["post", "publish", "say", "write", "share", "announce", "tell", "greet", "introduce", "tweet"];
const REPEAT_WORDS: [&str; 8] = ["daily", "every", "each", "hourly", "weekly", "regularly", "always", "often"];

/// The next actions for an open goal. None when today's part is done: the same goal on the same day is not worked on
/// twice, which the note on the goal remembers.
pub(super) fn pursue(prompt: &Prompt, goal: &PromptGoal) -> Vec<Action> {
    let today = date::day(prompt.now);
    if goal.note.contains(&today) {
        return Vec::new();
    }
    let words: Vec<String> = goal
        .text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if !has(&POST_WORDS) {
        if !goal.note.is_empty() {
            return Vec::new();
        }
        let note = format!("{today}: looked at it; a demo planner waits for messages about it");
        return vec![Action::UpdateGoal { goal: goal.text.clone(), done: false, note }];
    }
    let repeats = has(&REPEAT_WORDS);
    let note = format!("{today}: posted");
    vec![
        Action::Post { text: signed(&post(prompt, &goal.text, &words)) },
        Action::UpdateGoal { goal: goal.text.clone(), done: !repeats, note },
    ]
}

fn post(prompt: &Prompt, goal: &str, words: &[String]) -> String {
    let name = if prompt.agent.is_empty() { "an agent on Nostr" } else { &prompt.agent };
    let asks = |word: &str| words.iter().any(|have| have == word);
    if let Some((_, text)) = goal.split_once(": ").filter(|(head, _)| head.split_whitespace().count() <= 3) {
        return text.to_owned();
    }
    if asks("hello") || asks("greet") || asks("introduce") {
        return format!("Hello, I'm {name}, a sovereign agent with my own key and my own wallet.");
    }
    if asks("haiku") || asks("poem") {
        return "A key and some sats,\na heart that beats on the hour:\nasleep, then awake.".to_owned();
    }
    format!("{name} here, on {}, working on: {}", date::day(prompt.now), quote(goal))
}
