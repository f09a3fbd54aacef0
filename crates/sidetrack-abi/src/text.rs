//! Printing text that others have chosen: names of tasks, services and filters, host names, paths.
//! Also numbers of things.
//!
//! Some characters do not only stand for themselves. On a terminal, they move the cursor, hide
//! text, or change the order in which the text around them is shown (Unicode Standard Annex 9).
//! [`Printable`] writes them as their number, and leaves all letters of all scripts as they are.

use std::fmt::{self, Display, Write};

/// Writes a value as one line for people: each character that is not [printable](is_printable) is
/// written as in `\u{202e}`, or as `\n`, `\r` or `\t`.
///
/// A backslash is left as it is, so a text that is printable already does not change.
///
/// ```
/// use sidetrack_abi::text::Printable;
///
/// assert_eq!(Printable("a\u{202e}b\n").to_string(), r"a\u{202e}b\n");
/// assert_eq!(Printable("it's שלום").to_string(), "it's שלום");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

/// The same for a text of several lines: the ends of lines stay.
#[derive(Clone, Copy, Debug)]
pub struct PrintableLines<T>(pub T);

/// Formats a number of things: "1 filter", "2 filters".
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// False if the character acts on a terminal, is invisible, or changes the order of the text around
/// it: control characters, separators of lines and paragraphs, and format characters such as the
/// bidirectional controls and the zero-width ones.
pub fn is_printable(character: char) -> bool {
    !(character.is_control() || is_format(character))
}

/// True for the general categories Cf, Zl and Zp of Unicode, except for the signs among them that
/// are visible, as in Arabic numbers; also for the letters that are invisible (Hangul fillers).
fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Passes text on, escaped.
struct Escape<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    keeps_lines: bool,
}

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        let stays = |character| is_printable(character) || self.keeps_lines && character == '\n';
        while let Some((at, character)) = rest.char_indices().find(|(_, one)| !stays(*one)) {
            self.to.write_str(&rest[..at])?;
            write!(self.to, "{}", character.escape_default())?;
            rest = &rest[at + character.len_utf8()..];
        }
        self.to.write_str(rest)
    }
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0, false)
    }
}

impl<T: Display> Display for PrintableLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0, true)
    }
}

fn write_escaped(
    to: &mut fmt::Formatter<'_>,
    value: &impl Display,
    keeps_lines: bool,
) -> fmt::Result {
    let alternate = to.alternate();
    let mut to = Escape { to, keeps_lines };
    match alternate {
        true => write!(to, "{value:#}"),
        false => write!(to, "{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_as_its_number() {
        let acting = [
            "\0\u{7}\u{1b}\u{7f}\u{80}\u{9b}",          // control characters
            "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}", // embeddings and overrides
            "\u{2066}\u{2067}\u{2068}\u{2069}",         // isolates
            "\u{200e}\u{200f}\u{61c}",                  // marks
            "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}", // without width
            "\u{2028}\u{2029}",                         // lines and paragraphs
            "\u{e0041}\u{115f}\u{3164}",                // tags, and invisible letters
        ];
        for character in acting.concat().chars() {
            let number = format!("\\u{{{:x}}}", u32::from(character));
            assert_eq!(Printable(character).to_string(), number);
            assert!(!is_printable(character));
        }
        assert_eq!(Printable("\n\r\t").to_string(), r"\n\r\t");
    }

    #[test]
    fn what_people_read_stays() {
        for text in [
            r#"it's "quoted" \ back"#,
            "naïve e\u{301}",
            "שלום مرحبا فارسی",
            "हिन्दी 漢字 한국어 ไทย",
            "→ ✓ \u{a0}€",
        ] {
            assert_eq!(Printable(text).to_string(), text);
        }
    }

    #[test]
    fn numbers_are_singular_or_plural() {
        let counts = [
            count(0_u8, "flow"),
            count(1_u64, "flow"),
            count(2_usize, "flow"),
        ];
        assert_eq!(counts, ["0 flows", "1 flow", "2 flows"]);
    }

    #[test]
    fn lines_end_where_the_text_has_several() {
        let text = "first\u{202e}\nsecond\r\n";
        assert_eq!(
            PrintableLines(text).to_string(),
            "first\\u{202e}\nsecond\\r\n"
        );
        assert_eq!(Printable(text).to_string(), r"first\u{202e}\nsecond\r\n");
        let twice = Printable(Printable(text)).to_string();
        assert_eq!(twice, Printable(text).to_string());
    }

    #[test]
    fn the_form_of_the_value_is_kept() {
        struct Form;
        impl Display for Form {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if f.alternate() { "long\n" } else { "short\n" })
            }
        }
        assert_eq!(format!("{}", Printable(Form)), r"short\n");
        assert_eq!(format!("{:#}", PrintableLines(Form)), "long\n");
    }
}
