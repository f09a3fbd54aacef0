//! What is wrong in a file, shown at its place.

use std::fmt::{self, Write};
use std::ops::Range;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{Code, Error};

/// Faults after which reading stops.
pub const FAULTS_MAX: usize = 20;
/// Columns of a line that are shown, around the fault.
const LINE_WIDTH_MAX: usize = 100;

/// All that is wrong with a file. Displays as text for people, each fault with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// In the file's order; at most [`FAULTS_MAX`]. Never empty.
    pub shown: Vec<Fault>,
    /// Whether reading stopped at the last, so that there may be more.
    pub stopped: bool,
}

impl std::error::Error for Faults {}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule that was broken, if it is one of WFP's.
    pub code: Option<Code>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// Where; none: the file as a whole.
    pub place: Option<Place>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, or a part of it, without control characters.
    excerpt: String,
    /// Columns of the excerpt before the fault, and under it.
    before: usize,
    under: usize,
}

/// A fault by its offsets, before anybody knows lines.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) span: Range<usize>,
    pub(super) code: Option<Code>,
    pub(super) message: String,
    pub(super) advice: Option<String>,
}

impl Mark {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            code: None,
            message: message.into(),
            advice: None,
        }
    }

    pub(super) fn of(span: Range<usize>, error: Error) -> Self {
        Self::new(span, error.message).code(error.code)
    }

    pub(super) fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// "Did you mean", if anything comes near.
    pub(super) fn near<'a>(
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

impl Faults {
    pub(super) fn new(file: &str, text: &[u8], mut marks: Vec<Mark>) -> Self {
        marks.sort_by_key(|mark| mark.span.start);
        let stopped = marks.len() >= FAULTS_MAX;
        let shown = marks.into_iter().map(|mark| Fault {
            code: mark.code,
            message: mark.message,
            advice: mark.advice,
            place: Some(Place::find(file, text, mark.span)),
        });
        Self {
            shown: shown.collect(),
            stopped,
        }
    }

    /// Of the file as a whole.
    pub(super) fn whole(message: String, advice: &str) -> Self {
        Self {
            shown: vec![Fault {
                code: None,
                message,
                advice: Some(advice.to_owned()),
                place: None,
            }],
            stopped: false,
        }
    }
}

impl Place {
    fn find(file: &str, text: &[u8], span: Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let head = &text[..start];
        let line_start = head
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let rest = text[start..].iter().position(|&byte| byte == b'\n');
        let line_end = rest.map_or(text.len(), |at| start + at);
        // A long line is cut to a quarter of the width before the fault, and the rest from it on.
        let fits = line_end - line_start <= LINE_WIDTH_MAX;
        let lead = if fits {
            LINE_WIDTH_MAX
        } else {
            LINE_WIDTH_MAX / 4
        };
        let before = tail(&text[line_start..start], lead);
        let after = &text[start..line_end];
        let room = LINE_WIDTH_MAX - before.width();
        let marked = span.end.clamp(start, line_end) - start;
        let under = head_of(&after[..marked], room);
        let after = head_of(after, room);
        Self {
            file: file.to_owned(),
            line: head.iter().filter(|&&byte| byte == b'\n').count() + 1,
            column: characters(&text[line_start..start]) + 1,
            before: before.width(),
            under: under.width().max(1),
            excerpt: before + &after,
        }
    }
}

/// The last so many columns, printable.
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

/// The first so many columns, printable.
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
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}

/// Characters of UTF-8; other bytes count as they are shown.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.shown.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n\n" };
            write!(f, "{separator}{fault}")?;
        }
        if self.stopped {
            write!(f, "\n\nthere may be more: reading stopped here")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
        }
        f.write_str(&self.message)?;
        if let Some(code) = self.code {
            write!(f, " ({code})")?;
        }
        match (&self.place, &self.advice) {
            (Some(place), advice) => place.show(f, advice.as_deref().unwrap_or("")),
            (None, Some(advice)) => write!(f, "; {advice}"),
            (None, None) => Ok(()),
        }
    }
}

impl Place {
    fn show(&self, f: &mut fmt::Formatter<'_>, advice: &str) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = number.len();
        let mut under = format!("{:before$}", "", before = self.before);
        under.extend(std::iter::repeat_n('^', self.under));
        if !advice.is_empty() {
            write!(under, " {advice}")?;
        }
        write!(f, "\n{:gutter$} |", "")?;
        write!(f, "\n{number} | {}", self.excerpt.trim_end())?;
        write!(f, "\n{:gutter$} | {under}", "")
    }
}

/// The candidate that was most likely meant.
pub(super) fn nearest<'a>(
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
