//! Public goals (39203, `d` = `goals`). Opt-in: goals are private until an owner chooses to publish them.
//!
//! The draft leaves the JSON open. We write `{"goals":[{"text":…,"done":…}]}`, and read that, a plain list, and objects
//! that call their text `title`, `description` or `goal`.

use nostr::event::{Event, UnsignedEvent};
use serde::Serialize;
use serde_json::Value;

use crate::event::{EventError, Head, tag};
use crate::{kinds, series};

/// Most goals of one event that are read, and the longest text of one, in characters.
const MAX_GOALS: usize = 64;
const MAX_TEXT: usize = 4_096;

/// A goal that everyone may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicGoal {
    pub text: String,
    pub done: bool,
}

/// Kind 39203.
pub fn goals(head: Head, goals: &[PublicGoal]) -> UnsignedEvent {
    let content = serde_json::json!({ "goals": goals }).to_string();
    head.unsigned(kinds::GOALS, vec![tag(["d", "goals"])], content)
}

/// Reads the goals of either series: at most 64, texts cut at 4,096 characters. Strangers wrote them.
pub fn read_goals(event: &Event) -> Result<Vec<PublicGoal>, EventError> {
    series::expect(event, kinds::GOALS)?;
    series::expect_identifier(event, "goals", "not a list of goals")?;
    let content: Value = serde_json::from_str(&event.content).map_err(|_| EventError::Malformed)?;
    let list = content.as_array().or_else(|| content.get("goals")?.as_array());
    let list = list.ok_or(EventError::Invalid("goals that are no list"))?;
    Ok(list.iter().filter_map(read_goal).take(MAX_GOALS).collect())
}

fn read_goal(goal: &Value) -> Option<PublicGoal> {
    let named = || ["text", "title", "description", "goal"].iter().find_map(|name| goal.get(name)?.as_str());
    let text = goal.as_str().or_else(named)?;
    let status = goal.get("status").and_then(Value::as_str);
    let done = goal.get("done").and_then(Value::as_bool) == Some(true) || matches!(status, Some("done" | "completed"));
    Some(PublicGoal { text: text.chars().take(MAX_TEXT).collect(), done })
}
