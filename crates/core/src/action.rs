//! What an agent may decide to do, and how a model's answer is read.
//!
//! A model's answer is data from outside. What cannot be read means no action, never a guess.

use serde::{Deserialize, Serialize};

use crate::id::{Hash32, Npub};
use crate::money::Msat;

/// Actions taken from one answer. More are refused as a whole: an answer is taken or not, never cut.
pub const MAX_ACTIONS: usize = 16;
/// Longest text of a post, reply or message, in bytes.
pub const MAX_TEXT: usize = 16 * 1024;
/// Longest comment of a zap, in bytes: it travels in a URL.
pub const MAX_COMMENT: usize = 1_024;
/// Largest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 256 * 1024;

/// One typed action.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Action {
    Post {
        text: String,
    },
    /// Answers a message of this tick, named by its label in the prompt (`m1`, `m2`, …).
    Reply {
        to: String,
        text: String,
    },
    Dm {
        to: Npub,
        text: String,
    },
    /// Pays somebody, publicly (NIP-57): for one of their events, if it names one.
    Zap {
        to: Npub,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event: Option<Hash32>,
        /// Read as `amount_sats` or `amount_msat`, written as the latter.
        #[serde(flatten, with = "amount")]
        amount: Msat,
        #[serde(default)]
        comment: String,
    },
    UpdateGoal {
        goal: String,
        #[serde(default)]
        done: bool,
        #[serde(default)]
        note: String,
    },
    AddMemory {
        text: String,
    },
    /// Stands for the oldest memories from now on: for as many as the prompt asked to condense.
    SummariseMemory {
        covers: u32,
        text: String,
    },
    None,
}

impl std::fmt::Debug for Action {
    /// The kind alone: texts are private.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Action({})", self.kind().as_str())
    }
}

/// The kind of an action: what the API shows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    Post,
    Reply,
    Dm,
    Zap,
    UpdateGoal,
    AddMemory,
    SummariseMemory,
    None,
}

impl ActionKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "post",
            Self::Reply => "reply",
            Self::Dm => "dm",
            Self::Zap => "zap",
            Self::UpdateGoal => "update_goal",
            Self::AddMemory => "add_memory",
            Self::SummariseMemory => "summarise_memory",
            Self::None => "none",
        }
    }

    /// Whether it leaves the agent as an event or a payment.
    pub const fn is_public(self) -> bool {
        match self {
            Self::Post | Self::Reply | Self::Dm | Self::Zap => true,
            Self::UpdateGoal | Self::AddMemory | Self::SummariseMemory | Self::None => false,
        }
    }
}

impl Action {
    pub const fn kind(&self) -> ActionKind {
        match self {
            Self::Post { .. } => ActionKind::Post,
            Self::Reply { .. } => ActionKind::Reply,
            Self::Dm { .. } => ActionKind::Dm,
            Self::Zap { .. } => ActionKind::Zap,
            Self::UpdateGoal { .. } => ActionKind::UpdateGoal,
            Self::AddMemory { .. } => ActionKind::AddMemory,
            Self::SummariseMemory { .. } => ActionKind::SummariseMemory,
            Self::None => ActionKind::None,
        }
    }

    pub const fn recipient(&self) -> Option<Npub> {
        match self {
            Self::Dm { to, .. } | Self::Zap { to, .. } => Some(*to),
            Self::Post { .. }
            | Self::Reply { .. }
            | Self::UpdateGoal { .. }
            | Self::AddMemory { .. }
            | Self::SummariseMemory { .. }
            | Self::None => None,
        }
    }

    pub const fn amount(&self) -> Option<Msat> {
        match self {
            Self::Zap { amount, .. } => Some(*amount),
            Self::Post { .. }
            | Self::Reply { .. }
            | Self::Dm { .. }
            | Self::UpdateGoal { .. }
            | Self::AddMemory { .. }
            | Self::SummariseMemory { .. }
            | Self::None => None,
        }
    }

    fn check(&self) -> Result<(), Unparsable> {
        let text = match self {
            Self::Post { text }
            | Self::Reply { text, .. }
            | Self::Dm { text, .. }
            | Self::AddMemory { text }
            | Self::SummariseMemory { text, .. } => text,
            Self::Zap { comment, .. } if comment.len() > MAX_COMMENT => {
                return Err(Unparsable("a comment of more than 1 KiB"));
            }
            Self::Zap { comment, .. } => comment,
            Self::UpdateGoal { goal, .. } if goal.len() > MAX_TEXT => {
                return Err(Unparsable("a goal of more than 16 KiB"));
            }
            Self::UpdateGoal { note, .. } => note,
            Self::None => return Ok(()),
        };
        let empty = text.trim().is_empty() && !matches!(self, Self::Zap { .. } | Self::UpdateGoal { .. });
        if empty {
            return Err(Unparsable("an action without text"));
        }
        if text.len() > MAX_TEXT {
            return Err(Unparsable("a text of more than 16 KiB"));
        }
        Ok(())
    }
}

/// An amount under the name that says its unit.
mod amount {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::money::Msat;

    #[derive(Serialize, Deserialize)]
    struct Named {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount_sats: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount_msat: Option<Msat>,
    }

