//! The API's human page: the OpenAPI document as plain HTML, without script and without anything from elsewhere.

use std::fmt::Write;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::problem::Code;

/// Allows our own stylesheet, nothing else.
const CSP: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("docs.css");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// Schemas nest no deeper than this on the page.
const MAX_DEPTH: usize = 6;

/// Answers with a page made by [`render`].
pub fn page(html: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, html.to_owned()).into_response()
}

pub async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")], STYLE)
        .into_response()
}

/// The page for an OpenAPI document.
pub fn render(document: &Value) -> String {
    let mut out = String::from(concat!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">",
        "<meta name=\"viewport\" content=\"width=device-width\"><title>Nexus API</title>",
        "<link rel=\"stylesheet\" href=\"/docs/style.css\"></head><body><main>",
    ));
    let info = &document["info"];
    let _ = write!(out, "<h1>Nexus API <small>{}</small></h1>", text(&info["version"]));
    paragraphs(&mut out, info["description"].as_str().unwrap_or_default());
    out.push_str("<p>For machines: <a href=\"/v1/openapi.json\">/v1/openapi.json</a></p>");
    contents(&mut out, document);
    for (path, method, operation) in operations(document) {
        operation_section(&mut out, document, path, method, operation);
    }
    errors(&mut out);
    out.push_str("</main></body></html>");
    out
}

fn operations(document: &Value) -> Vec<(&str, &'static str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            METHODS.into_iter().filter_map(move |method| item.get(method).map(|op| (path.as_str(), method, op)))
        })
        .collect()
}

fn anchor(path: &str, method: &str) -> String {
    let path: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{method}{path}")
}

fn contents(out: &mut String, document: &Value) {
    out.push_str("<nav><ul>");
    for (path, method, operation) in operations(document) {
        let _ = write!(
            out,
            "<li><a href=\"#{}\"><b>{}</b> <code>{}</code></a> {}</li>",
            anchor(path, method),
            method.to_uppercase(),
            escape(path),
            text(&operation["summary"]),
        );
    }
    out.push_str("</ul></nav>");
}

fn operation_section(out: &mut String, document: &Value, path: &str, method: &str, operation: &Value) {
    let _ = write!(
        out,
        "<section id=\"{}\"><h2><b>{}</b> <code>{}</code></h2><p>{}</p>",
        anchor(path, method),
        method.to_uppercase(),
        escape(path),
        text(&operation["summary"]),
    );
    paragraphs(out, operation["description"].as_str().unwrap_or_default());
    let open = operation["security"].as_array().is_none_or(Vec::is_empty);
    out.push_str(if open { "<p class=\"note\">Open to everyone.</p>" } else { "" });
    parameters(out, operation);
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        out.push_str("<h3>Body</h3>");
        for media in content.values() {
            schema(out, document, &media["schema"], 0);
        }
    }
    out.push_str("<h3>Answers</h3><dl>");
    for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(out, "<dt>{}</dt><dd>{}", escape(status), text(&answer["description"]));
        let is_problem = answer["content"].get("application/problem+json").is_some();
        for media in answer["content"].as_object().into_iter().flatten().map(|(_, media)| media) {
            if !is_problem {
                schema(out, document, &media["schema"], 0);
            }
        }
        out.push_str("</dd>");
    }
    out.push_str("</dl></section>");
}

fn parameters(out: &mut String, operation: &Value) {
    let Some(all) = operation["parameters"].as_array().filter(|all| !all.is_empty()) else { return };
    out.push_str("<h3>Parameters</h3><dl>");
    for parameter in all {
        let needed = if parameter["required"] == true { "" } else { ", optional" };
        let _ = write!(
            out,
            "<dt><code>{}</code> <small>{}{needed}</small></dt><dd>{}</dd>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            text(&parameter["description"]),
        );
    }
    out.push_str("</dl>");
}

fn schema(out: &mut String, document: &Value, value: &Value, depth: usize) {
    let value = resolve(document, value);
    if depth > MAX_DEPTH {
        out.push('…');
        return;
    }
    if let Some(fields) = value["properties"].as_object() {
        let required = value["required"].as_array();
        out.push_str("<dl>");
        for (name, field) in fields {
            let needed = required.is_some_and(|all| all.iter().any(|one| one == name));
            let optional = if needed { "" } else { ", optional" };
            let field_type = type_of(document, field);
            let _ = write!(out, "<dt><code>{}</code> <small>{field_type}{optional}</small></dt><dd>", escape(name));
            let _ = write!(out, "{}", text(&field["description"]));
            schema(out, document, field, depth + 1);
            out.push_str("</dd>");
        }
        out.push_str("</dl>");
    } else if value["items"].is_object() {
        schema(out, document, &value["items"], depth + 1);
    } else if let Some(choices) = value["oneOf"].as_array().or(value["allOf"].as_array()) {
        for choice in choices.iter().filter(|choice| choice["type"] != "null") {
            schema(out, document, choice, depth + 1);
        }
    } else if let Some(names) = value["enum"].as_array() {
        let names: Vec<String> = names.iter().map(|name| format!("<code>{}</code>", text(name))).collect();
        let _ = write!(out, " {}", names.join(" "));
    }
}

fn type_of(document: &Value, field: &Value) -> String {
    let resolved = resolve(document, field);
    match &resolved["type"] {
        Value::String(name) if name == "array" => format!("list of {}", type_of(document, &resolved["items"])),
        Value::String(name) => escape(name),
        Value::Array(names) => names.iter().map(text).filter(|name| name != "null").collect::<Vec<_>>().join(" or "),
        _ => "object".to_owned(),
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(name) = value["$ref"].as_str().and_then(|path| path.strip_prefix("#/components/schemas/")) else {
        return value;
    };
    &document["components"]["schemas"][name]
}

fn errors(out: &mut String) {
    out.push_str("<section><h2>Errors</h2><p><code>application/problem+json</code>, with one of these codes.</p><dl>");
    for code in Code::ALL {
        let _ = write!(
            out,
            "<dt id=\"{0}\"><code>{0}</code> <small>{1}</small></dt><dd>{2}</dd>",
            code.as_str(),
            code.status().as_u16(),
            escape(code.title()),
        );
    }
    out.push_str("</dl></section>");
}

fn paragraphs(out: &mut String, source: &str) {
    for paragraph in source.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        let _ = write!(out, "<p>{}</p>", words(paragraph));
    }
}

fn text(value: &Value) -> String {
    value.as_str().map(words).unwrap_or_default()
}

/// Escaped, with what stands between backticks as code.
fn words(source: &str) -> String {
    let parts = source.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) }).collect()
}

fn escape(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for c in source.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_comes_from_the_document_is_escaped_and_self_reference_ends() {
        let document = json!({
            "info": {"version": "1", "description": "<script>"},
            "paths": {"/v1/<x>": {"get": {
                "summary": "a & b, `<c>`",
                "responses": {"200": {"description": "ok", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}}}
            }}},
            "components": {"schemas": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}}}
        });
        let html = render(&document);
        assert!(!html.contains("<script"));
        assert!(html.contains("a &amp; b, <code>&lt;c&gt;</code>") && html.contains("/v1/&lt;x&gt;"));
        assert!(html.contains("Open to everyone"));
        assert!(html.contains("id=\"rate_limited\""));
    }
}
