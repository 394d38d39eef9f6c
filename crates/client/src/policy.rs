//! The signed policy: reading it back, and signing the next version.

use std::fmt::Write;

use nexus_core::policy::Policy;
use nexus_core::{Msat, Npub, UnixMs};
use nexus_seal::event::timestamp;
use nexus_seal::policy::unsigned_policy;
use nexus_seal::{SignedPolicy, Signer, verify_policy};
use nostr::event::Event;
use serde_json::{Value, json};

use crate::api::{Api, Call};
use crate::error::Error;
use crate::proof;

/// The policy that a host keeps for an agent, checked against the owner's key; none if there is none.
pub async fn stored(api: &Api, npub: &Npub, owner: &Npub) -> Result<Option<SignedPolicy>, Error> {
    let answer = match api.get(&path(npub)).await {
        Ok(answer) => answer,
        Err(Error::Api(problem)) if problem.code == "policy_missing" => return Ok(None),
        Err(error) => return Err(error),
    };
    let odd = |why: String| Error::Protocol { attempted: "reading the policy", why };
    let event: Event = serde_json::from_value(answer["event"].clone()).map_err(|error| odd(error.to_string()))?;
    verify_policy(&event, owner, npub).map(Some).map_err(|error| {
        Error::NotAllowed(format!("the host keeps a policy that you did not sign: {error}\n  next: the worker refuses it too; sign a new one with `nexus agent policy A --file FILE`"))
    })
}

fn path(npub: &Npub) -> String {
    format!("/v1/agents/{npub}/policy")
}

/// Signs a policy as its owner.
pub async fn sign(signer: &dyn Signer, policy: &Policy, now: UnixMs) -> Result<Event, Error> {
    let event = unsigned_policy(&signer.public_key(), policy, timestamp(now)).map_err(refused)?;
    signer.sign(event).await.map_err(proof::signing)
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused(format!("{error}\n  next: correct the policy and try again"))
}

/// The document that the owner edited, as the version after `current`. Agent and version are set here, so that neither
/// can be got wrong.
pub fn next_version(edited: &str, npub: &Npub, current: Option<&Policy>) -> Result<Policy, Error> {
    let mut document: Value = serde_json::from_str(edited).map_err(|error| refused(format!("not JSON: {error}")))?;
    let Some(members) = document.as_object_mut() else {
        return Err(refused("the policy must be a JSON object"));
    };
    members.insert("agent".to_owned(), json!(npub));
    members.insert("version".to_owned(), json!(current.map_or(0, |policy| policy.version) + 1));
    Policy::parse(&document.to_string()).map_err(refused)
}

/// Stores a newly signed policy; `api` must be asked by the owner key. The host refuses one that is not newer than its
/// own.
pub async fn store(api: &Api, npub: &Npub, event: &Event) -> Result<(), Error> {
    let body = serde_json::to_vec(event).map_err(refused)?;
    api.call(Call::new(reqwest::Method::PUT, path(npub)).bytes(body)).await.map(drop)
}

/// The document that an editor is opened on: what may be changed, with its present values.
pub fn editable(policy: &Policy) -> Result<String, Error> {
    let mut document = serde_json::to_value(policy).map_err(refused)?;
    if let Some(members) = document.as_object_mut() {
        members.remove("agent");
        members.remove("version");
        // Those that are left out where they say nothing, so that they can be seen and set.
        let unset = json!({
            "publish": [], "reader_history": false, "frozen": false, "actions": [], "delegations": {}, "payees": [], "rent": null,
            "limits": { "payment_msat": null, "month_msat": null, "payments_per_hour": null },
        });
        fill(members, &unset);
    }
    serde_json::to_string_pretty(&document).map(|text| text + "\n").map_err(refused)
}

fn fill(members: &mut serde_json::Map<String, Value>, unset: &Value) {
    for (name, value) in unset.as_object().into_iter().flatten() {
        match (members.get_mut(name), value) {
            (Some(Value::Object(inner)), Value::Object(_)) => fill(inner, value),
            (Some(_), _) => {}
            (None, _) => drop(members.insert(name.clone(), value.clone())),
        }
    }
}

/// What differs between two versions, one field a line: what the owner is about to sign.
pub fn changes(before: &Policy, after: &Policy) -> Result<String, Error> {
    fn walk(prefix: &str, before: &Value, after: &Value, text: &mut String) {
        match (before, after) {
            (Value::Object(left), Value::Object(right)) => {
                let names: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
                for name in names {
                    let inner = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    walk(&inner, &before[name.as_str()], &after[name.as_str()], text);
                }
            }
            (left, right) if left == right => {}
            (left, right) => {
                let _ = writeln!(text, "  {prefix}: {left} -> {right}");
            }
        }
    }
    let mut text = String::new();
    let value = |policy: &Policy| serde_json::to_value(policy).map_err(refused);
    walk("", &value(before)?, &value(after)?, &mut text);
    Ok(text)
}

/// The limit fields for people, in order: name and amount.
pub fn limits(policy: &Policy) -> Vec<(&'static str, Msat)> {
    let limits = &policy.limits;
    let shown = [
        ("a payment", limits.payment_msat),
        ("a tick", Some(limits.tick_msat)),
        ("a day", Some(limits.day_msat)),
        ("a month", limits.month_msat),
        ("rent a month", policy.rent.as_ref().map(|rent| rent.month_msat)),
        ("reserve", Some(limits.reserve_msat)),
        ("asks above", Some(limits.approval_threshold_msat)),
    ];
    shown.into_iter().filter_map(|(what, limit)| Some((what, limit?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editing_raises_the_version_and_keeps_the_agent() {
        let npub = Npub::from_bytes([9; 32]);
        let first = Policy::default_for(npub);
        let text = editable(&first).unwrap();
        assert!(!text.contains("version") && !text.contains("npub1"));
        let edited = text.replace("10000000", "20000000");
        let second = next_version(&edited, &npub, Some(&first)).unwrap();
        assert_eq!((second.version, second.agent), (2, npub));
        let shown = changes(&first, &second).unwrap();
        assert!(shown.contains("limits.day_msat: 10000000 -> 20000000"), "{shown}");
        // A document that names another agent is still signed for this one.
        let foreign = format!("{{\"agent\":\"{}\",\"version\":99}}", Npub::from_bytes([8; 32]));
        assert_eq!(next_version(&foreign, &npub, Some(&second)).unwrap().version, 3);
    }

    #[test]
    fn nonsense_is_refused_with_exit_4() {
        let npub = Npub::from_bytes([9; 32]);
        for bad in ["", "[]", "{\"limit\":1}", "{\"limits\":{\"tick_msat\":20000000,\"day_msat\":1}}"] {
            assert_eq!(next_version(bad, &npub, None).unwrap_err().exit().code(), 4, "{bad}");
        }
    }
}