    pub fn serialize<S: Serializer>(amount: &Msat, serializer: S) -> Result<S::Ok, S::Error> {
        Named { amount_sats: None, amount_msat: Some(*amount) }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Msat, D::Error> {
        match Named::deserialize(deserializer)? {
            Named { amount_sats: Some(sats), amount_msat: None } => {
                Msat::from_sats(sats).ok_or_else(|| D::Error::custom("amount_sats: more than there is"))
            }
            Named { amount_sats: None, amount_msat: Some(msat) } => Ok(msat),
            Named { .. } => Err(D::Error::custom("one of amount_sats and amount_msat")),
        }
    }
}

/// Why an answer was not taken. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer was not taken: {0}")]
pub struct Unparsable(pub &'static str);

#[derive(Deserialize)]
struct Answer {
    actions: Vec<Action>,
}

/// Reads a model's answer: a JSON object with `actions`, alone or inside one fenced block or surrounding prose.
///
/// An answer of a known shape with nothing to do gives an empty list.
pub fn parse_answer(answer: &str) -> Result<Vec<Action>, Unparsable> {
    if answer.len() > MAX_ANSWER {
        return Err(Unparsable("more than 256 KiB"));
    }
    let object = json_object(answer).ok_or(Unparsable("no JSON object with actions"))?;
    let Answer { actions } =
        serde_json::from_str(object).map_err(|_| Unparsable("not an object with a list of known actions"))?;
    if actions.len() > MAX_ACTIONS {
        return Err(Unparsable("more than 16 actions"));
    }
    actions.iter().try_for_each(Action::check)?;
    Ok(actions.into_iter().filter(|action| action.kind() != ActionKind::None).collect())
}

/// The text from the first `{` to the last `}`: models like to talk around their JSON.
fn json_object(answer: &str) -> Option<&str> {
    let start = answer.find('{')?;
    let end = answer.rfind('}')?;
    answer.get(start..=end)
}

/// Fuzz entry: any bytes are actions or an error, and what was read reads the same again.
pub fn fuzz_answer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(actions) = parse_answer(text) {
        let again = serde_json::json!({ "actions": actions }).to_string();
        assert_eq!(parse_answer(&again).ok().as_ref(), Some(&actions));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_actions_out_of_prose() {
        let answer = "Sure!\n```json\n{\"actions\":[{\"type\":\"reply\",\"to\":\"m1\",\"text\":\"hi\"},{\"type\":\"none\"}]}\n```";
        let actions = parse_answer(answer).unwrap();
        assert_eq!(actions, [Action::Reply { to: "m1".into(), text: "hi".into() }]);
    }

    #[test]
    fn what_cannot_be_read_is_no_action() {
        for bad in [
            "",
            "I will reply to everyone",
            r#"{"actions":[{"type":"transfer_all"}]}"#,
            r#"{"actions":[{"type":"post","text":"  "}]}"#,
            r#"{"actions":"post"}"#,
            r#"{"actions":[{"type":"zap","to":"npub1","amount_msat":5}]}"#,
        ] {
            assert!(parse_answer(bad).is_err(), "{bad}");
        }
        let many = format!(r#"{{"actions":[{}]}}"#, vec![r#"{"type":"none"}"#; 17].join(","));
        assert!(parse_answer(&many).is_err());
    }

    #[test]
    fn a_zap_says_its_amount_in_one_unit() {
        let npub = Npub::from_bytes([7; 32]);
        let read = |rest: &str| parse_answer(&format!(r#"{{"actions":[{{"type":"zap","to":"{npub}"{rest}}}]}}"#));
        let zap = |amount| vec![Action::Zap { to: npub, event: None, amount, comment: String::new() }];
        assert_eq!(read(r#","amount_sats":21"#).unwrap(), zap(Msat::sats(21)));
        assert_eq!(read(r#","amount_msat":21500"#).unwrap(), zap(Msat::new(21_500)));
        for bad in [
            "",
            r#","amount_sats":1,"amount_msat":1000"#,
            r#","amount_sats":-1"#,
            r#","amount_sats":99999999999999999"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(r#","amount_sats":1.5"#).is_err() && read(r#","amount_sats":1,"event":"m1""#).is_err());
        let long = format!(r#","amount_sats":1,"comment":"{}""#, "x".repeat(MAX_COMMENT + 1));
        assert!(read(&long).is_err());
        let event = Hash32::from_bytes([9; 32]);
        let with = read(&format!(r#","amount_sats":1,"event":"{event}","comment":"thanks""#)).unwrap();
        let json = serde_json::to_string(&with[0]).unwrap();
        assert_eq!(serde_json::from_str::<Action>(&json).unwrap(), with[0]);
        assert!(json.contains(r#""amount_msat":1000"#), "as before: {json}");
        // As it was written before zaps were sent.
        let old = format!(r#"{{"type":"zap","to":"{npub}","amount_msat":5000,"comment":"hi"}}"#);
        assert_eq!(serde_json::from_str::<Action>(&old).unwrap().amount(), Some(Msat::sats(5)));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_answer(&bytes);
        }
    }
}
