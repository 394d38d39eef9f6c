//! What a seed decides before anything runs: how large the world is, and how hard it is on it.

use nexus_core::UnixMs;
use nexus_lightning::Idempotency;

use crate::dice::Dice;

/// 2026-09-21 14:13:20 UTC.
const DAYTIME: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// Faults in a thousand calls of their kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    pub db_refused: u64,
    pub db_answer_lost: u64,
    /// The process dies right before or right after a write.
    pub db_crash: u64,
    /// The process stands still right before or right after a write, longer than its lease.
    pub db_stall: u64,
    pub bus_lost: u64,
    pub bus_doubled: u64,
    pub bus_late: u64,
    pub relay_lost: u64,
    pub relay_answer_lost: u64,
    pub relay_refused: u64,
    pub relay_late: u64,
    pub relay_missed: u64,
    pub wallet_unreachable: u64,
    pub wallet_answer_lost: u64,
    /// A payment's bytes are on their way for long.
    pub wallet_late: u64,
    pub wallet_no_route: u64,
    pub wallet_pending: u64,
    pub wallet_crash: u64,
    pub provider_odd: u64,
}

/// A seed's world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub workers: usize,
    pub controls: usize,
    pub agents: usize,
    pub providers: usize,
    /// Virtual ms in which faults happen and people write.
    pub trouble_ms: u64,
    pub wall: UnixMs,
    /// How far a worker's wall clock may be off.
    pub skew_ms: i64,
    /// How long a payment's bytes may be on their way.
    pub late_ms: u64,
    pub idempotency: Idempotency,
    pub rates: Rates,
    /// Mean ms between what happens to whole processes; none for never.
    pub accidents_ms: Option<u64>,
    /// Mean ms between messages to an agent.
    pub messages_ms: u64,
    pub heartbeat_secs: u32,
    /// Owners start, stop and change policies.
    pub owners: bool,
    /// Limits so low that they matter.
    pub poor: bool,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(seed ^ 0x6e65_7875_7373_696d);
        let at = |permille: u64, most: u64| if dice.chance(permille) { dice.between(1, most) } else { 0 };
        let rates = Rates {
            db_refused: at(600, 25),
            db_answer_lost: at(600, 25),
            db_crash: at(600, 8),
            db_stall: at(500, 5),
            bus_lost: at(600, 400),
            bus_doubled: at(500, 300),
            bus_late: at(500, 300),
            relay_lost: at(500, 100),
            relay_answer_lost: at(500, 100),
            relay_refused: at(300, 60),
            relay_late: at(500, 150),
            relay_missed: at(400, 100),
            wallet_unreachable: at(500, 100),
            wallet_answer_lost: at(600, 300),
            wallet_late: at(500, 300),
            wallet_no_route: at(400, 150),
            wallet_pending: at(400, 250),
            wallet_crash: at(400, 100),
            provider_odd: at(700, 500),
        };
        // Either clocks are far off, or payments are long on their way: the margin after an invoice's expiry covers
        // one of them at a time.
        let far_off = dice.chance(300);
        let midnight = DAYTIME - DAYTIME.rem_euclid(DAY_MS) + DAY_MS;
        Self {
            workers: usize::try_from(dice.between(1, 3)).unwrap_or(1),
            controls: usize::try_from(dice.between(1, 2)).unwrap_or(1),
            agents: usize::try_from(dice.between(1, 2)).unwrap_or(1),
            providers: usize::try_from(dice.between(1, 3)).unwrap_or(1),
            trouble_ms: dice.between(30_000, 75_000),
            wall: UnixMs(if dice.chance(250) { midnight - 30_000 } else { DAYTIME }),
            skew_ms: if far_off { 3 * 3_600_000 } else { 20_000 },
            late_ms: if far_off { 500 } else { 40_000 },
            idempotency: *dice.pick(&[Idempotency::ByHash, Idempotency::ByKey, Idempotency::None]),
            rates,
            accidents_ms: dice.chance(850).then(|| dice.between(5_000, 30_000)),
            messages_ms: dice.between(4_000, 20_000),
            heartbeat_secs: *dice.pick(&[15, 60, 900]),
            owners: dice.chance(350),
            poor: dice.chance(250),
        }
    }
}
