//! Seeded mutation on stable Rust: drives a plain `fn(&[u8])` with damaged versions of good inputs.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MAX_INPUT: usize = 64 * 1024;

/// How long each target runs: `NEXUS_FUZZ_SECS`, by default 3 seconds.
pub fn budget() -> Duration {
    let secs = std::env::var("NEXUS_FUZZ_SECS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    Duration::from_secs(secs)
}

/// Runs `target` on the corpus and on mutations of it until the time is over; returns how many inputs it saw.
///
/// A panic of the target fails the test; the seed and the number of the input are printed before, so that the
/// same run can be made again.
#[expect(clippy::disallowed_methods, reason = "the fuzz driver's own stopwatch")]
pub fn drive(seed: u64, time: Duration, corpus: &[&[u8]], target: fn(&[u8])) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let started = Instant::now();
    let mut inputs = 0;
    for good in corpus {
        target(good);
        inputs += 1;
    }
    while started.elapsed() < time {
        for _ in 0..64 {
            let input = mutate(&mut rng, corpus);
            inputs += 1;
            let outcome = std::panic::catch_unwind(|| target(&input));
            if let Err(panic) = outcome {
                eprintln!("seed {seed}, input {inputs}: {}", String::from_utf8_lossy(&input));
                std::panic::resume_unwind(panic);
            }
        }
    }
    inputs
}

fn mutate(rng: &mut StdRng, corpus: &[&[u8]]) -> Vec<u8> {
    let mut input = corpus[rng.random_range(0..corpus.len())].to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = if input.is_empty() { 0 } else { rng.random_range(0..input.len()) };
        match rng.random_range(0..8) {
            0 if !input.is_empty() => input[at] ^= 1 << rng.random_range(0..8),
            1 if !input.is_empty() => input[at] = rng.random(),
            2 => input.insert(at, *b"\0\"{}[]\\:,1e9\xff".get(rng.random_range(0..14)).unwrap_or(&0)),
            3 if !input.is_empty() => {
                let end = (at + rng.random_range(1..32)).min(input.len());
                input.drain(at..end);
            }
            4 => input.truncate(at),
            5 => {
                let end = (at + rng.random_range(1..64)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            6 => {
                let other = corpus[rng.random_range(0..corpus.len())];
                let from = rng.random_range(0..=other.len());
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let number = rng.random::<u64>().to_string();
                input.splice(at..at, number.into_bytes());
            }
        }
    }
    input.truncate(MAX_INPUT);
    input
}
