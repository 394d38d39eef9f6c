//! Everything that reads bytes from outside, driven with damaged inputs: any bytes give a value or an error.

use nexus_testkit::fuzz::{budget, drive};

#[test]
fn model_output() {
    let corpus: [&[u8]; 3] = [
        br#"{"actions":[{"type":"reply","to":"m1","text":"hi"},{"type":"zap","to":"npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg","amount_msat":1000}]}"#,
        b"Sure: {\"actions\":[{\"type\":\"update_goal\",\"goal\":\"x\",\"done\":true},{\"type\":\"none\"}]} bye",
        br#"{"actions":[]}"#,
    ];
    let inputs = drive(1, budget(), &corpus, nexus_core::action::fuzz_answer);
    assert!(inputs > 100);
}

#[test]
fn invoices() {
    // The first examples of BOLT 11 and one without an amount.
    let corpus: [&[u8]; 2] = [
        b"lnbc2500u1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh",
        b"lightning:lnbc1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql",
    ];
    let inputs = drive(2, budget(), &corpus, nexus_lightning::bolt11::fuzz);
    assert!(inputs > 100);
}

#[test]
fn payees_services() {
    let corpus: [&[u8]; 3] = [
        b"\x64{\"tag\":\"payRequest\",\"callback\":\"https://h/c?a=b\",\"minSendable\":1000,\"maxSendable\":9000,\"allowsNostr\":true,\"nostrPubkey\":\"7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e\"}",
        b"\x64{\"pr\":\"lnbc1\",\"routes\":[]}",
        b"\x64{\"status\":\"ERROR\",\"reason\":\"no\"}",
    ];
    let inputs = drive(21, budget(), &corpus, nexus_lightning::lnurl::fuzz);
    assert!(inputs > 100);
}

#[test]
fn envelopes() {
    let corpus: [&[u8]; 2] = [
        b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBzYWx0c2FsdHNhbHRzYWx0c2EgMTgKYm9keQotLS0gbWFj\n-----END AGE ENCRYPTED FILE-----\n",
        b"age-encryption.org/v1\n-> X25519 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n--- aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ];
    let inputs = drive(3, budget(), &corpus, nexus_seal::fuzz::fuzz_envelope);
    assert!(inputs > 100);
}

const EVENT: &[u8] = br#"{"id":"0000000000000000000000000000000000000000000000000000000000000000","pubkey":"7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e","created_at":1700000000,"kind":1,"tags":[["p","7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"],["e","0000000000000000000000000000000000000000000000000000000000000000","","root"]],"content":"hi","sig":"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"}"#;

#[test]
fn events() {
    let seal = EVENT.to_vec().iter().map(|byte| if *byte == b'1' { b'3' } else { *byte }).collect::<Vec<_>>();
    let inputs = drive(4, budget(), &[EVENT, &seal], nexus_nostr::fuzz::fuzz_event);
    assert!(inputs > 100);
}

#[test]
fn triggers_and_jobs() {
    let half = budget() / 2;
    assert!(drive(5, half, &[EVENT], nexus_nostr::fuzz::fuzz_trigger) > 100);
    let jobs: [&[u8]; 2] =
        [br#"[["i","prompt","text"],["param","max-tokens","5"],["amount","1000","lnbcrt1"]]"#, EVENT];
    assert!(drive(6, half, &jobs, nexus_nostr::fuzz::fuzz_job) > 100);
}

#[test]
fn relay_frames() {
    let frames: [&[u8]; 3] = [
        br##"["REQ","a",{"kinds":[1,4],"since":1,"limit":10,"#p":["7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"]}]"##,
        br#"["CLOSE","a"]"#,
        br#"["EVENT",{"id":"00"}]"#,
    ];
    assert!(drive(7, budget(), &frames, nexus_relay::fuzz_frame) > 100);
}

#[test]
fn signed_requests_and_documents() {
    let half = budget() / 2;
    let header = b"Nostr eyJpZCI6IjAwIiwia2luZCI6MjcyMzUsInRhZ3MiOltbInUiLCJodHRwOi8vYSJdXX0=";
    assert!(drive(8, half, &[header, EVENT], nexus_seal::fuzz::fuzz_request) > 100);
    assert!(drive(9, half, &[EVENT, br#"{"format":1,"pool_id":"default"}"#], nexus_seal::fuzz::fuzz_document) > 100);
}
