//! The tick that is measured: six journaled effects, one after another, and a new state.

use nexus_core::Npub;
use nexus_core::time::random;
use nexus_seal::blob::Purpose;
use nexus_vault::DataKey;

use super::World;
use super::watch::Watch;

/// Effects of a tick. The outcome of one and the intent of the next are one append.
pub const EFFECTS: usize = 6;
/// Durable appends of a tick: the first opens it, the last commits it.
pub const APPENDS: usize = EFFECTS + 1;
/// A record before it is encrypted.
pub const EFFECT_BYTES: usize = 200;
/// The state before it is encrypted.
pub const STATE_BYTES: usize = 2_048;
pub const KIND: &str = "requested";
pub const CLASS: &str = "repeat";

/// Microseconds for encrypting what one tick writes, on one core that does nothing else.
pub fn sealing_cost(world: &World) -> anyhow::Result<f64> {
    const TICKS: u32 = 2_000;
    let npub = Npub::from_bytes([7; 32]);
    let key = DataKey::generate(npub, 1, &*world.entropy);
    let tick_id = nexus_core::TickId::new(world.clock.now(), random(&*world.entropy));
    let watch = Watch::start();
    for _ in 0..TICKS {
        for seq in 1..=EFFECTS as u32 {
            let sealed = key.seal(Purpose::Journal { tick_id, seq }, &[1; EFFECT_BYTES], &*world.entropy)?;
            std::hint::black_box(nexus_core::Hash32::sha256(&sealed));
        }
        std::hint::black_box(key.seal(Purpose::State, &[1; STATE_BYTES], &*world.entropy)?);
    }
    Ok(watch.elapsed().as_secs_f64() * 1e6 / f64::from(TICKS))
}
