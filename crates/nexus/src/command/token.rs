//! `nexus token`

use comfy_table::Cell;
use nexus_client::api::Call;
use nexus_client::{Api, Error};
use reqwest::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::{Global, Scope, TokenCommand};
use crate::output::{Output, field, moment};
use crate::session::Session;

const DAY_SECS: u32 = 86_400;

/// A token that was just made. The secret is never shown again.
pub struct NewToken {
    pub secret: Zeroizing<String>,
    pub answer: Value,
}

pub async fn run(command: TokenCommand, global: &Global, output: Output) -> anyhow::Result<()> {
    let session = Session::open(global, output)?;
    match command {
        TokenCommand::Create { scope, name, days } => {
            let api = session.as_owner(&session.owner_keys()?);
            let scopes: Vec<&str> = scope.into_iter().map(Scope::as_str).collect();
            let token = create(&api, &scopes, &name, days).await?;
            output.either(&token.answer, || format!("{}\n\nShown once: keep it now.", token.secret.as_str()));
        }
        TokenCommand::List => list(&session, &session.as_owner(&session.owner_keys()?)).await?,
        TokenCommand::Revoke { id } => {
            let api = session.as_owner(&session.owner_keys()?);
            api.call(Call::new(Method::DELETE, format!("/v1/tokens/{}", path_part(&id)?))).await?;
            output.either(&json!({ "revoked": id }), || format!("Token {id} works no more."));
        }
    }
    Ok(())
}

/// Makes a token with the owner key; a token cannot make another.
pub async fn create(api: &Api, scopes: &[&str], name: &str, days: u32) -> Result<NewToken, Error> {
    let body = json!({ "scopes": scopes, "name": name, "expires_in_secs": days * DAY_SECS });
    let answer = api.post("/v1/tokens", &body).await?;
    match answer["token"].as_str() {
        Some(secret) => Ok(NewToken { secret: Zeroizing::new(secret.to_owned()), answer }),
        None => Err(Error::Protocol { attempted: "making a token", why: "the answer holds none".to_owned() }),
    }
}

async fn list(session: &Session, api: &Api) -> Result<(), Error> {
    let answer = api.get("/v1/tokens").await?;
    if session.output.json {
        session.output.document(&answer);
        return Ok(());
    }
    let tokens = answer["tokens"].as_array().cloned().unwrap_or_default();
    let rows = tokens.iter().map(|token| {
        let scopes = token["scopes"].as_array().cloned().unwrap_or_default();
        let scopes: Vec<&str> = scopes.iter().filter_map(Value::as_str).collect();
        let at = |name: &str| Cell::new(token[name].as_i64().map_or("-".to_owned(), moment));
        let (id, name, scopes) = (field(token, "id"), field(token, "name"), scopes.join(","));
        [Cell::new(id), Cell::new(name), Cell::new(scopes), at("last_used_at_ms"), at("expires_at_ms")]
    });
    session.output.line(session.output.table(["ID", "NAME", "SCOPES", "LAST USED", "EXPIRES (UTC)"], rows));
    Ok(())
}

/// A text as one part of a path.
pub fn path_part(text: &str) -> Result<&str, Error> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fine {
        Ok(text)
    } else {
        Err(Error::Usage(format!("`{}` is no id\n  next: copy it from the list", crate::output::printable(text))))
    }
}
