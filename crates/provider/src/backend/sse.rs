//! Server-sent events (WHATWG HTML, section 9.2) as far as completion streams use them: `data` fields alone.

/// Longest single line, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// A line that is longer than [`MAX_LINE`], or is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadStream;

/// Cuts a byte stream, however it was chunked, into the data of its events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    data: Option<String>,
}

impl Decoder {
    /// The events that these bytes complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, BadStream> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() > MAX_LINE {
                return Err(BadStream);
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = std::str::from_utf8(&line).map_err(|_| BadStream)?;
                events.extend(self.line(line.trim_end_matches(['\r', '\n']))?);
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Result<Option<String>, BadStream> {
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let Some(value) = line.strip_prefix("data:") else {
            return Ok(None);
        };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match &mut self.data {
            Some(data) if data.len() + value.len() > MAX_LINE => return Err(BadStream),
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        Ok(None)
    }

    /// Data of a last event that no empty line ended.
    pub(super) fn finish(mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.line);
        if let Ok(line) = std::str::from_utf8(&rest)
            && !line.is_empty()
        {
            self.line(line.trim_end_matches('\r')).ok()?;
        }
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\r\ndata: {\"a\":\"ä\"}\r\n\r\nevent: x\ndata:two\ndata: lines\n\ndata: [DONE]\n\n";

    #[test]
    fn any_chunking_gives_the_same_events() {
        for size in 1..STREAM.len() {
            let mut decoder = Decoder::default();
            let events: Vec<String> =
                STREAM.as_bytes().chunks(size).flat_map(|chunk| decoder.push(chunk).unwrap()).collect();
            assert_eq!(events, ["{\"a\":\"ä\"}", "two\nlines", "[DONE]"], "chunks of {size}");
        }
    }

    #[test]
    fn the_last_event_needs_no_empty_line() {
        let mut decoder = Decoder::default();
        assert!(decoder.push(b"data: end").unwrap().is_empty());
        assert_eq!(decoder.finish().as_deref(), Some("end"));
    }

    #[test]
    fn endless_lines_and_bad_text_are_refused() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.push(&vec![b'x'; MAX_LINE + 1]), Err(BadStream));
        assert_eq!(Decoder::default().push(b"data: \xff\n"), Err(BadStream));
    }
}
