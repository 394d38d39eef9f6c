//! An owner's command as its worker sees it: everything that control could have changed is found.

mod common;

use common::{Key, NOW};
use nexus_core::{Npub, UnixMs};
use nexus_seal::command::{COMMAND_SECS, COMMAND_SKEW_SECS};
use nexus_seal::event::{EventError, tag};
use nexus_seal::proof::{Request, unsigned_request};
use nexus_seal::{CommandError, OwnerCommand};

const BODY: &str = r#"{"sealed":"closed"}"#;

fn path(agent: &Npub) -> String {
    format!("/v1/agents/{agent}/unlock")
}

fn command(owner: &Key, agent: &Npub, method: &str, url: &str) -> OwnerCommand {
    let request = Request { method, url, body: BODY.as_bytes() };
    let mut event = unsigned_request(&owner.npub(), &request, NOW);
    event.tags.push(tag("p", [agent.to_hex().as_str()]));
    OwnerCommand { event: owner.sign(event), body: BODY.to_owned() }
}

#[test]
fn a_command_is_its_signers_for_ten_minutes() {
    let (owner, agent) = (Key::new(1), Key::new(2).npub());
    let path = path(&agent);
    let command = command(&owner, &agent, "POST", &format!("https://nexus.example{path}"));
    let at = |secs: i64| command.verify("POST", &path, &agent, UnixMs(NOW.0 + secs * 1_000));
    assert_eq!(at(0).unwrap().by, owner.npub());
    at(COMMAND_SECS).unwrap();
    at(-COMMAND_SKEW_SECS).unwrap();
    assert_eq!(at(COMMAND_SECS + 1), Err(CommandError::Time { off_secs: COMMAND_SECS + 1 }));
    assert!(at(-COMMAND_SKEW_SECS - 1).is_err());
    // As it travels.
    let text = serde_json::to_string(&command).unwrap();
    assert_eq!(serde_json::from_str::<OwnerCommand>(&text).unwrap(), command);
}

#[test]
fn a_command_is_for_one_request_and_one_agent() {
    let (owner, agent, other) = (Key::new(1), Key::new(2).npub(), Key::new(3).npub());
    let path = path(&agent);
    let url = format!("https://nexus.example{path}");
    let verify = |command: &OwnerCommand| command.verify("POST", &path, &agent, NOW).map(drop);
    let fine = command(&owner, &agent, "POST", &url);
    verify(&fine).unwrap();

    let changed = OwnerCommand { body: BODY.replace("closed", "stolen"), ..fine.clone() };
    assert_eq!(verify(&changed), Err(CommandError::Payload));
    assert_eq!(verify(&command(&owner, &agent, "PUT", &url)), Err(CommandError::OtherRequest));
    let elsewhere = format!("https://nexus.example/v1/agents/{other}/unlock");
    assert_eq!(verify(&command(&owner, &agent, "POST", &elsewhere)), Err(CommandError::OtherRequest));
    let hidden = format!("https://nexus.example/v1/agents/{agent}/start?{path}");
    assert_eq!(verify(&command(&owner, &agent, "POST", &hidden)), Err(CommandError::OtherRequest));
    let about = verify(&command(&owner, &other, "POST", &url));
    assert!(matches!(about, Err(CommandError::Event(EventError::TagValue { .. }))), "{about:?}");
    // Another's name under the owner's signature, and the other way round.
    let mut event = serde_json::to_value(&fine.event).unwrap();
    event["pubkey"] = Key::new(9).npub().to_hex().into();
    let posed = OwnerCommand { event: serde_json::from_value(event).unwrap(), body: BODY.to_owned() };
    assert!(matches!(verify(&posed), Err(CommandError::Event(_))));
}
