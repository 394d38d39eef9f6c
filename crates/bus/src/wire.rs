//! Wakes as bytes: JSON with a version. Whatever is not one of ours is ignored, never an error.

use serde::{Deserialize, Serialize};

use crate::Wake;

/// The version that we write and read. A reader ignores others, so a rolling upgrade that changes it is slower while
/// it lasts, and nothing else.
pub(crate) const VERSION: u64 = 1;

/// [`VERSION`], or what `NEXUS_FAULT_VERSION` says in a build for tests, as if this were a later release.
fn version() -> u64 {
    #[cfg(feature = "faults")]
    {
        static SAID: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();
        let said = SAID.get_or_init(|| std::env::var("NEXUS_FAULT_VERSION").ok().and_then(|text| text.parse().ok()));
        said.unwrap_or(VERSION)
    }
    #[cfg(not(feature = "faults"))]
    VERSION
}

/// Largest message that is looked at, in bytes. Ours are under 150.
pub(crate) const MAX_BYTES: usize = 256;

/// Why a message was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ignored {
    #[error("{0} bytes are more than a wake has")]
    TooLong(usize),
    #[error("not a wake")]
    Malformed,
    #[error("wire version {0} is unknown, this is version {version}", version = version())]
    UnknownVersion(u64),
}

#[derive(Serialize)]
struct Out<'a> {
    v: u64,
    #[serde(flatten)]
    wake: &'a Wake,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

pub(crate) fn encode(wake: &Wake) -> Vec<u8> {
    // Cannot fail: string keys, no maps, no floats. An empty message would be ignored by its readers.
    serde_json::to_vec(&Out { v: version(), wake }).unwrap_or_default()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Wake, Ignored> {
    if bytes.len() > MAX_BYTES {
        return Err(Ignored::TooLong(bytes.len()));
    }
    let version: Version = serde_json::from_slice(bytes).map_err(|_| Ignored::Malformed)?;
    if version.v != self::version() {
        return Err(Ignored::UnknownVersion(version.v));
    }
    match serde_json::from_slice(bytes).map_err(|_| Ignored::Malformed)? {
        Wake::Event { seq, .. } if seq < 0 => Err(Ignored::Malformed),
        wake => Ok(wake),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_core::{Npub, UnixMs, WorkerId};
    use proptest::prelude::*;

    fn wakes() -> impl Strategy<Value = Wake> {
        let npub = any::<[u8; 32]>().prop_map(Npub::from_bytes);
        prop_oneof![
            npub.clone().prop_map(|npub| Wake::Agent { npub }),
            (npub, 0..=i64::MAX).prop_map(|(npub, seq)| Wake::Event { npub, seq }),
            (0..1_i64 << 47, any::<[u8; 10]>())
                .prop_map(|(at, random)| Wake::Worker { id: WorkerId::new(UnixMs(at), random) }),
            Just(Wake::Reconcile),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(wake in wakes()) {
            let bytes = encode(&wake);
            prop_assert!(bytes.len() <= 150);
            prop_assert_eq!(decode(&bytes), Ok(wake));
        }

        #[test]
        fn anything_may_come(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damage_is_ignored_or_another_wake(wake in wakes(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = encode(&wake);
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn the_form_does_not_change_by_accident() {
        let npub = Npub::from_bytes([1; 32]);
        let text = format!(r#"{{"v":1,"wake":"event","npub":"{npub}","seq":7}}"#);
        assert_eq!(String::from_utf8(encode(&Wake::Event { npub, seq: 7 })).unwrap(), text);
        assert_eq!(decode(text.as_bytes()), Ok(Wake::Event { npub, seq: 7 }));
        assert_eq!(encode(&Wake::Reconcile), br#"{"v":1,"wake":"reconcile"}"#);
    }

    #[test]
    fn an_unknown_version_is_named_whatever_its_body() {
        assert_eq!(decode(br#"{"v":2,"wake":"reconcile"}"#), Err(Ignored::UnknownVersion(2)));
        assert_eq!(decode(br#"{"v":2,"look":["elsewhere"]}"#), Err(Ignored::UnknownVersion(2)));
        assert_eq!(Ignored::UnknownVersion(2).to_string(), "wire version 2 is unknown, this is version 1");
    }

    #[test]
    fn what_is_no_wake_is_ignored() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"wake":"reconcile"}"#,
            r#"{"v":"1","wake":"reconcile"}"#,
            r#"{"v":-1,"wake":"reconcile"}"#,
            r#"{"v":1}"#,
            r#"{"v":1,"wake":"obey"}"#,
            r#"{"v":1,"wake":"agent"}"#,
            r#"{"v":1,"wake":"agent","npub":"npub1nothing"}"#,
            r#"{"v":1,"v":1,"wake":"reconcile"}"#,
            r#"{"v":1,"wake":"reconcile"} "#.repeat(2).as_str(),
        ] {
            assert_eq!(decode(text.as_bytes()), Err(Ignored::Malformed), "{text}");
        }
        let negative = format!(r#"{{"v":1,"wake":"event","npub":"{}","seq":-1}}"#, Npub::from_bytes([1; 32]));
        assert_eq!(decode(negative.as_bytes()), Err(Ignored::Malformed));
        assert_eq!(decode(&[b' '; MAX_BYTES + 1]), Err(Ignored::TooLong(MAX_BYTES + 1)));
    }
}
