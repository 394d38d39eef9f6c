//! What an agent shows in public is what its owner signed for, and nothing private: read at the relay by an independent client.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Friend, Place, eventually, find, hex_of};
use serde_json::{Value, json};

const SECRET: &str = "the safe is behind the zebra";

fn policy(place: &Place, publish: &Value) -> String {
    let file = place.path("policy.json");
    std::fs::write(&file, json!({ "publish": publish }).to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

fn tag(event: &Value, name: &str) -> Option<Value> {
    event["tags"].as_array()?.iter().find(|tag| tag[0] == name).map(|tag| tag[1].clone())
}

struct Shown<'a> {
    friend: &'a Friend,
    agent: String,
    runner: String,
}

impl Shown<'_> {
    /// Stored events of a kind, by the agent or about it by the runner.
    fn all(&self, kind: u16) -> Vec<Value> {
        let found = match kind {
            39_210 | 39_211 => {
                self.friend.query(json!({ "kinds": [kind], "authors": [self.runner], "#p": [self.agent] }))
            }
            _ => self.friend.query(json!({ "kinds": [kind], "authors": [self.agent] })),
        };
        assert!(found.iter().all(|event| event["verified"] == true), "{found:?}");
        found
    }

    fn at(&self, kind: u16, d: &str) -> Option<Value> {
        self.all(kind).into_iter().find(|event| tag(event, "d") == Some(json!(d)))
    }
}

#[test]
fn an_agent_shows_what_its_owner_signed_for() {
    let place = Place::new();
    let host = place.start(&[]);
    let everything = json!(["schedule", "triggers", "goals", "ticks", "trajectory", "state"]);
    let policy_file = policy(&place, &everything);
    let goal = "Be seen";
    let npub = place.agent("ada", &["--goal", goal, "--heartbeat", "1d", "--policy-file", &policy_file]);
    let calm = || place.ticks("ada").iter().any(|tick| tick["status"] == "completed").then_some(());
    assert!(eventually(60, calm).is_some(), "{}", place.status("ada"));
    let friend = Friend::new(&place.relay());
    let runner = hex_of(&find(&place.ok(&["pool"]), "runner").unwrap());
    let shown = Shown { friend: &friend, agent: hex_of(&npub), runner };

    let schedule = eventually(30, || shown.at(39_202, "schedule")).unwrap_or_else(|| panic!("{}", host.logged()));
    assert_eq!((tag(&schedule, "heartbeat"), tag(&schedule, "active")), (Some(json!("86400")), Some(json!("true"))));
    assert_eq!(tag(&shown.at(39_202, "triggers").unwrap(), "trigger"), Some(json!("mention")));
    let goals: Value = serde_json::from_str(shown.at(39_203, "goals").unwrap()["content"].as_str().unwrap()).unwrap();
    assert_eq!(goals["goals"][0], json!({ "text": goal, "done": false }));
    // The state is there, and can't be read.
    let state = shown.at(39_201, "state").unwrap();
    assert!(state["content"].as_str().unwrap().len() > 100 && tag(&state, "x").is_some(), "{state}");

    // A mention and a private message: of the one it says what was said, of the other that it came.
    friend.send(1, &shown.agent, "hello in public");
    let ticked = |trigger: &str| {
        let of = |tick: &Value| tick["trigger"] == trigger && tick["status"] == "completed";
        eventually(60, || place.ticks("ada").into_iter().find(of)).unwrap_or_else(|| panic!("{}", host.logged()))
    };
    let mention = ticked("mention")["id"].as_str().unwrap().to_owned();
    friend.send(17, &shown.agent, SECRET);
    let private = ticked("dm")["id"].as_str().unwrap().to_owned();
    for id in [&mention, &private] {
        let result = eventually(30, || shown.at(39_211, id)).unwrap();
        let request = shown.at(39_210, id).unwrap();
        assert_eq!((tag(&result, "e"), tag(&result, "status")), (Some(request["id"].clone()), Some(json!("success"))));
    }
    assert!(tag(&shown.at(39_210, &mention).unwrap(), "e").is_some());
    assert!(tag(&shown.at(39_210, &private).unwrap(), "e").is_none());
    let steps = |session: &str| {
        let root = shown.at(39_230, session)?["id"].clone();
        let mut found = shown.all(39_231);
        found.retain(|step| tag(step, "e") == Some(root.clone()));
        found.sort_by_key(|step| tag(step, "seq").unwrap().as_str().unwrap().parse::<u32>().unwrap());
        let ended = found.last()?["content"].as_str()?.contains("session_end");
        ended.then_some(found)
    };
    let story = eventually(30, || steps(&mention)).unwrap();
    assert!(story[0]["content"].as_str().unwrap().contains("hello in public"), "{story:?}");
    // The session's hash is over exactly these steps.
    let contents: Vec<&str> = story.iter().map(|step| step["content"].as_str().unwrap()).collect();
    let hash = nexus_core::Hash32::sha256(contents.join("\n").as_bytes()).to_string();
    assert_eq!(tag(&shown.at(39_230, &mention).unwrap(), "trajectory_hash"), Some(json!(hash)));
    let story = eventually(30, || steps(&private)).unwrap();
    assert!(story[0]["content"].as_str().unwrap().contains("redacted"), "{story:?}");
    for kind in [1, 5, 39_201, 39_202, 39_203, 39_210, 39_211, 39_230, 39_231] {
        let found = json!(shown.all(kind)).to_string();
        assert!(!found.contains("zebra"), "{kind}: {found}");
    }

    // Stopped, it says so; and what the owner signs for no longer is taken back.
    place.ok(&["agent", "stop", "ada"]);
    let inactive = || Some(tag(&shown.at(39_202, "schedule")?, "active")? == "false").filter(|inactive| *inactive);
    assert!(eventually(30, inactive).is_some(), "{}", host.logged());
    let fewer = policy(&place, &json!(["triggers"]));
    place.ok(&["agent", "policy", "ada", "--file", &fewer]);
    place.ok(&["agent", "start", "ada"]);
    let gone = || (shown.at(39_203, "goals").is_none() && shown.at(39_202, "schedule").is_none()).then_some(());
    assert!(eventually(30, gone).is_some(), "{}", host.logged());
    assert!(shown.at(39_202, "triggers").is_some());
    let before = shown.all(39_211).len();
    place.ok(&["agent", "tick", "ada"]);
    ticked("manual");
    let state = shown.at(39_201, "state").unwrap();
    assert_eq!((shown.all(39_211).len(), &state["content"]), (before, &json!("")));
    assert_eq!(host.interrupt(), 0);
}
