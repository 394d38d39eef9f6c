//! Actions that wait for their owner: what is asked, the owner's answer to exactly that, and what follows.
//!
//! A tick commits with the action parked; nothing else is blocked by it. The answer is signed by the owner over the
//! digest of [`Asked`], so that no database can put another action in its place. Answers that come late or twice change
//! nothing. An approved action is judged once more when it is carried out: an approval raises no limit.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionKind};
use crate::id::{Hash32, Npub, ParseIdError, TickId};
use crate::money::Msat;
use crate::policy::{Ground, Policy, Verdict, judge};
use crate::status::axis;
use crate::time::UnixMs;

/// How long an action waits for an answer, and an approved one for its execution, in milliseconds: 7 days.
pub const WAIT_MS: i64 = 7 * 86_400_000;
/// Version of what the digest is made of.
const DIGEST_PREFIX: &[u8] = b"nexus-action:1\n";
/// Actions of one agent that wait at a time, and the bytes that they may take of its state.
pub const MAX_WAITING: usize = 32;
pub const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Which action of which tick. Shown as `<tick id>:<index>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApprovalId {
    pub tick_id: TickId,
    /// The action's place in the tick's answer.
    pub index: u32,
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.tick_id, self.index)
    }
}

impl FromStr for ApprovalId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdError::new("approval id", "<tick id>:<index>");
        let (tick_id, index) = text.split_once(':').ok_or_else(error)?;
        let id = Self { tick_id: tick_id.parse()?, index: index.parse().map_err(|_| error())? };
        // One text for one id: it is compared and signed as text.
        if id.to_string() == text { Ok(id) } else { Err(error()) }
    }
}

impl Serialize for ApprovalId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApprovalId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The message that an action answers, since its label means nothing outside its tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    pub event_id: Hash32,
    pub author: Npub,
}

/// What an owner is asked: one action, with everything that says what it will do. Private: it is kept under the data
/// key, and shown under the view key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub agent: Npub,
    pub tick_id: TickId,
    pub index: u32,
    pub action: Action,
    pub answers: Option<Answers>,
    /// Everyone whose words the model had read is known to the policy.
    pub trusted: bool,
}

impl Asked {
    pub const fn id(&self) -> ApprovalId {
        ApprovalId { tick_id: self.tick_id, index: self.index }
    }

    /// The digest that the owner signs.
    pub fn digest(&self) -> Hash32 {
        let json = serde_json::to_vec(self).unwrap_or_default();
        Hash32::sha256(&[DIGEST_PREFIX, &json].concat())
    }

    /// Whether the policy of now lets an approved action be carried out: everything it asks for is answered, everything
    /// it refuses stays refused. Budgets are reserved by whoever carries it out, as for any other action.
    pub fn still_allowed(&self, policy: &Policy, owner: &Npub) -> Result<(), &'static str> {
        let whom = self.action.recipient().or(self.answers.map(|answers| answers.author));
        if whom.is_some_and(|whom| whom != *owner && policy.blocked.contains(&whom)) {
            return Err("its recipient is blocked");
        }
        let ground = Ground { answers_sender: self.answers.is_some(), trusted: self.trusted };
        match judge(policy, owner, &self.action, ground) {
            Verdict::Allow | Verdict::Ask(_) => Ok(()),
            Verdict::Refuse(why) => Err(why),
        }
    }
}

axis!(
    /// An owner's answer.
    Answer {
        Approved = "approved",
        Denied = "denied",
    }
);

/// An answer whose signature was checked against the owner's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The id of the signed event.
    pub event_id: Hash32,
    /// What it was signed over.
    pub digest: Hash32,
    pub answer: Answer,
}

axis!(
    /// How the execution of an approved action ended.
    Ended {
        Done = "done",
        Refused = "refused",
        Failed = "failed",
        /// A payment left, and it is not known whether it arrived: recovery goes on, and nothing is done again.
        Unresolved = "unresolved",
    }
);

/// How far a parked action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Requested,
    /// To be carried out by the agent's next turn.
    Approved {
        decision: Hash32,
        at: UnixMs,
    },
    Denied {
        decision: Hash32,
        at: UnixMs,
    },
    /// No answer in time, or no execution in time after an approval.
    Expired {
        at: UnixMs,
    },
    Executed {
        decision: Hash32,
        ended: Ended,
        at: UnixMs,
    },
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved { .. } => "approved",
            Self::Denied { .. } => "denied",
            Self::Expired { .. } => "expired",
            Self::Executed { .. } => "executed",
        }
    }

    /// Whether nothing will follow any more.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Requested | Self::Approved { .. } => false,
            Self::Denied { .. } | Self::Expired { .. } | Self::Executed { .. } => true,
        }
    }

    const fn decision(self) -> Option<Hash32> {
        match self {
            Self::Requested | Self::Expired { .. } => None,
            Self::Approved { decision, .. } | Self::Denied { decision, .. } | Self::Executed { decision, .. } => {
                Some(decision)
            }
        }
    }
}

/// A parked action as everyone who may see the agent sees it: no text, no recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    pub id: ApprovalId,
    pub kind: ActionKind,
    pub amount: Option<Msat>,
    pub digest: Hash32,
    pub requested_at: UnixMs,
    /// Without an answer before this, the answer is no.
    pub expires_at: UnixMs,
    pub state: State,
}

/// The answered message itself, as far as an answer to it needs it: kept until the owner has spoken.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The kind of its event, which decides the form of an answer.
    pub kind: u16,
    /// The NIP-01 JSON of a public one, whose thread an answer continues.
    pub event: Option<String>,
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answered(kind {})", self.kind)
    }
}

/// A parked action in the agent's encrypted state: what is obeyed, whatever a database says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub asked: Asked,
    pub answered: Option<Answered>,
    pub requested_at: UnixMs,
    /// The id of the published request (39212).
    pub request: Option<Hash32>,
    pub state: State,
}

impl Waiting {
    pub fn parked(&self) -> Parked {
        Parked { state: self.state, ..Parked::new(&self.asked, self.requested_at) }
    }

    pub const fn is_approved(&self) -> bool {
        matches!(self.state, State::Approved { .. })
    }
}

/// Whether so much may wait.
pub fn may_wait(waiting: &[Waiting]) -> bool {
    let bytes = || waiting.iter().map(|one| serde_json::to_vec(one).map_or(usize::MAX, |json| json.len()));
    waiting.len() <= MAX_WAITING && bytes().fold(0, usize::saturating_add) <= MAX_WAITING_BYTES
}

/// Why an answer changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    #[error("the answer is for another action: look at it again and sign its digest {expected}")]
    OtherAction { expected: Hash32 },
    #[error("the answer came after the action had expired: nothing was done")]
    Late,
    #[error("the action was already answered, it is {}: nothing changed", .0.as_str())]
    Already(State),
}

/// Why an action is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotExecuted {
    #[error("the action is {}, not approved", .0.as_str())]
    NotApproved(State),
    #[error("the action was approved more than 7 days ago and could not be carried out since")]
    Lapsed,
    #[error("the digest of the stored action is not the one that was approved")]
    OtherAction,
}

impl Parked {
    pub fn new(asked: &Asked, now: UnixMs) -> Self {
        Self {
            id: asked.id(),
            kind: asked.action.kind(),
            amount: asked.action.amount(),
            digest: asked.digest(),
            requested_at: now,
            expires_at: now.plus_ms(WAIT_MS),
            state: State::Requested,
        }
    }

    /// What an answer makes of it. None: this very answer was taken before.
    ///
    /// `now` is when the answer is looked at, not when it says it was signed.
    pub fn decide(&self, decision: &Decision, now: UnixMs) -> Result<Option<State>, NotDecided> {
        if decision.digest != self.digest {
            return Err(NotDecided::OtherAction { expected: self.digest });
        }
        if self.state.decision() == Some(decision.event_id) {
            return Ok(None);
        }
        match (self.state, decision.answer) {
            (State::Requested, _) if now >= self.expires_at => Err(NotDecided::Late),
            (State::Expired { .. }, _) => Err(NotDecided::Late),
            (State::Requested, Answer::Approved) => Ok(Some(State::Approved { decision: decision.event_id, at: now })),
            (State::Requested, Answer::Denied) => Ok(Some(State::Denied { decision: decision.event_id, at: now })),
            (State::Approved { .. } | State::Denied { .. } | State::Executed { .. }, _) => {
                Err(NotDecided::Already(self.state))
            }
        }
    }

    /// Whether the stored action may be carried out now.
    pub fn may_begin(&self, stored: &Asked, now: UnixMs) -> Result<(), NotExecuted> {
        match self.state {
            State::Approved { at, .. } if now.0.saturating_sub(at.0) >= WAIT_MS => Err(NotExecuted::Lapsed),
            State::Approved { .. } if stored.id() != self.id || stored.digest() != self.digest => {
                Err(NotExecuted::OtherAction)
            }
            State::Approved { .. } => Ok(()),
            State::Requested | State::Denied { .. } | State::Expired { .. } | State::Executed { .. } => {
                Err(NotExecuted::NotApproved(self.state))
            }
        }
    }

    /// The state after its execution. It happens once: from `Approved` only.
    pub fn executed(&self, ended: Ended, now: UnixMs) -> Result<State, NotExecuted> {
        match self.state {
            State::Approved { decision, .. } => Ok(State::Executed { decision, ended, at: now }),
            State::Requested | State::Denied { .. } | State::Expired { .. } | State::Executed { .. } => {
                Err(NotExecuted::NotApproved(self.state))
            }
        }
    }

    /// The state that time alone makes of it. `begun`: its execution is under way, which time does not end.
    pub fn expire(&self, begun: bool, now: UnixMs) -> Option<State> {
        let over = match self.state {
            State::Requested => now >= self.expires_at,
            State::Approved { at, .. } => !begun && now.0.saturating_sub(at.0) >= WAIT_MS,
            State::Denied { .. } | State::Expired { .. } | State::Executed { .. } => false,
        };
        over.then_some(State::Expired { at: now })
    }

    /// When to look at it again, if nobody answers.
    pub const fn look_again_at(&self) -> Option<UnixMs> {
        match self.state {
            State::Requested => Some(self.expires_at),
            State::Approved { at, .. } => Some(at.plus_ms(WAIT_MS)),
            State::Denied { .. } | State::Expired { .. } | State::Executed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Autonomy;
    use proptest::prelude::*;

    const OWNER: Npub = Npub::from_bytes([2; 32]);
    const STRANGER: Npub = Npub::from_bytes([3; 32]);

    fn asked(action: Action) -> Asked {
        let (agent, tick_id) = (Npub::from_bytes([1; 32]), TickId::new(UnixMs(5), [0xab; 10]));
        Asked { agent, tick_id, index: 2, action, answers: None, trusted: true }
    }

    fn zap(sats: u64) -> Asked {
        asked(Action::Zap {
            to: STRANGER,
            event: None,
            amount: Msat::from_sats(sats).unwrap(),
            comment: "thanks".into(),
        })
    }

    fn says(parked: &Parked, id: u8, answer: Answer) -> Decision {
        Decision { event_id: Hash32::from_bytes([id; 32]), digest: parked.digest, answer }
    }

    #[test]
    fn everything_that_matters_is_in_the_digest() {
        let one = zap(600);
        let others = [
            zap(601),
            Asked { agent: OWNER, ..one.clone() },
            Asked { index: 3, ..one.clone() },
            Asked { tick_id: TickId::new(UnixMs(6), [0xab; 10]), ..one.clone() },
            Asked { answers: Some(Answers { event_id: Hash32::ZERO, author: STRANGER }), ..one.clone() },
            Asked { trusted: false, ..one.clone() },
            asked(Action::Zap { to: OWNER, event: None, amount: Msat::sats(600), comment: "thanks".into() }),
            asked(Action::Zap { to: STRANGER, event: None, amount: Msat::sats(600), comment: "thanks!".into() }),
            asked(Action::Dm { to: STRANGER, text: "thanks".into() }),
        ];
        for other in &others {
            assert_ne!(other.digest(), one.digest(), "{other:?}");
        }
        // It is kept as JSON until it is carried out, and must say the same then.
        let again: Asked = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
        assert_eq!(again.digest(), one.digest());
        // What an owner's client of another version has to come to.
        let text = format!(
            "nexus-action:1\n{{\"agent\":\"{}\",\"tick_id\":\"{}\",\"index\":2,\"action\":{{\"type\":\"zap\",\"to\":\"{}\",\"amount_msat\":600000,\"comment\":\"thanks\"}},\"answers\":null,\"trusted\":true}}",
            one.agent, one.tick_id, STRANGER,
        );
        assert_eq!(one.digest(), Hash32::sha256(text.as_bytes()));
    }

    #[test]
    fn ids_have_one_text() {
        let id = zap(1).id();
        assert_eq!(id.to_string().parse::<ApprovalId>().unwrap(), id);
        let text = id.to_string();
        for bad in ["", ":", "x:1", &text.to_uppercase(), &format!("{text}0x"), &text.replace(":2", ":02"), &text[..36]]
        {
            assert!(bad.parse::<ApprovalId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn late_and_second_answers_change_nothing() {
        let mut parked = Parked::new(&zap(600), UnixMs(0));
        let (yes, no) = (says(&parked, 1, Answer::Approved), says(&parked, 2, Answer::Denied));
        assert_eq!(parked.decide(&yes, UnixMs(WAIT_MS)), Err(NotDecided::Late));
        let approved = parked.decide(&yes, UnixMs(WAIT_MS - 1)).unwrap().unwrap();
        parked.state = approved;
        assert_eq!(parked.decide(&yes, UnixMs(WAIT_MS * 9)), Ok(None), "the same click again");
        assert_eq!(parked.decide(&no, UnixMs(1)), Err(NotDecided::Already(approved)));
        let other = Decision { digest: Hash32::ZERO, ..yes };
        assert!(matches!(parked.decide(&other, UnixMs(1)), Err(NotDecided::OtherAction { .. })));
        parked.may_begin(&zap(600), UnixMs(WAIT_MS)).unwrap();
        assert_eq!(parked.may_begin(&zap(601), UnixMs(WAIT_MS)), Err(NotExecuted::OtherAction));
        assert_eq!(parked.may_begin(&zap(600), UnixMs(3 * WAIT_MS)), Err(NotExecuted::Lapsed));
        assert_eq!(parked.expire(true, UnixMs(3 * WAIT_MS)), None, "what has begun is not cut off");
        parked.state = parked.executed(Ended::Done, UnixMs(WAIT_MS)).unwrap();
        assert!(parked.executed(Ended::Done, UnixMs(WAIT_MS)).is_err());
        assert_eq!(parked.decide(&yes, UnixMs(WAIT_MS)), Ok(None));

        let mut silent = Parked::new(&zap(600), UnixMs(0));
        assert_eq!(silent.look_again_at(), Some(UnixMs(WAIT_MS)));
        silent.state = silent.expire(false, UnixMs(WAIT_MS)).unwrap();
        assert_eq!(silent.decide(&yes, UnixMs(1)), Err(NotDecided::Late), "a clock that goes back revives nothing");
        assert_eq!(silent.look_again_at(), None);
    }

    #[test]
    fn an_approval_raises_no_limit() {
        let mut policy = Policy::default_for(Npub::from_bytes([1; 32]));
        for autonomy in [Autonomy::Supervised, Autonomy::Bounded, Autonomy::Autonomous] {
            policy.autonomy = autonomy;
            zap(1_000).still_allowed(&policy, &OWNER).unwrap();
            assert!(zap(1_001).still_allowed(&policy, &OWNER).is_err(), "{autonomy:?}");
            asked(Action::Dm { to: STRANGER, text: "hi".into() }).still_allowed(&policy, &OWNER).unwrap();
        }
        policy.blocked.insert(STRANGER);
        assert!(zap(1).still_allowed(&policy, &OWNER).is_err());
        let answers = Some(Answers { event_id: Hash32::ZERO, author: STRANGER });
        let reply = Asked { answers, ..asked(Action::Reply { to: "m1".into(), text: "hi".into() }) };
        assert!(reply.still_allowed(&policy, &OWNER).is_err());
    }

    proptest! {
        /// Whatever happens in whatever order: one decision at most, over the right digest and in time; what is final
        /// stays; execution follows an approval and happens once.
        #[test]
        fn one_answer_counts(steps in prop::collection::vec((0_usize..5, 0_u8..3, any::<bool>(), 0_i64..4 * 86_400_000), 1..30)) {
            let stored = zap(600);
            let mut parked = Parked::new(&stored, UnixMs(0));
            let (mut now, mut executions, mut answered) = (UnixMs(0), 0, None);
            for (step, id, flag, wait) in steps {
                now = now.plus_ms(wait);
                let before = parked;
                match step {
                    0 | 1 => {
                        let answer = if flag { Answer::Approved } else { Answer::Denied };
                        let mut decision = says(&parked, id, answer);
                        if step == 1 {
                            decision.digest = Hash32::from_bytes([id; 32]);
                        }
                        if let Ok(Some(state)) = parked.decide(&decision, now) {
                            prop_assert!(step == 0 && answered.is_none() && now < parked.expires_at);
                            answered = Some(answer);
                            parked.state = state;
                        }
                    }
                    2 | 3 => {
                        if parked.may_begin(&stored, now).is_ok() {
                            prop_assert_eq!(answered, Some(Answer::Approved));
                            executions += 1;
                            parked.state = parked.executed(Ended::Done, now).unwrap();
                        }
                    }
                    _ => {
                        if let Some(state) = parked.expire(flag, now) {
                            parked.state = state;
                        }
                    }
                }
                prop_assert!(!before.state.is_final() || parked.state == before.state);
            }
            prop_assert!(executions <= 1);
            prop_assert!(executions == 0 || answered == Some(Answer::Approved));
        }
    }
}
