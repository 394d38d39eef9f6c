//! Frames between clients and the relay (NIP-01, NIP-42).

use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use nostr::message::ClientMessage;
use serde_json::{Value, json};

use crate::RelayConfig;

/// Longest name of a subscription (NIP-01).
pub(crate) const MAX_SUBSCRIPTION_ID: usize = 64;

/// What a client said.
#[derive(Debug)]
pub(crate) enum Request {
    Event(Box<Event>),
    Subscribe {
        name: String,
        filters: Vec<Filter>,
    },
    Close {
        name: String,
    },
    Auth(Box<Event>),
    /// Nothing that can be done, and the frame that says so.
    Refused(String),
}

/// Reads a client's frame. What cannot be read gets the answer that its sender waits for.
pub(crate) fn read(text: &str, config: &RelayConfig) -> Request {
    match serde_json::from_str::<ClientMessage<'_>>(text) {
        Ok(ClientMessage::Event(event)) => Request::Event(Box::new(event.into_owned())),
        Ok(ClientMessage::Auth(event)) => Request::Auth(Box::new(event.into_owned())),
        Ok(ClientMessage::Req { subscription_id, filters }) => {
            let filters = filters.into_iter().map(std::borrow::Cow::into_owned).collect();
            read_subscription(subscription_id.as_str(), filters, config)
        }
        Ok(ClientMessage::Close(name)) => Request::Close { name: name.as_str().to_owned() },
        Ok(ClientMessage::Count { subscription_id, .. } | ClientMessage::NegOpen { subscription_id, .. }) => {
            Request::Refused(closed(subscription_id.as_str(), "unsupported: only EVENT, REQ, CLOSE and AUTH"))
        }
        Ok(ClientMessage::NegMsg { .. } | ClientMessage::NegClose { .. }) => {
            Request::Refused(notice("unsupported: only EVENT, REQ, CLOSE and AUTH"))
        }
        Err(_) => Request::Refused(explain(text)),
    }
}

fn read_subscription(name: &str, filters: Vec<Filter>, config: &RelayConfig) -> Request {
    if name.is_empty() || name.chars().count() > MAX_SUBSCRIPTION_ID {
        return Request::Refused(notice("invalid: the name of a subscription has 1 to 64 characters"));
    }
    if filters.len() > config.max_filters {
        return Request::Refused(closed(name, &format!("invalid: at most {} filters", config.max_filters)));
    }
    if filters.iter().any(|filter| filter.search.is_some()) {
        return Request::Refused(closed(name, "unsupported: search"));
    }
    if filters.iter().any(|filter| largest_field(filter) > config.max_filter_values) {
        let problem = format!("invalid: at most {} values in a field of a filter", config.max_filter_values);
        return Request::Refused(closed(name, &problem));
    }
    if filters.iter().any(|filter| filter.generic_tags.len() > 8) {
        return Request::Refused(closed(name, "invalid: at most 8 tags in a filter"));
    }
    Request::Subscribe { name: name.to_owned(), filters }
}

fn largest_field(filter: &Filter) -> usize {
    let lists = [
        filter.ids.as_ref().map_or(0, std::collections::BTreeSet::len),
        filter.authors.as_ref().map_or(0, std::collections::BTreeSet::len),
        filter.kinds.as_ref().map_or(0, std::collections::BTreeSet::len),
    ];
    let tags = filter.generic_tags.values().map(std::collections::BTreeSet::len);
    lists.into_iter().chain(tags).max().unwrap_or(0)
}

