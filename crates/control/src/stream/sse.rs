//! Events as server-sent events (`text/event-stream`).

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};

use super::{Feed, KEEP_ALIVE};
use crate::api::event::EventView;

/// `id` is the event's number, so that a browser resumes by itself; `event` its type; `data` its JSON.
pub fn sse(feed: Feed) -> Response {
    let events = pages(feed).flat_map(|page| futures::stream::iter(page.into_iter().map(Ok::<_, Infallible>)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn pages(feed: Feed) -> impl Stream<Item = Vec<Event>> {
    futures::stream::unfold(Some(feed), |feed| async {
        let mut feed = feed?;
        match feed.next().await {
            Ok(events) => Some((events.iter().map(frame).collect(), Some(feed))),
            Err(over) => Some((vec![Event::default().event("end").data(over.text())], None)),
        }
    })
}

fn frame(view: &EventView) -> Event {
    let text = serde_json::to_string(view).unwrap_or_default();
    Event::default().id(view.event.seq.to_string()).event(view.event.body.kind()).data(text)
}
