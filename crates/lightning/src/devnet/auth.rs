//! Checks that a request was signed by the account it speaks for, now, for this server, and once.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::AUTHORIZATION;
use nexus_core::UnixMs;
use serde::de::DeserializeOwned;

use super::api::{Code, MAX_AGE_MS, MAX_AHEAD_MS, Problem, digest};
use super::server::{Answer, Net};
use super::{Party, account};

/// Nonces remembered at once: more than a machine can sign in the time that a request is good for.
const MAX_NONCES: usize = 500_000;

/// A request whose signature was checked, and what it asks.
pub(super) struct Signed<T> {
    pub(super) party: Party,
    pub(super) ask: T,
}

type Seen = (Party, u128);

#[derive(Default)]
struct Nonces {
    seen: HashSet<Seen>,
    until: VecDeque<(UnixMs, Seen)>,
}

/// The requests seen lately.
#[derive(Default)]
pub(super) struct Replay(Mutex<Nonces>);

impl Replay {
    fn first_time(&self, seen: Seen, now: UnixMs) -> Result<(), Problem> {
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Nonces { seen: set, until: order } = &mut *guard;
        while let Some((until, old)) = order.front()
            && *until < now
        {
            set.remove(old);
            order.pop_front();
        }
        if set.len() >= MAX_NONCES {
            return Err(Problem::new(Code::TooManyRequests, "too many requests at once"));
        }
        if !set.insert(seen) {
            return Err(Problem::new(Code::Replayed, "this request was made before"));
        }
        order.push_back((now.plus_ms(MAX_AGE_MS + MAX_AHEAD_MS), seen));
        Ok(())
    }
}

struct Header {
    party: Party,
    at: UnixMs,
    nonce: String,
    signature: [u8; 64],
}

fn parse(text: &str) -> Option<Header> {
    let mut parts = text.strip_prefix("Devnet ")?.split(' ');
    let party = parts.next()?.parse().ok()?;
    let at = UnixMs(parts.next()?.parse().ok()?);
    let nonce = parts.next().filter(|nonce| nonce.len() == 32)?.to_owned();
    let mut signature = [0; 64];
    hex::decode_to_slice(parts.next()?, &mut signature).ok()?;
    parts.next().is_none().then_some(Header { party, at, nonce, signature })
}

fn check(net: &Net, path: &str, header: &Header, body: &[u8]) -> Result<(), Problem> {
    let unauthorized = || Problem::new(Code::Unauthorized, "the request is not signed by the account it names");
    let now = net.now();
    let age_ms = now.0.saturating_sub(header.at.0);
    if !(-MAX_AHEAD_MS..=MAX_AGE_MS).contains(&age_ms) {
        return Err(Problem::new(Code::Replayed, "the request was signed too long ago"));
    }
    let digest = digest(net.boot(), path, header.at, &header.nonce, body);
    if !account::verify(header.party, digest, &header.signature) {
        return Err(unauthorized());
    }
    let nonce = u128::from_str_radix(&header.nonce, 16).map_err(|_| unauthorized())?;
    net.replay().first_time((header.party, nonce), now)
}

impl<T: DeserializeOwned> FromRequest<Net> for Signed<T> {
    type Rejection = Answer;

    async fn from_request(request: Request, net: &Net) -> Result<Self, Answer> {
        let path = request.uri().path().to_owned();
        let text = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let header = text.and_then(parse).ok_or_else(|| Problem::new(Code::Unauthorized, "no signature"))?;
        if let Some(boot) = request.headers().get("nexus-devnet-boot")
            && boot.as_bytes() != net.boot().as_bytes()
        {
            return Err(Problem::new(Code::StaleBoot, "signed for an earlier run of this server").into());
        }
        let body = Bytes::from_request(request, net)
            .await
            .map_err(|_| Problem::new(Code::BadRequest, "the body cannot be read or is too long"))?;
        check(net, &path, &header, &body)?;
        let ask = serde_json::from_slice(&body)
            .map_err(|error| Problem::new(Code::BadRequest, format!("the body is not what {path} takes: {error}")))?;
        Ok(Self { party: header.party, ask })
    }
}
