//! Fuzz entries: any bytes are read or refused, without a panic.

use nexus_core::{Hash32, Npub};
use nostr::event::{Event, Kind};

use crate::{
    approval, delegation, event, gift_wrap, goals, handler, job, kinds, note, profile, schedule, series, session,
    state, tick, trajectory, trigger, zap,
};

fn decode(bytes: &[u8]) -> Option<Event> {
    event::decode_event(bytes, event::MAX_EVENT).ok()
}

/// An event: what was read reads the same again.
pub fn fuzz_event(bytes: &[u8]) {
    let Some(event) = decode(bytes) else { return };
    let _ = event::verify(&event);
    let again = event::decode_event(event::to_json(&event).as_bytes(), usize::MAX);
    assert!(again.is_ok_and(|again| again == event));
}

/// What wakes an agent.
pub fn fuzz_trigger(bytes: &[u8]) {
    let Some(event) = decode(bytes) else { return };
    let me = event::mentioned(&event, 1).pop().unwrap_or(Npub::from_bytes([1; 32]));
    let _ = trigger::read(&event, &me);
    let invoice = zap::ZapInvoice { amount: None, description_hash: None };
    let _ = zap::validate_receipt(&event, &me, &event::npub(&event.pubkey), Some("lnurl1"), &invoice);
    let _ = zap::check_request(&event.content, &me, nexus_core::Msat::ZERO);
    let _ = note::thread_root(&event);
    let _ = gift_wrap::parse_rumor(&event, &event.content);
    let _ = gift_wrap::parse_seal(&event.content);
    let _ = profile::read_relay_list(&event);
}

/// NIP-SA, in both series.
pub fn fuzz_agent(bytes: &[u8]) {
    let Some(mut event) = decode(bytes) else { return };
    let ours = [kinds::APPROVAL_REQUEST, kinds::APPROVAL, kinds::DELEGATION];
    let both = [
        kinds::PROFILE,
        kinds::STATE,
        kinds::SCHEDULE,
        kinds::GOALS,
        kinds::TICK_REQUEST,
        kinds::TICK_RESULT,
        kinds::SESSION,
        kinds::TRAJECTORY,
    ];
    for kind in both.iter().filter_map(|kind| series::old(*kind)).chain(both).chain(ours) {
        event.kind = Kind::from_u16(kind);
        let _ = (profile::read_agent_profile(&event), goals::read_goals(&event), session::read_session(&event));
        let _ = (schedule::read_schedule(&event), schedule::read_triggers(&event), state::read_sealed_state(&event));
        let _ = (tick::read_tick_request(&event), tick::read_tick_result(&event), state::read_anchor(&event));
        let _ = (approval::read_request(&event), approval::read_answer(&event), delegation::read_delegation(&event));
        if let Ok(step) = trajectory::read_step(&event) {
            let _ = trajectory::hash_steps(&step.author.clone(), &[step.clone(), step]);
        }
    }
}

/// Requests, answers and offers of computation, clear and opened.
pub fn fuzz_job(bytes: &[u8]) {
    let Some(mut event) = decode(bytes) else { return };
    let (provider, request) = (event::npub(&event.pubkey), any_reference(&event));
    for kind in
        [crate::kinds::JOB_TEXT, crate::kinds::JOB_TEXT_RESULT, crate::kinds::JOB_FEEDBACK, crate::kinds::HANDLER]
    {
        event.kind = Kind::from_u16(kind);
        let _ = job::read_request(&event);
        let _ = job::open_request(&event, &event.content);
        let _ = job::read_update(&event, request, &provider);
        let _ = job::open_update(&event, request, &provider, &event.content);
        let _ = handler::read_offer(&event);
    }
}

fn any_reference(event: &Event) -> Hash32 {
    event::values(event, "e").find_map(|hex| hex.parse().ok()).unwrap_or(Hash32::ZERO)
}
