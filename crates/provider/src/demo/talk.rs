//! Answers to what people write.
//!
//! Goals, memory and balance are the owner's: they are told in a private message only, and only when the worker put
//! memory into the prompt, which it does for the owner and listed senders alone.

use nexus_core::action::Action;
use nexus_core::prompt::{Prompt, PromptMessage};
use nexus_core::{Msat, Npub};

use super::{date, quote, strip_prefix_word};

const NOT_A_MODEL: &str = "A real one is bought from any NIP-90 provider, or run behind `nexus provider --llm-url`.";

/// The answer to a mention or a private message.
pub(super) fn reply(prompt: &Prompt, message: &PromptMessage) -> String {
    let words = words(&message.text);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let trusted = message.kind == "dm" && !prompt.memory.is_empty();
    let name = if prompt.agent.is_empty() { "an agent" } else { &prompt.agent };
    if has(&["goal", "goals"]) {
        return if trusted { tell_goals(prompt) } else { private("goals") };
    }
    if has(&["balance", "funds", "wallet"]) {
        return match trusted {
            true => format!("My wallet holds {} sats.", prompt.balance_sats),
            false => private("balance"),
        };
    }
    if has(&["remember", "memory", "memories"]) {
        return if trusted { tell_memory(prompt) } else { private("memory") };
    }
    if has(&["zap", "pay", "send"]) && has(&["me", "sats", "sat", "bitcoin"]) {
        return "I don't send money because a message asks for it.".to_owned();
    }
    if has(&["who", "name"]) && has(&["you", "your"]) {
        return format!("I'm {name}, an agent that lives on Nostr. Right now my thinking is a demo.");
    }
    common(&message.text, &words, prompt.now).unwrap_or_else(|| {
        let what = if message.text.contains('?') { "your question" } else { "your message" };
        format!(
            "I'm {name}. I read {what} {}, but I have no language model to think it over. {NOT_A_MODEL}",
            quote(&message.text)
        )
    })
}

/// `zap <npub> <sats> <comment>`: for the owner and whom the owner trusts. The agent's policy stands behind it.
pub(super) fn zap(text: &str) -> Option<Action> {
    let rest = strip_prefix_word(text, "zap")?;
    let (to, rest) = rest.split_once(char::is_whitespace)?;
    let (sats, comment) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
    let to = to.parse::<Npub>().ok().filter(|_| to.starts_with("npub1"))?;
    let amount = Msat::from_sats(sats.parse().ok()?)?;
    let comment = comment.trim().chars().take(200).collect();
    Some(Action::Zap { to, event: None, amount, comment })
}

/// The answer to a prompt that no agent's tick made.
pub(super) fn plain(text: &str) -> String {
    let found = words(text);
    common(text, &found, 0).unwrap_or_else(|| {
        format!(
            "This is Nexus's demo planner: it follows fixed rules and did not think about your prompt ({} words: {}). {NOT_A_MODEL}",
            found.len(),
            quote(text)
        )
    })
}

/// What needs neither the agent nor its owner. `now` of 0 is unknown.
fn common(text: &str, words: &[String], now: i64) -> Option<String> {
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if let Some(sum) = calculate(text) {
        return Some(sum);
    }
    if now > 0 && has(&["time", "date", "day"]) && has(&["what", "tell"]) {
        return Some(format!("It is {}.", date::minute(now)));
    }
    if has(&["help"]) || (has(&["what", "how"]) && has(&["can", "do"]) && has(&["you"])) {
        return Some(
            "I can greet you, tell the time, do small sums, keep notes of who wrote to me, and post what my owner's goals ask for."
                .to_owned(),
        );
    }
    if has(&["thanks", "thank", "thx"]) {
        return Some("You're welcome.".to_owned());
    }
    let greets = has(&["hi", "hello", "hey", "gm", "hola", "moin", "ping"]);
    (greets && words.len() <= 8).then(|| "Hello! Nice to hear from you.".to_owned())
}

fn private(what: &str) -> String {
    format!("My {what}: that is between my owner and me.")
}

fn tell_goals(prompt: &Prompt) -> String {
    if prompt.goals.is_empty() {
        return "I have no goals yet.".to_owned();
    }
    let lines = prompt.goals.iter().take(8).map(|goal| {
        let state = if goal.done { "done" } else { "open" };
        format!("- {} ({state})", quote(&goal.text))
    });
    format!("My goals:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

fn tell_memory(prompt: &Prompt) -> String {
    let newest = prompt.memory.iter().rev().take(3).map(|entry| format!("- {}", quote(entry)));
    format!("What I remember last:\n{}", newest.collect::<Vec<_>>().join("\n"))
}

/// The words of a text in lower case, the first 500 of them.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(500)
        .map(str::to_lowercase)
        .collect()
}

/// The result of the first `a + b` in a text (also `-`, `*`, `x`, `/`).
fn calculate(text: &str) -> Option<String> {
    let spaced: String = text
        .chars()
        .take(2_000)
        .flat_map(|c| match c {
            '+' | '*' | '/' | '×' => vec![' ', c, ' '],
            '?' | '!' | '=' | ',' | ';' => vec![' '],
            _ => vec![c],
        })
        .collect();
    let parts: Vec<&str> = spaced.split_whitespace().collect();
    parts.windows(3).find_map(|window| {
        let (left, right): (i64, i64) = (window[0].parse().ok()?, window[2].trim_end_matches('.').parse().ok()?);
        let result = match window[1] {
            "+" | "plus" => left.checked_add(right)?.to_string(),
            "-" | "minus" => left.checked_sub(right)?.to_string(),
            "*" | "x" | "×" | "times" => left.checked_mul(right)?.to_string(),
            "/" if right == 0 => "not defined".to_owned(),
            "/" if left.checked_rem(right)? == 0 => left.checked_div(right)?.to_string(),
            "/" => format!("{} remainder {}", left.checked_div(right)?, left.checked_rem(right)?),
            _ => return None,
        };
        Some(format!("{left} {} {right} is {result}.", window[1]))
    })
}
