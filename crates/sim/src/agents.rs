//! The agents of a run: real keys, envelopes and policies. What costs a key stretching is made once per process.

use std::sync::{Arc, OnceLock};

use nexus_core::agent::CatchUp;
use nexus_core::policy::{Custody, Limits, Policy};
use nexus_core::rent::Rent;
use nexus_core::schedule::{Overlap, Schedule, When};
use nexus_core::state::AgentState;
use nexus_core::status::Hosting;
use nexus_core::trigger::Trigger;
use nexus_core::{AccountId, AgentConfig, Entropy, Msat, Npub, UnixMs};
use nexus_seal::blob::Purpose;
use nexus_seal::event::timestamp;
use nexus_seal::policy::unsigned_policy;
use nexus_seal::{BunkerKey, SealedKey, Signer, seal_bunker_key, seal_key};
use nexus_store::agent::{NewAgent, Sealed, StoredPolicy, Wrap};
use nexus_vault::{AgentKeys, DataKey, LocalSigner, Mnemonic, PoolIdentity};

use crate::dice::Dice;
use crate::shelves::{OTHER, OWN};

/// The pool of every agent here.
pub const POOL: &str = "default";
pub const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
/// Agents that a run can have at most.
pub const MAX: usize = 4;
pub const PEOPLE: u64 = 4;

/// What a run knows of an agent.
pub struct Agent {
    pub npub: Npub,
    pub name: String,
    pub wallet_words: String,
    pub data: DataKey,
    pub limits: Limits,
    pub custody: Custody,
    /// What it may pay for its own hosting.
    pub rent: Option<Rent>,
    /// For its owner's signer, where that has it.
    pub secret: Vec<u8>,
    /// Its home region, where regions differ.
    pub home: Option<String>,
    /// As its owner made it, and brings it back.
    pub new: NewAgent,
}

/// A mnemonic with what is derived from it slowly.
struct Root {
    mnemonic: Mnemonic,
    secret: Vec<u8>,
    wallet_words: String,
}

type Made<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn roots() -> Made<&'static [Root]> {
    static ROOTS: OnceLock<Vec<Root>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots);
    }
    let dice = Arc::new(Dice::new(0x726f_6f74));
    let mut roots = Vec::with_capacity(MAX);
    for _ in 0..MAX {
        let mnemonic = Mnemonic::generate(&*dice);
        let signer = mnemonic.signer(dice.clone())?;
        let wallet_words = mnemonic.wallet_seed()?.expose_words().expose().to_owned();
        roots.push(Root { mnemonic, secret: signer.expose_secret().expose().to_vec(), wallet_words });
    }
    Ok(ROOTS.get_or_init(|| roots))
}

/// The identity that runtime envelopes are closed to.
pub fn pool() -> Arc<PoolIdentity> {
    static POOL: OnceLock<Arc<PoolIdentity>> = OnceLock::new();
    POOL.get_or_init(|| Arc::new(PoolIdentity::generate(&Dice::new(0x706f_6f6c)))).clone()
}

/// The owner of all agents.
pub fn owner(entropy: Arc<dyn Entropy>) -> Made<LocalSigner> {
    Ok(LocalSigner::from_secret(&[0x11; 32], entropy)?)
}

/// A policy as its owner signs it.
pub fn signed_policy(owner: &LocalSigner, policy: &Policy, now: UnixMs) -> Made<StoredPolicy> {
    let event = owner.sign_now(unsigned_policy(&owner.public_key(), policy, timestamp(now))?)?;
    Ok(StoredPolicy { version: i64::try_from(policy.version)?, event: nexus_nostr::event::to_json(&event) })
}

/// A policy of these limits.
pub fn policy(agent: Npub, version: u64, limits: Limits, custody: Custody, rent: Option<Rent>) -> Policy {
    Policy { version, limits, custody, rent, ..Policy::default_for(agent) }
}

