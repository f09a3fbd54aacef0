//! FileErrors: what is wrong with a policy file, shown at its position.

use std::fmt::{self, Write};
use std::ops::Range;

use sidetrack_abi::text::{Printable, is_printable};
use sidetrack_policy::{Code, Error};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Number of errors after which reading stops.
pub const ERRORS_MAX: usize = 20;
/// Greatest number of columns that are shown of a line.
const LINE_WIDTH_MAX: usize = 100;

/// Everything that is wrong with a file. It displays as text for people, each error with its line:
///
/// ```text
/// policy.toml:14:12: there is no sublayer "acme-inspekt" (FWP_E_SUBLAYER_NOT_FOUND)
///    |
/// 14 | sublayer = "acme-inspekt"
///    |            ^^^^^^^^^^^^^^ did you mean acme-inspect?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    /// The errors in the order of their positions: at least 1, at most [`ERRORS_MAX`].
    pub shown: Vec<FileError>,
    /// True if reading stopped after the last error, so that there may be more.
    pub stopped: bool,
}

impl std::error::Error for FileErrors {}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// WFP's error code, if there is one for it.
    pub code: Option<Code>,
    /// What is wrong. Starts in lower case and has no full stop.
    pub message: String,
    /// What to do about it, in the same form.
    pub advice: Option<String>,
    /// Position of the error; none if it concerns the file as a whole.
    pub position: Option<Position>,
}

/// A position in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the file.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The line or a part of it. What is not printable is replaced.
    excerpt: String,
    /// Number of columns of the excerpt before the error.
    before: usize,
    /// Number of columns of the excerpt that the error covers; at least 1.
    covered: usize,
}

/// An error with its span of bytes in the file, before line and column are known.
#[derive(Debug)]
pub(crate) struct SpannedError {
    pub(crate) span: Range<usize>,
    pub(crate) code: Option<Code>,
    pub(crate) message: String,
    pub(crate) advice: Option<String>,
}

impl SpannedError {
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            code: None,
            message: message.into(),
            advice: None,
        }
    }

    pub(crate) fn of(span: Range<usize>, error: Error) -> Self {
        Self::new(span, error.message).code(error.code)
    }

    pub(crate) fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Advises the candidate that resembles the text most, if one does.
    pub(crate) fn near<'a>(
        self,
        text: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        match nearest(text, candidates) {
            Some(near) => self.advice(format!("did you mean {near}?")),
            None => self,
        }
    }
}

impl FileErrors {
    pub(crate) fn new(file: &str, text: &[u8], mut errors: Vec<SpannedError>) -> Self {
        errors.sort_by_key(|error| error.span.start);
        let stopped = errors.len() >= ERRORS_MAX;
        let shown = errors.into_iter().map(|error| FileError {
            code: error.code,
            message: error.message,
            advice: error.advice,
            position: Some(Position::find(file, text, error.span)),
        });
        Self {
            shown: shown.collect(),
            stopped,
        }
    }

    /// The only error, which concerns the file as a whole.
    pub(crate) fn of_file(message: String, advice: &str) -> Self {
        Self {
            shown: vec![FileError {
                code: None,
                message,
                advice: Some(advice.to_owned()),
                position: None,
            }],
            stopped: false,
        }
    }
}

impl Position {
    fn find(file: &str, text: &[u8], span: Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let head = &text[..start];
        let line_start = head
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = text[start..].iter().position(|&byte| byte == b'\n');
        let line_end = rest.map_or(text.len(), |at| start + at);
        // Of a long line, a quarter of the width is shown before the error, and the rest from the
        // error on.
        let fits = line_end - line_start <= LINE_WIDTH_MAX;
        let lead = if fits {
            LINE_WIDTH_MAX
        } else {
            LINE_WIDTH_MAX / 4
        };
        let before = tail(&text[line_start..start], lead);
        let after = &text[start..line_end];
        let room = LINE_WIDTH_MAX - before.width();
        let covered_bytes = span.end.clamp(start, line_end) - start;
        let covered = head_of(&after[..covered_bytes], room);
        let after = head_of(after, room);
        Self {
            file: file.to_owned(),
            line: head.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: characters(&text[line_start..start]) + 1,
            before: before.width(),
            covered: covered.width().max(1),
            excerpt: before + &after,
        }
    }
}

/// The end of a text that fits into `width` columns, in printable characters.
fn tail(bytes: &[u8], width: usize) -> String {
    let text =
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(width * 4)..]).into_owned();
    let printable: String = text.chars().map(printable).collect();
    let mut room = width;
    let mut from = printable.len();
    for (at, character) in printable.char_indices().rev() {
        match room.checked_sub(character.width().unwrap_or(0)) {
            Some(left) => (room, from) = (left, at),
            None => break,
        }
    }
    printable[from..].to_owned()
}

/// The start of a text that fits into `width` columns, in printable characters.
fn head_of(bytes: &[u8], width: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(width * 4)]);
    let mut room = width;
    let fits = text.chars().map(printable).take_while(|character| {
        let left = room.checked_sub(character.width().unwrap_or(0));
        room = left.unwrap_or(0);
        left.is_some()
    });
    fits.collect()
}

fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        other if is_printable(other) => other,
        _ => '\u{fffd}',
    }
}

/// Number of characters in UTF-8: each byte that does not continue a character counts.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.shown.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n\n" };
            write!(f, "{separator}{error}")?;
        }
        if self.stopped {
            write!(f, "\n\nreading stopped here; there may be more errors")?;
        }
        Ok(())
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = &self.position {
            write!(
                f,
                "{}:{}:{}: ",
                Printable(&position.file),
                position.line,
                position.column
            )?;
        }
        write!(f, "{}", Printable(&self.message))?;
        if let Some(code) = self.code {
            write!(f, " ({code})")?;
        }
        match (&self.position, &self.advice) {
            (Some(position), advice) => position.show(f, advice.as_deref().unwrap_or("")),
            (None, Some(advice)) => write!(f, "; {}", Printable(advice)),
            (None, None) => Ok(()),
        }
    }
}

impl Position {
    /// Writes the excerpt, and below it the marks and the advice.
    fn show(&self, f: &mut fmt::Formatter<'_>, advice: &str) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = number.len();
        let mut marks = format!("{:before$}", "", before = self.before);
        marks.extend(std::iter::repeat_n('^', self.covered));
        if !advice.is_empty() {
            write!(marks, " {}", Printable(advice))?;
        }
        write!(f, "\n{:gutter$} |", "")?;
        write!(f, "\n{number} | {}", self.excerpt.trim_end())?;
        write!(f, "\n{:gutter$} | {marks}", "")
    }
}

/// The candidate that was most likely meant, if one resembles the text.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    const LENGTH_MAX: usize = 64;
    if text.len() < 2 || text.len() > LENGTH_MAX {
        return None;
    }
    let near = |candidate: &str| {
        let lower = text.to_lowercase();
        let part = candidate.split(['_', '-']).any(|part| part == lower);
        match strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()) {
            distance if distance <= 1 + text.len() / 4 => Some(distance),
            _ if part || candidate.starts_with(&lower) => Some(LENGTH_MAX),
            _ => None,
        }
    };
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LENGTH_MAX)
        .filter_map(|candidate| Some((near(candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
