//! What happens to an agent is posted where its owner said, told to the real binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use common::{Place, eventually, list};
use nexus_core::UnixMs;
use nexus_seal::webhook::{WebhookHeaders, WebhookKey, verify_webhook};
use serde_json::{Value, json};

/// What came, and what is answered.
struct Receiver {
    url: String,
    status: Arc<AtomicU16>,
    came: Arc<Mutex<Vec<(String, String)>>>,
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
    line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value.trim())
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let (status, came) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(Vec::new())));
        let (answers, heard) = (status.clone(), came.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut text = Vec::new();
                let mut piece = [0; 4_096];
                while let Ok(read) = stream.read(&mut piece) {
                    text.extend_from_slice(&piece[..read]);
                    let said = String::from_utf8_lossy(&text).into_owned();
                    let Some((head, body)) = said.split_once("\r\n\r\n") else { continue };
                    if read == 0 || body.len() >= header(head, "content-length").parse().unwrap_or(0) {
                        heard.lock().unwrap().push((head.to_owned(), body.to_owned()));
                        break;
                    }
                }
                let status = answers.load(Ordering::Relaxed);
                let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        Self { url, status, came }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Those of a kind, signed with this key: id and body.
    fn of(&self, kind: &str, key: &WebhookKey) -> Vec<(String, Value)> {
        let came = self.came.lock().unwrap().clone();
        let signed = came.into_iter().map(|(head, body)| {
            let (id, timestamp) = (header(&head, "webhook-id"), header(&head, "webhook-timestamp"));
            let headers = WebhookHeaders { id, timestamp, signature: header(&head, "webhook-signature") };
            let now = UnixMs(timestamp.parse::<i64>().unwrap() * 1_000);
            verify_webhook(&headers, body.as_bytes(), std::slice::from_ref(key), now).unwrap();
            (id.to_owned(), serde_json::from_str::<Value>(&body).unwrap())
        });
        signed.filter(|(_, body)| body["type"] == kind).collect()
    }
}

fn dead(place: &Place, id: &str) -> Vec<Value> {
    list(&place.ok(&["webhook", "deliveries", id, "--state", "dead"])["deliveries"])
}

#[test]
fn an_owner_hears_by_webhook_until_it_is_taken() {
    let place = Place::new();
    let host = place.start(&[]);
    let receiver = Receiver::start();
    let made = place.ok(&["webhook", "add", &receiver.url, "--event", "tick_completed", "--event", "payment"]);
    let id = made["id"].as_str().unwrap().to_owned();
    let secret = made["secret"].as_str().unwrap();
    let key = WebhookKey::parse(secret).unwrap();
    let npub = place.agent("ada", &["--heartbeat", "1d"]);
    let ticked = eventually(60, || Some(receiver.of("tick_completed", &key)).filter(|came| !came.is_empty()));
    let (_, body) = ticked.unwrap_or_else(|| panic!("{}\n{}", place.status("ada"), host.logged())).remove(0);
    assert_eq!((&body["agent"]["name"], &body["agent"]["npub"]), (&json!("ada"), &json!(npub)));
    assert_eq!(body["data"]["type"], "tick_completed");
    assert!(eventually(30, || Some(receiver.of("payment", &key)).filter(|came| came.len() == 1)).is_some());
    assert!(receiver.of("balance_changed", &key).is_empty(), "nobody asked for it");

    // Refused, then the host dies: it comes again, under the same id, and after that no more.
    receiver.answers(500);
    place.ok(&["agent", "tick", "ada"]);
    let refused = eventually(60, || Some(receiver.of("tick_completed", &key)).filter(|came| came.len() == 2));
    let id_of_it = refused.unwrap()[1].0.clone();
    host.kill();
    receiver.answers(204);
    let host = place.start(&[]);
    let again = eventually(60, || Some(receiver.of("tick_completed", &key)).filter(|came| came.len() == 3));
    assert_eq!(again.unwrap()[2].0, id_of_it);
    let quiet = || list(&place.ok(&["webhook", "list"])["webhooks"])[0]["pending"] == 0;
    assert!(eventually(30, || quiet().then_some(())).is_some());

    // A receiver that is gone gets nothing more, and what it missed is shown, and sent when it is back.
    receiver.answers(410);
    place.ok(&["agent", "tick", "ada"]);
    let gone = eventually(60, || Some(dead(&place, &id)).filter(|dead| !dead.is_empty()));
    assert!(gone.unwrap_or_default()[0]["said"].as_str().unwrap().contains("410"), "{}", host.logged());
    let before = receiver.came.lock().unwrap().len();
    receiver.answers(200);
    place.ok(&["webhook", "retry", &id]);
    assert!(eventually(60, || (receiver.came.lock().unwrap().len() > before && quiet()).then_some(())).is_some());
    assert!(dead(&place, &id).is_empty());
    assert!(!host.logged().contains(secret), "the secret is in no log");
    place.ok(&["webhook", "remove", &id]);
    assert_eq!(place.run(&["webhook", "deliveries", &id]).0, 3);
    assert_eq!(host.interrupt(), 0);
}

#[test]
fn bad_webhooks_are_told() {
    let place = Place::new();
    let host = place.start(&[]);
    for (args, says) in [
        (&["ftp://x"][..], "use https://"),
        (&["https://me:word@hooks.example"], "user or password"),
        (&["https://hooks.example", "--event", "everything"], "use tick_started"),
        (&["nonsense"], "not a URL"),
    ] {
        let (code, _, said) = place.run(&[&["webhook", "add"], args].concat());
        assert!(code == 1 && said.contains(says), "{args:?}: {code} {said}");
    }
    for n in 0..16 {
        place.ok(&["webhook", "add", &format!("https://hooks.example/{n}")]);
    }
    let (code, _, said) = place.run(&["webhook", "add", "https://hooks.example/more"]);
    assert!(code != 0 && said.contains("as many webhooks"), "{code} {said}");
    assert_eq!(host.interrupt(), 0);
}
