//! Answers on standard output: tables for people, JSON for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use nexus_core::Msat;
use serde::Serialize;
use serde_json::Value;

/// How this process answers.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
    pub colour: bool,
    pub terminal: bool,
}

impl Output {
    /// Colour only on a terminal, and never with `NO_COLOR` (no-color.org) in the environment.
    pub fn new(json: bool) -> Self {
        let stdout = std::io::stdout();
        Self { json, colour: colour_on(&stdout) && !json, terminal: stdout.is_terminal() }
    }

    /// One line. A reader that went away (`| head`) is no failure.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
    }

    /// One JSON document.
    pub fn document(&self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.line(text),
            Err(error) => tracing::error!(%error, "an answer could not be written as JSON"),
        }
    }

    /// One JSON document on one line, for streams.
    pub fn record(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(text),
            Err(error) => tracing::error!(%error, "an answer could not be written as JSON"),
        }
    }

    /// `value` for programs, `text` for people.
    pub fn either(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json { self.document(value) } else { self.line(text()) }
    }

    /// A table with a head, no wider than the terminal.
    pub fn table<const N: usize>(&self, head: [&str; N], rows: impl IntoIterator<Item = [Cell; N]>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(if self.terminal {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if !self.colour {
            table.force_no_tty();
        } else {
            table.enforce_styling();
        }
        table.set_header(head.map(|text| Cell::new(text).add_attribute(Attribute::Bold)));
        table.add_rows(rows.into_iter().map(|row| row.into_iter().collect::<Vec<_>>()));
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        trim_lines(&table.to_string())
    }

    /// Name and value pairs, one a line.
    pub fn pairs(&self, rows: impl IntoIterator<Item = (&'static str, Cell)>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(if self.terminal {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if !self.colour {
            table.force_no_tty();
        } else {
            table.enforce_styling();
        }
        table.add_rows(rows.into_iter().map(|(name, value)| vec![Cell::new(name).fg(Color::DarkGrey), value]));
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        trim_lines(&table.to_string())
    }

    /// A word that says how well something is, in its colour.
    pub fn state(&self, word: &str) -> Cell {
        let colour = match word {
            "running" | "active" | "ready" | "ok" | "done" | "committed" | "success" | "paid" | "placed" => {
                Some(Color::Green)
            }
            "low_balance" | "spawning" | "hibernating" | "draining" | "unplaced" | "skipped" | "warn" | "locked"
            | "grace" | "trial" | "resolving" => Some(Color::Yellow),
            "dormant" | "failed" | "fail" | "parked" | "suspended" | "signer_offline" => Some(Color::Red),
            _ => None,
        };
        match colour {
            Some(colour) => Cell::new(word).fg(colour),
            None => Cell::new(word),
        }
    }
}

/// Whether this stream is a terminal that wants colour.
pub fn colour_on(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn trim_lines(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `12,345 sats`, with the rest of a sat when there is one.
pub fn sats(amount: Msat) -> String {
    let msat = amount.as_u64();
    let whole = group(msat / 1_000);
    match msat % 1_000 {
        0 => format!("{whole} sats"),
        rest => format!("{whole}.{rest:03} sats"),
    }
}

/// Digits in groups of three.
pub fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A moment as `2026-11-22 19:24:08` (UTC), from milliseconds since 1970.
pub fn moment(ms: i64) -> String {
    let secs = ms.div_euclid(1_000);
    let (year, month, day) = civil(secs.div_euclid(86_400));
    let time = secs.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3_600, time / 60 % 60, time % 60)
}

/// Proleptic Gregorian date of a day since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `in 3 min`, `2 h ago`.
pub fn relative(at_ms: i64, now_ms: i64) -> String {
    let distance = at_ms.saturating_sub(now_ms);
    let secs = distance.unsigned_abs() / 1_000;
    let text = match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    };
    match distance {
        -999..=999 => "now".to_owned(),
        1_000.. => format!("in {text}"),
        _ => format!("{text} ago"),
    }
}

/// Text of others on a terminal: control characters could move its cursor or change its title.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A text field of an answer, made safe for a terminal; `-` when there is none.
pub fn field(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped() {
        assert_eq!(sats(Msat::new(1_234_567_000)), "1,234,567 sats");
        assert_eq!(sats(Msat::new(1_500)), "1.500 sats");
        assert_eq!(sats(Msat::ZERO), "0 sats");
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(moment(1_795_375_448_000), "2026-11-22 19:24:08");
        assert_eq!(moment(-1_000), "1969-12-31 23:59:59");
    }

    #[test]
    fn distances_are_short() {
        assert_eq!(relative(65_000, 0), "in 65 s");
        assert_eq!(relative(0, 7_200_000), "2 h ago");
        assert_eq!(relative(5, 0), "now");
    }

    #[test]
    fn a_terminal_is_not_steered_by_others() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }

    #[test]
    fn a_table_without_a_terminal_is_plain() {
        let output = Output { json: false, colour: false, terminal: false };
        let text = output.table(["NAME", "STATE"], [[Cell::new("bob"), output.state("active")]]);
        assert_eq!(text, "NAME  STATE\nbob   active");
    }
}
