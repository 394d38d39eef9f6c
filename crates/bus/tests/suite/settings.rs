//! A configuration that cannot work is refused by the key at fault, and without quoting a secret.

use std::fs;
use std::path::PathBuf;

use nexus_bus::NatsConfig;
use tempfile::TempDir;

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn the_defaults_work_and_unknown_keys_do_not() {
    NatsConfig::default().validate().unwrap();
    let config: NatsConfig =
        toml::from_str("urls = ['tls://a.example', 'tls://b.example:4333']\nprefix = 'a.b-c'").unwrap();
    config.validate().unwrap();
    assert_eq!(toml::from_str::<NatsConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    let error = toml::from_str::<NatsConfig>("password = 'sesame'").unwrap_err().to_string();
    assert!(error.contains("unknown field `password`"), "{error}");
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let [empty, text] = [file("empty", "\n"), file("text", "s3cret-text")];
    let large = file("large", &"x".repeat(300_000));
    let url = |url: &str| NatsConfig { urls: vec![url.to_owned()], ..NatsConfig::default() };
    let prefix = |prefix: &str| NatsConfig { prefix: prefix.to_owned(), ..NatsConfig::default() };
    let other = NatsConfig::default;
    let gone = Some(PathBuf::from("/nowhere/at/all"));
    let cases: Vec<(&str, NatsConfig)> = vec![
        ("nats urls: 1 to 16", NatsConfig { urls: Vec::new(), ..other() }),
        ("nats urls: entry 1 is not", url("")),
        ("nats urls: entry 1 is not", url("http://127.0.0.1")),
        ("nats urls: entry 1 is not", url("ws://127.0.0.1")),
        ("nats urls: entry 1 holds", url("nats://user:s3cret@127.0.0.1")),
        ("nats urls: entry 1 holds", url("nats://s3cret@127.0.0.1")),
        ("nats urls: entry 1 holds", url("nats://:s3cret@127.0.0.1")),
        ("nats urls: entry 1 goes on", url("nats://127.0.0.1/s3cret")),
        ("nats urls: entry 1 goes on", url("nats://127.0.0.1?token=s3cret")),
        ("nats prefix", prefix("")),
        ("nats prefix", prefix("a..b")),
        ("nats prefix", prefix("a.*")),
        ("nats prefix", prefix(">")),
        ("nats prefix", prefix("$SYS")),
        ("nats prefix", prefix("a b")),
        ("nats prefix", prefix(&"a".repeat(65))),
        ("nats name", NatsConfig { name: "a\r\nPUB".to_owned(), ..other() }),
        ("nats connect_timeout_ms", NatsConfig { connect_timeout_ms: 0, ..other() }),
        ("nats ping_interval_ms", NatsConfig { ping_interval_ms: 99, ..other() }),
        ("nats reconnect_max_ms", NatsConfig { reconnect_max_ms: 3_600_000, ..other() }),
        ("nats queue", NatsConfig { queue: 0, ..other() }),
        ("nats password_file: a user", NatsConfig { user: some("u"), ..other() }),
        ("nats user", NatsConfig { password_file: text.clone(), ..other() }),
        ("nats password_file: cannot read", NatsConfig { user: some("u"), password_file: gone.clone(), ..other() }),
        ("nats token_file: the file is empty", NatsConfig { token_file: empty, ..other() }),
        ("nats token_file: the file is larger", NatsConfig { token_file: large, ..other() }),
        (
            "nats credentials_file: at most one",
            NatsConfig { token_file: text.clone(), credentials_file: text.clone(), ..other() },
        ),
        ("nats credentials_file: not a .creds", NatsConfig { credentials_file: text.clone(), ..other() }),
        ("nats tls_ca_file: cannot read", NatsConfig { tls_ca_file: gone, ..other() }),
        ("nats tls_ca_file: the file is not PEM", NatsConfig { tls_ca_file: text.clone(), ..other() }),
        ("nats tls_cert_file: a key", NatsConfig { tls_key_file: text.clone(), ..other() }),
        ("nats tls_key_file: a certificate", NatsConfig { tls_cert_file: text, ..other() }),
    ];
    for (expected, config) in cases {
        let error = config.validate().expect_err(expected);
        let text = format!("{error} {error:?}");
        assert!(text.starts_with(expected), "{expected}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
