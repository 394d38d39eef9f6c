//! What a seed decides before anything runs: how large the world is, and how hard it is on it.

use nexus_core::UnixMs;
use nexus_core::hosting::HostingRules;
use nexus_lightning::Idempotency;

use crate::dice::Dice;

/// 2026-09-21 14:13:20 UTC.
const DAYTIME: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// What can go wrong in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    DbRefused,
    DbAnswerLost,
    /// The process dies right before or right after a write.
    DbCrash,
    /// The process stands still right before or right after a write, longer than its lease.
    DbStall,
    BusLost,
    BusDoubled,
    /// By up to 8 s: others overtake it.
    BusLate,
    RelayLost,
    RelayAnswerLost,
    RelayRefused,
    RelayLate,
    RelayMissed,
    WalletUnreachable,
    WalletAnswerLost,
    /// A payment's bytes are on their way for long.
    WalletLate,
    WalletNoRoute,
    WalletPending,
    WalletCrash,
    ProviderOdd,
    /// The operator's node, in one call.
    NodeUnreachable,
    NodeAnswerLost,
    /// A settlement is not told to whoever follows them.
    NodeForgets,
    NodeDoubled,
    NodeReordered,
    /// A control plane dies right before or right after it books money.
    MoneyCrash,
    /// It stands still there, longer than its term.
    MoneyStall,
    /// Whoever called the API is gone before its answer.
    CallerGone,
}

/// Each fault, the name that it is counted under, in how many of a thousand worlds it happens, and in how many of a
/// thousand calls at most it does there.
const FAULTS: [(Fault, &str, u64, u64); 27] = [
    (Fault::DbRefused, "database refuses", 600, 25),
    (Fault::DbAnswerLost, "answer of a commit lost", 600, 25),
    (Fault::DbCrash, "crash at a write", 600, 8),
    (Fault::DbStall, "stall at a write", 500, 5),
    (Fault::BusLost, "message lost", 600, 400),
    (Fault::BusDoubled, "message doubled", 500, 300),
    (Fault::BusLate, "message out of order", 500, 300),
    (Fault::RelayLost, "relay loses", 500, 100),
    (Fault::RelayAnswerLost, "answer of a relay lost", 500, 100),
    (Fault::RelayRefused, "relay refuses", 300, 60),
    (Fault::RelayLate, "relay is late", 500, 150),
    (Fault::RelayMissed, "relay misses", 400, 100),
    (Fault::WalletUnreachable, "wallet unreachable", 500, 100),
    (Fault::WalletAnswerLost, "answer of a payment lost", 600, 300),
    (Fault::WalletLate, "payment long on its way", 500, 300),
    (Fault::WalletNoRoute, "no route", 400, 150),
    (Fault::WalletPending, "payment pending", 400, 250),
    (Fault::WalletCrash, "crash at a payment", 400, 100),
    (Fault::ProviderOdd, "odd provider", 700, 500),
    (Fault::NodeUnreachable, "operator's node unreachable", 600, 200),
    (Fault::NodeAnswerLost, "answer of the operator's node lost", 500, 100),
    (Fault::NodeForgets, "settlement not told", 500, 500),
    (Fault::NodeDoubled, "settlement told twice", 500, 500),
    (Fault::NodeReordered, "settlement out of order", 400, 300),
    (Fault::MoneyCrash, "crash at the books", 500, 100),
    (Fault::MoneyStall, "stall at the books", 500, 150),
    (Fault::CallerGone, "caller of the API is gone", 500, 300),
];

impl Fault {
    pub fn name(self) -> &'static str {
        FAULTS[self as usize].1
    }

    /// Names of all of them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FAULTS.iter().map(|(_, name, ..)| *name)
    }
}

/// How often each fault happens, in a thousand calls of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates([u64; FAULTS.len()]);