/// Makes one agent as its owner's client would, its passphrase envelope aside, which nothing here opens.
#[expect(clippy::too_many_arguments, reason = "what an owner says of an agent")]
pub async fn make(
    index: usize,
    limits: Limits,
    heartbeat_secs: u32,
    home: Option<String>,
    schedules: Vec<Schedule>,
    custody: Custody,
    rent: Option<Rent>,
    now: UnixMs,
    entropy: Arc<Dice>,
) -> Made<(Agent, NewAgent)> {
    let root = roots()?.get(index).ok_or("too many agents")?;
    let owner = owner(entropy.clone())?;
    let signer = LocalSigner::from_secret(&root.secret, entropy.clone())?;
    let npub = signer.public_key();
    let policy = policy(npub, 1, limits.clone(), custody, rent.clone());
    let recipient = pool().recipient();
    let sealed_key = SealedKey {
        npub,
        owner: owner.public_key(),
        custody: policy.custody,
        pool_id: POOL.to_owned(),
        mnemonic: root.mnemonic.expose(),
        stretched: None,
        min_policy_version: 1,
        with_state: true,
    };
    let sealed_key = match custody {
        Custody::Bunker => {
            let key = BunkerKey {
                npub,
                owner: owner.public_key(),
                pool_id: POOL.to_owned(),
                signer: crate::signer::public_key(entropy.clone())?,
                relays: vec![OWN.into()],
                client_secret: crate::signer::client_secret(),
                mnemonic: root.mnemonic.expose(),
                min_policy_version: 1,
                with_state: true,
            };
            seal_bunker_key(&key, &recipient)?
        }
        Custody::Sealed | Custody::Attended | Custody::Threshold => seal_key(&sealed_key, &recipient)?,
    };
    let keys = AgentKeys::generate(npub, &*entropy);
    let wraps = keys.wraps(&signer, &[owner.public_key()], None, &*entropy).await?;
    let mut state = AgentState::new("calm".into(), vec!["answer".into()]);
    if index.is_multiple_of(2) {
        // Nearly full: its next ticks sum it up.
        (0..160).for_each(|n| state.remember(now, format!("memory {n}")));
    }
    let state = state.encode()?;
    let config = AgentConfig {
        heartbeat_secs,
        relays: vec![OTHER.into()],
        region: home.clone(),
        sender_rate_per_minute: 600,
        ticks_per_hour: 3_600,
        schedules,
        triggers: AgentConfig::default().triggers.into_iter().chain([Trigger::Webhook]).collect(),
        ..AgentConfig::default()
    };
    let name = format!("agent-{index}");
    let new = NewAgent {
        npub,
        account: ACCOUNT,
        name: name.clone(),
        config,
        sealed: Sealed {
            mnemonic_encrypted: "simulated".into(),
            sealed_key: Some(sealed_key),
            policy: Some(signed_policy(&owner, &policy, now)?),
            claim: None,
            inbox_recipient: Some(keys.inbox.recipient().to_string()),
        },
        wraps: wraps
            .iter()
            .map(|wrap| Wrap {
                key: wrap.key.as_str().to_owned(),
                number: wrap.number,
                recipient: wrap.recipient.to_string(),
                ciphertext: wrap.ciphertext.clone(),
            })
            .collect(),
        state: Some(keys.data.seal(Purpose::State, &state, &*entropy)?),
        hosting: Hosting::Paid,
        reason: None,
        created_at: now,
    };
    let wallet_words = root.wallet_words.clone();
    let secret = root.secret.clone();
    let agent =
        Agent { npub, name, wallet_words, data: keys.data, limits, custody, rent, secret, home, new: new.clone() };
    Ok((agent, new))
}

/// One that comes again and again, and one that comes once.
pub fn schedules(from: UnixMs) -> Vec<Schedule> {
    let of = |name: &str, when, overlap| Schedule {
        name: name.into(),
        when,
        overlap,
        catch_up: CatchUp::Once,
        window_secs: 86_400,
    };
    vec![
        of("often", When::Every { secs: 60, from_ms: from.plus_ms(8_000) }, Overlap::QueueOne),
        of("once", When::Once { at_ms: from.plus_ms(25_000) }, Overlap::Skip),
    ]
}

/// Those who write to agents. There are [`PEOPLE`] of them.
pub fn person(number: u64, entropy: Arc<dyn Entropy>) -> Made<LocalSigner> {
    Ok(LocalSigner::from_secret(&[0x41 + u8::try_from(number % PEOPLE)?; 32], entropy)?)
}

/// Limits that allow much, or so little that they are met.
pub fn limits(dice: &Dice, poor: bool) -> Limits {
    let sats = |low, high| Msat::sats(dice.between(low, high));
    if poor {
        let tick = sats(20, 80);
        let day = tick.saturating_add(sats(0, 150));
        let month = dice.chance(500).then(|| day.saturating_add(sats(0, 50)));
        return Limits { tick_msat: tick, day_msat: day, month_msat: month, ..Limits::default() };
    }
    let (payment, rate) = (dice.chance(300).then(|| sats(100, 300)), dice.chance(200).then(|| dice.between(3, 60)));
    Limits {
        tick_msat: sats(200, 1_000),
        day_msat: sats(5_000, 10_000),
        payment_msat: payment,
        payments_per_hour: rate.and_then(|rate| u32::try_from(rate).ok()),
        ..Limits::default()
    }
}
