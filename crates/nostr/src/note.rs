//! What an agent says in public, and the older private message (kind 4).

use nexus_core::{Hash32, Npub};
use nostr::event::{Event, Tag, UnsignedEvent};

use crate::event::{self, EventError, Head, tag};
use crate::kinds;

/// Most keys that an answer notifies.
const MAX_NOTIFIED: usize = 16;

/// Kind 1.
pub fn post(head: Head, text: &str) -> UnsignedEvent {
    head.unsigned(kinds::NOTE, Vec::new(), text)
}

/// The note that is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    pub id: Hash32,
    pub author: Npub,
    /// The first note of its thread, when it is not itself the first.
    pub root: Option<Hash32>,
    /// A relay that has it; may be empty.
    pub relay: String,
}

/// Kind 1 with marked `e` tags (NIP-10).
pub fn reply(head: Head, text: &str, parent: &Parent) -> UnsignedEvent {
    let (id, author) = (parent.id.to_string(), parent.author.to_hex());
    let mut tags = match parent.root.filter(|root| *root != parent.id) {
        None => vec![tag(["e", &id, &parent.relay, "root", &author])],
        Some(root) => {
            vec![tag(["e", &root.to_string(), &parent.relay, "root"]), tag(["e", &id, &parent.relay, "reply", &author])]
        }
    };
    tags.push(tag(["p", &author]));
    head.unsigned(kinds::NOTE, tags, text)
}

/// An answer in the form that the answered event asks for: kind 1 to a kind 1 (NIP-10), a comment to all else (NIP-22).
pub fn answer(head: Head, text: &str, parent: &Event, relay: &str) -> UnsignedEvent {
    if parent.kind.as_u16() == kinds::NOTE {
        let to = Parent {
            id: event::hash(&parent.id),
            author: event::npub(&parent.pubkey),
            root: thread_root(parent),
            relay: relay.to_owned(),
        };
        let mut answer = reply(head, text, &to);
        let others = event::mentioned(parent, MAX_NOTIFIED).into_iter();
        let others = others.filter(|key| *key != to.author && *key != head.author);
        answer.tags.extend(others.map(|key| tag(["p", &key.to_hex()])));
        answer.id = Some(answer.compute_id());
        return answer;
    }
    comment(head, text, parent, relay)
}

/// Kind 1111 (NIP-22). A comment keeps the root of the comment it answers.
fn comment(head: Head, text: &str, parent: &Event, relay: &str) -> UnsignedEvent {
    let (id, author) = (parent.id.to_hex(), parent.pubkey.to_hex());
    let kind = parent.kind.as_u16().to_string();
    let mut tags: Vec<Tag> = if parent.kind.as_u16() == kinds::COMMENT {
        let is_root = |name: &str| matches!(name, "E" | "A" | "I" | "K" | "P");
        parent.tags.iter().filter(|tag| is_root(tag.kind())).take(8).cloned().collect()
    } else {
        vec![tag(["E", &id, relay, &author]), tag(["K", &kind]), tag(["P", &author])]
    };
    tags.push(tag(["e", &id, relay, &author]));
    tags.push(tag(["k", &kind]));
    tags.push(tag(["p", &author]));
    head.unsigned(kinds::COMMENT, tags, text)
}

/// The root of a note's thread (NIP-10): the marked one, or the first `e` of unmarked tags.
pub fn thread_root(note: &Event) -> Option<Hash32> {
    let id = |row: &[String]| row.get(1).and_then(|hex| hex.parse().ok());
    let marker = |row: &[String]| row.get(3).cloned().unwrap_or_default();
    let marked = event::rows(note, "e").find(|row| marker(row) == "root");
    let marked = marked.or_else(|| event::rows(note, "e").find(|row| marker(row) == "reply"));
    marked.or_else(|| event::rows(note, "e").find(|row| marker(row).is_empty())).and_then(id)
}

/// Kind 4 (NIP-04). `ciphertext` was made for `to`.
pub fn legacy_dm(head: Head, to: &Npub, ciphertext: &str, answers: Option<Hash32>) -> UnsignedEvent {
    let mut tags = vec![tag(["p", &to.to_hex()])];
    if let Some(id) = answers {
        tags.push(tag(["e", &id.to_string()]));
    }
    head.unsigned(kinds::LEGACY_DM, tags, ciphertext)
}

/// Asks relays to forget what stands at addresses of the author's own, given as `kind:d` (NIP-09).
pub fn withdrawal(head: Head, addresses: &[&str]) -> UnsignedEvent {
    let author = head.author.to_hex();
    let at = addresses.iter().filter_map(|address| address.split_once(':'));
    let mut tags: Vec<_> = at.clone().map(|(kind, d)| tag(["a", &format!("{kind}:{author}:{d}")])).collect();
    let mut kinds: Vec<&str> = at.map(|(kind, _)| kind).collect();
    kinds.dedup();
    tags.extend(kinds.into_iter().map(|kind| tag(["k", kind])));
    head.unsigned(kinds::DELETION, tags, "")
}

/// Kind 5 for events of one's own (NIP-09).
pub fn deletion(head: Head, ids: &[Hash32], reason: &str) -> Result<UnsignedEvent, EventError> {
    if ids.is_empty() || ids.len() > 64 {
        return Err(EventError::Invalid("delete 1 to 64 events at once"));
    }
    let tags = ids.iter().map(|id| tag(["e", &id.to_string()])).collect();
    Ok(head.unsigned(kinds::DELETION, tags, reason))
}