impl Rates {
    fn of(dice: &Dice) -> Self {
        Self(FAULTS.map(|(_, _, worlds, most)| if dice.chance(worlds) { dice.between(1, most) } else { 0 }))
    }

    pub const fn permille(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
}

/// A seed's world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub workers: usize,
    pub controls: usize,
    /// Two only with two workers at least: each has its own.
    pub regions: usize,
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
    /// The first agent begins without money.
    pub unfunded: bool,
    /// In the middle of it, more than what an owner's answer is waited for.
    pub a_week_passes: bool,
    /// How long a worker that is told to stop hands its agents over; 0 for not at all.
    pub drain_ms: u64,
    /// Agents have schedules beside their heartbeat.
    pub schedules: bool,
    /// The last agent's key is at its owner's signer.
    pub bunker: bool,
    /// From when (virtual ms), and for how long, all wallets' backends are away: minutes, past the end of the trouble.
    pub wallets_away: Option<(u64, u64)>,
    pub charging: Option<Charging>,
}

/// Hosting is charged in this world, and months pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charging {
    pub fee_sats: u64,
    pub rules: HostingRules,
    /// Agents may pay their own.
    pub rent: bool,
    /// Mean virtual ms between moments in which hours, days or weeks pass at once.
    pub passes_ms: u64,
    /// From when (virtual ms), and for how long, the operator's node is away.
    pub node_away: Option<(u64, u64)>,
}

impl Charging {
    fn of(dice: &Dice, trouble_ms: u64) -> Self {
        let days = |most| u16::try_from(dice.between(0, most)).unwrap_or(0);
        let rules = HostingRules { trial_days: days(3), grace_days: days(9), ..HostingRules::default() };
        Self {
            fee_sats: dice.between(1, 20) * 500,
            rules,
            rent: dice.chance(500),
            passes_ms: dice.between(4_000, 9_000),
            node_away: dice.chance(300).then(|| (dice.between(0, trouble_ms), dice.between(5_000, 40_000))),
        }
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(seed ^ 0x6e65_7875_7373_696d);
        let rates = Rates::of(&dice);
        // Either clocks are far off, or payments are long on their way: the margin after an invoice's expiry covers
        // one of them at a time.
        let far_off = dice.chance(300);
        let midnight = DAYTIME - DAYTIME.rem_euclid(DAY_MS) + DAY_MS;
        let workers = usize::try_from(dice.between(1, 3)).unwrap_or(1);
        let trouble_ms = dice.between(30_000, 75_000);
        let charging = dice.chance(300).then(|| Charging::of(&dice, trouble_ms));
        Self {
            workers,
            regions: if workers > 1 && dice.chance(600) { 2 } else { 1 },
            controls: usize::try_from(dice.between(1, 2)).unwrap_or(1),
            agents: usize::try_from(dice.between(1, 2)).unwrap_or(1),
            providers: usize::try_from(dice.between(1, 3)).unwrap_or(1),
            trouble_ms,
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
            unfunded: dice.chance(300),
            drain_ms: *dice.pick(&[0, 3_000, 10_000]),
            a_week_passes: far_off && dice.chance(300),
            // In months a schedule would miss more runs than anybody counts.
            schedules: dice.chance(400) && charging.is_none(),
            bunker: dice.chance(200),
            wallets_away: dice
                .chance(100)
                .then(|| (trouble_ms - dice.between(2_000, 20_000), dice.between(75_000, 130_000))),
            charging,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_stands_at_its_place() {
        for (place, (fault, ..)) in FAULTS.iter().enumerate() {
            assert_eq!(*fault as usize, place);
        }
    }

    #[test]
    fn worlds_differ() {
        let plans: Vec<Plan> = (0..200).map(Plan::of).collect();
        assert_eq!(plans[7], Plan::of(7));
        assert!(plans.iter().any(|plan| plan.regions == 2) && plans.iter().any(|plan| plan.controls == 2));
        assert!(plans.iter().all(|plan| plan.regions <= plan.workers));
    }
}
