//! A manifest: planned, carried out once, and asked for again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use common::{Place, list};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[defaults]
state = "running"
goals = ["Be there"]
[defaults.config]
heartbeat_secs = 86400
labels = { team = "north" }
[defaults.policy.limits]
day_msat = 5_000_000

[agents.ada]
[agents.bob]
state = "stopped"
custody = "attended"
[agents.cleo.config]
about = "Counts the ships"
"#;

struct Applied<'a> {
    place: &'a Place,
    file: String,
    passphrase: String,
}

impl Applied<'_> {
    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    fn run(&self, more: &[&str]) -> (i32, Value, String) {
        let args = ["apply", "-f", &self.file, "--passphrase-file", &self.passphrase];
        self.place.run(&[&args[..], more].concat())
    }

    fn steps(&self, answer: &Value) -> Vec<(String, usize)> {
        let rows = answer["plan"].as_array().unwrap_or_else(|| panic!("{answer}"));
        rows.iter()
            .map(|row| (row["name"].as_str().unwrap().to_owned(), row["steps"].as_array().unwrap().len()))
            .collect()
    }

    fn versions(&self) -> Vec<(String, i64, i64)> {
        let agents = list(&self.place.ok(&["agent", "list"]));
        let version = |agent: &Value| {
            let status = self.place.status(agent["name"].as_str().unwrap());
            let number = |name: &str| status[name].as_i64().unwrap();
            (agent["name"].as_str().unwrap().to_owned(), number("config_version"), number("policy_version"))
        };
        let mut versions: Vec<_> = agents.iter().map(version).collect();
        versions.sort();
        versions
    }
}

#[test]
fn many_agents_are_brought_to_what_a_manifest_says() {
    let place = Place::new();
    let host = place.start(&[]);
    let text = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let applied = Applied { place: &place, file: text("agents.toml"), passphrase: text("passphrase") };

    // Nothing is done for a manifest with a fault in it, nor without the user's word.
    applied.write(&format!("{MANIFEST}\n[agents.dora.config]\nheartbeat_secs = 1"));
    let (code, _, errors) = applied.run(&["--yes"]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("agents.dora"), "{errors}");
    applied.write(MANIFEST);
    let (code, _, errors) = applied.run(&[]);
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("--yes"), "{errors}");
    let (code, answer, errors) = applied.run(&["--plan"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(applied.steps(&answer), [("ada".into(), 2), ("bob".into(), 1), ("cleo".into(), 2)]);
    assert!(list(&place.ok(&["agent", "list"])).is_empty());

    let (code, answer, errors) = applied.run(&["--yes"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!((&answer["done"], &answer["failed"]), (&json!(3), &json!({})), "{answer}");
    let bob = place.status("bob");
    assert_eq!((&bob["desired"], &bob["config"]["heartbeat_secs"]), (&json!("stopped"), &json!(86_400)), "{bob}");
    let policy: Value = serde_json::from_str(bob["policy"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&policy["custody"], &policy["limits"]["day_msat"]),
        (&json!("attended"), &json!(5_000_000)),
        "{policy}"
    );
    assert_eq!(place.status("ada")["desired"], "running");
    assert_eq!(place.status("cleo")["config"]["about"], "Counts the ships");

    // Asked for again there is nothing to do, and nothing is done.
    let before = applied.versions();
    let (code, answer, errors) = applied.run(&["--yes"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(applied.steps(&answer), [("ada".into(), 0), ("bob".into(), 0), ("cleo".into(), 0)]);
    assert_eq!(applied.versions(), before);

    // What was changed by hand, and what the manifest says anew, is brought about; everything else stays.
    place.ok(&["agent", "set", "ada", "--heartbeat", "1h", "--about", "by hand", "--label", "own=stays"]);
    applied.write(&MANIFEST.replace("5_000_000", "6_000_000").replace("state = \"stopped\"", "state = \"running\""));
    let (code, answer, errors) = applied.run(&["--yes"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(applied.steps(&answer), [("ada".into(), 2), ("bob".into(), 2), ("cleo".into(), 1)]);
    let ada = place.status("ada");
    assert_eq!(ada["config"]["about"], "by hand", "{ada}");
    assert_eq!(ada["config"]["labels"], json!({ "team": "north", "own": "stays" }), "{ada}");
    assert_eq!((&ada["config"]["heartbeat_secs"], &ada["policy_version"]), (&json!(86_400), &json!(2)), "{ada}");
    assert_eq!(place.status("bob")["desired"], "running");

    // One that fails keeps no other from being done, and is named; the rest is done when the cause is gone.
    assert_eq!(host.interrupt(), 0);
    let host = place.start(&[("NEXUS_API_MAX_AGENTS_PER_ACCOUNT", "4")]);
    applied.write(&format!("{MANIFEST}\n[agents.emil]\n[agents.fay]\n"));
    let (code, _, errors) = applied.run(&["--yes"]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("1 agents are not") && errors.contains("may have 4 agents"), "{errors}");
    assert_eq!(list(&place.ok(&["agent", "list"])).len(), 4);
    assert_eq!(host.interrupt(), 0);
    let host = place.start(&[]);
    let (code, answer, errors) = applied.run(&["--yes"]);
    assert_eq!((code, &answer["done"]), (0, &json!(1)), "{answer} {errors}");
    assert_eq!(list(&place.ok(&["agent", "list"])).len(), 5);
    drop(host);
}