/// The answer to a frame that does not parse: an `OK` or `CLOSED` where it says what it is about.
fn explain(text: &str) -> String {
    let Ok(Value::Array(frame)) = serde_json::from_str::<Value>(text) else {
        return notice("invalid: not a JSON array");
    };
    let verb = frame.first().and_then(Value::as_str).unwrap_or_default();
    match verb {
        "EVENT" | "AUTH" => {
            let id = frame.get(1).and_then(|event| event.get("id")).and_then(Value::as_str);
            match id.filter(|id| EventId::from_hex(id).is_ok()) {
                Some(id) => json!(["OK", id, false, "invalid: not a Nostr event"]).to_string(),
                None => notice("invalid: not a Nostr event"),
            }
        }
        "REQ" | "COUNT" => {
            match frame.get(1).and_then(Value::as_str).filter(|name| name.len() <= MAX_SUBSCRIPTION_ID) {
                Some(name) => closed(name, "invalid: unreadable filters"),
                None => notice("invalid: a subscription needs a name"),
            }
        }
        _ => notice("unsupported: only EVENT, REQ, CLOSE and AUTH"),
    }
}

pub(crate) fn notice(text: &str) -> String {
    json!(["NOTICE", text]).to_string()
}

pub(crate) fn closed(name: &str, reason: &str) -> String {
    json!(["CLOSED", name, reason]).to_string()
}

pub(crate) fn end_of_stored(name: &str) -> String {
    json!(["EOSE", name]).to_string()
}

pub(crate) fn ok(id: &EventId, accepted: bool, message: &str) -> String {
    json!(["OK", id.to_hex(), accepted, message]).to_string()
}

pub(crate) fn challenge(text: &str) -> String {
    json!(["AUTH", text]).to_string()
}

/// An event under a subscription's name, around JSON that was written once.
pub(crate) fn event(name: &str, json: &str) -> String {
    let name = Value::from(name).to_string();
    let mut frame = String::with_capacity(json.len() + name.len() + 12);
    frame.push_str("[\"EVENT\",");
    frame.push_str(&name);
    frame.push(',');
    frame.push_str(json);
    frame.push(']');
    frame
}

/// Fuzz entry: any bytes are a request or a refusal, and a refusal is a frame.
pub fn fuzz_frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Request::Refused(frame) = read(text, &RelayConfig::default()) {
        assert!(serde_json::from_str::<Vec<Value>>(&frame).is_ok_and(|frame| frame.len() >= 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match read(text, &RelayConfig { max_filter_values: 2, max_filters: 2, ..RelayConfig::default() }) {
            Request::Refused(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_read_is_answered_where_it_is_waited_for() {
        let id = "ab".repeat(32);
        assert!(refusal(&format!(r#"["EVENT",{{"id":"{id}","kind":"x"}}]"#)).starts_with(r#"["OK","abab"#));
        assert!(refusal(r#"["EVENT",{"id":"zz"}]"#).starts_with(r#"["NOTICE","#));
        assert!(refusal(r#"["REQ","a",{"kinds":["x"]}]"#).starts_with(r#"["CLOSED","a","invalid"#));
        assert!(refusal(r#"["REQ","a",{"kinds":[1,2,3]}]"#).starts_with(r#"["CLOSED","a","invalid"#));
        assert!(refusal(r##"["REQ","a",{"#t":["1","2","3"]}]"##).starts_with(r#"["CLOSED","a","invalid"#));
        assert!(refusal(r#"["REQ","a",{},{},{}]"#).starts_with(r#"["CLOSED","a","invalid"#));
        assert!(refusal(r#"["REQ","a",{"search":"x"}]"#).starts_with(r#"["CLOSED","a","unsupported"#));
        assert!(refusal(r#"["COUNT","a",{}]"#).starts_with(r#"["CLOSED","a","unsupported"#));
        assert!(refusal(r#"["REQ","",{}]"#).starts_with(r#"["NOTICE","#));
        assert!(refusal("hello").starts_with(r#"["NOTICE","#));
    }

    #[test]
    fn a_name_with_quotes_stays_one_string() {
        let frame = event("a\"]b", r#"{"id":1}"#);
        let read: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!(read[1], "a\"]b");
        assert_eq!(read[2]["id"], 1);
    }
}
