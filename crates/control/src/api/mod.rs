//! The HTTP calls, one file for each noun, and the document that describes them.

mod account;
mod address;
mod agent;
mod approval;
mod ask;
mod create;
mod dispute;
pub mod event;
mod fleet;
mod health;
mod hook;
mod hosting;
mod inbox;
mod invoice;
mod moving;
mod policy;
mod pool;
mod refund;
mod renewal;
mod rollback;
mod run;
mod sealed;
pub(crate) mod status;
mod sub_account;
mod tick;
mod ticket;
mod token;
mod unlock;
mod wallet;
mod webhook;
mod withdrawal;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ControlParts;
use crate::app::{App, Shared};
use crate::gate;
use crate::problem::{Code, Problem, ProblemBody};
use crate::web::docs;

/// What a handler returns.
pub type Answer<T> = Result<T, Problem>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nexus",
        description = "Hosts sovereign AI agents: a Nostr identity and a Bitcoin wallet each, run around the clock.\n\n\
            Sign each request with the owner's Nostr key (NIP-98: `Authorization: Nostr …`, with `payload` when there is \
            a body), or send a token got with it (`Authorization: Bearer …`). Someone else's agent answers 404.\n\n\
            A changing call may carry `Idempotency-Key`: for 24 hours a retry is given the first answer. Amounts are \
            sats, or msat where the name says so; times are milliseconds since 1970 (UTC)."
    ),
    components(schemas(ProblemBody))
)]
struct Document;

/// The router, and the state that reconcilers share with it.
pub fn router(parts: ControlParts) -> (Router, Shared) {
    let mut document = merged().split_for_parts().1;
    describe_security(&mut document);
    let value = serde_json::to_value(&document).unwrap_or_default();
    let app: Shared = Arc::new(App::new(parts, value.to_string(), docs::render(&value)));
    let protected = protected().route_layer(from_fn_with_state(Arc::clone(&app), gate::authenticated));
    let (routes, _) = OpenApiRouter::new().merge(protected).merge(open()).split_for_parts();
    let router = routes
        .route("/docs", get(docs_page))
        .route("/docs/style.css", get(docs::style))
        .fallback(async || Problem::with(Code::NotFound, "no such path: see /docs"))
        .method_not_allowed_fallback(async || Problem::new(Code::MethodNotAllowed))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&app), gate::observe))
        .layer(from_fn(gate::common_headers))
        .with_state(Arc::clone(&app));
    (router, app)
}

fn merged() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Document::openapi()).merge(protected()).merge(open())
}

/// Calls that need an account: whatever is registered here passes [`gate::authenticated`].
fn protected() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create::create, agent::list))
        .routes(routes!(agent::read, agent::change, agent::delete))
        .routes(routes!(address::put, address::remove))
        .routes(routes!(run::start))
        .routes(routes!(run::stop))
        .routes(routes!(tick::request, tick::list))
        .routes(routes!(tick::read))
        .routes(routes!(event::read))
        .routes(routes!(ticket::create))
        .routes(routes!(invoice::create))
        .routes(routes!(unlock::offer, unlock::deliver))
        .routes(routes!(wallet::connect))
        .routes(routes!(rollback::read, rollback::accept))
        .routes(routes!(withdrawal::create))
        .routes(routes!(approval::list))
        .routes(routes!(approval::read, approval::answer))
        .routes(routes!(dispute::list))
        .routes(routes!(dispute::read, dispute::end))
        .routes(routes!(policy::read, policy::replace))
        .routes(routes!(moving::import))
        .routes(routes!(moving::export))
        .routes(routes!(sealed::wraps))
        .routes(routes!(sealed::replace_key))
        .routes(routes!(inbox::read))
        .routes(routes!(hook::create, hook::list))
        .routes(routes!(hook::remove))
        .routes(routes!(account::read))
        .routes(routes!(account::audit))
        .routes(routes!(webhook::create, webhook::list))
        .routes(routes!(webhook::remove))
        .routes(routes!(webhook::deliveries))
        .routes(routes!(webhook::retry))
        .routes(routes!(hosting::status))
        .routes(routes!(hosting::history))
        .routes(routes!(refund::create, refund::list))
        .routes(routes!(renewal::status, renewal::put, renewal::remove))
        .routes(routes!(hosting::invoice, hosting::invoices))
        .routes(routes!(hosting::read_invoice))
        .routes(routes!(hosting::qr))
        .routes(routes!(fleet::read))
        .routes(routes!(fleet::parked))
        .routes(routes!(token::create, token::list))
        .routes(routes!(token::revoke))
}

/// Calls that anyone may make.
fn open() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(pool::read))
        .routes(routes!(moving::claim, moving::deliver))
        .routes(routes!(hook::receive))
        .routes(routes!(address::pay_request))
        .routes(routes!(address::pay))
        .routes(routes!(address::names))
        .routes(routes!(hosting::plans))
        .routes(routes!(hosting::top_up))
        .routes(routes!(openapi))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

fn describe_security(document: &mut utoipa::openapi::OpenApi) {
    let components = document.components.get_or_insert_default();
    let nip98 = ApiKeyValue::with_description(
        "Authorization",
        "NIP-98: `Nostr ` and the base64 of an event of kind 27235, single use, good for 60 seconds",
    );
    let token = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of POST /v1/tokens, with the scope named at the call"))
        .build();
    components.add_security_scheme("nip98", SecurityScheme::ApiKey(ApiKey::Header(nip98)));
    components.add_security_scheme("token", SecurityScheme::Http(token));
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "about", responses((status = 200, description = "OpenAPI 3.1")))]
async fn openapi(State(app): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}

async fn docs_page(State(app): State<Shared>) -> Response {
    docs::page(&app.docs)
}

/// A handler that panicked told the log where; the caller is told nothing but that.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    Problem::internal("handler", &"panicked").into_response()
}

/// 201 with the address of what was made.
fn created<T: serde::Serialize>(location: String, body: T) -> Response {
    (axum::http::StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response()
}
