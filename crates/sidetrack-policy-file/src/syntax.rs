//! The syntax of a policy file: from its bytes to tables of TOML.

use std::ops::Range;

use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::{Token, TokenKind};

use crate::error::SpannedError;

/// Greatest depth of lists and tables in each other, and greatest number of parts of a dotted key.
/// The parser of TOML refuses more too, but its errors do not distinguish that from other mistakes.
const NESTING_MAX: usize = 80;

/// Parses the text of a file, up to its first error.
pub(crate) fn parse_tables(text: &[u8]) -> Result<DeTable<'_>, SpannedError> {
    let text = decode(text)?;
    match (DeTable::parse(text), nested_too_deeply(text)) {
        (Ok(document), None) => Ok(document.into_inner()),
        (Ok(_), Some(deep)) => Err(too_deep(deep)),
        // Brackets that are not closed count as nesting for all that follows: the earlier error is the cause.
        (Err(error), Some(deep)) if error.span().is_none_or(|span| deep.start <= span.start) => {
            Err(too_deep(deep))
        }
        (Err(error), _) => {
            let span = error.span().unwrap_or(0..0);
            Err(SpannedError::new(span, error.message()))
        }
    }
}

fn too_deep(span: Range<usize>) -> SpannedError {
    SpannedError::new(span, "tables or lists are nested too deeply")
}

/// The text of a file, if it is UTF-8 without NUL bytes.
fn decode(text: &[u8]) -> Result<&str, SpannedError> {
    if let Some(at) = text.iter().position(|&byte| byte == 0) {
        return Err(
            SpannedError::new(at..at + 1, "the file contains a NUL byte")
                .advice("a policy file is a text file"),
        );
    }
    std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        SpannedError::new(at..at + 1, "the file is not UTF-8").advice("save it as UTF-8")
    })
}

/// The span of the first bracket beyond [`NESTING_MAX`], or of the first part of a key that has
/// more parts.
///
/// Brackets and dots within strings and comments do not count. In a text with other syntax errors
/// the depth is that of the brackets as they stand.
fn nested_too_deeply(text: &str) -> Option<Range<usize>> {
    let mut depth = 0_usize;
    let mut key = KeyParts::default();
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        if depth > NESTING_MAX {
            return Some(span(token));
        }
        key.add(token);
        if key.parts > NESTING_MAX {
            return Some(key.first);
        }
    }
    None
}

fn span(token: Token) -> Range<usize> {
    token.span().start()..token.span().end()
}

/// The dotted key, or the number with a fraction, to which the last token belongs.
#[derive(Default)]
struct KeyParts {
    /// Number of parts between dots.
    parts: usize,
    /// Span of the first part.
    first: Range<usize>,
    /// True if the last token, apart from white space, was a dot.
    after_dot: bool,
}

impl KeyParts {
    fn add(&mut self, token: Token) {
        match token.kind() {
            TokenKind::Whitespace => {}
            TokenKind::Dot => self.after_dot = true,
            TokenKind::Atom | TokenKind::BasicString | TokenKind::LiteralString => {
                let continues = std::mem::take(&mut self.after_dot) && self.parts > 0;
                if !continues {
                    (self.parts, self.first) = (0, span(token));
                }
                self.parts += 1;
            }
            _ => *self = Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> (Range<usize>, String) {
        let error = parse_tables(text.as_bytes()).expect_err("the text has an error");
        (error.span, error.message)
    }

    #[test]
    fn nesting_has_a_limit_that_is_reported_where_it_is_exceeded() {
        let list = |depth: usize| format!("a = {}{}", "[".repeat(depth), "]".repeat(depth));
        let key = |parts: usize| format!("b = 1\n{}a = 1", "a.".repeat(parts - 1));
        let deep = || "tables or lists are nested too deeply".to_owned();
        assert!(parse_tables(list(NESTING_MAX).as_bytes()).is_ok());
        assert_eq!(error(&list(NESTING_MAX + 1)), (84..85, deep()));
        assert!(parse_tables(key(NESTING_MAX).as_bytes()).is_ok());
        assert_eq!(error(&key(NESTING_MAX + 1)), (6..7, deep()));
    }

    #[test]
    fn an_earlier_error_is_reported_instead_of_the_nesting_that_it_causes() {
        let unclosed = "[[a]\nb = 1\n".repeat(NESTING_MAX + 1);
        let (span, message) = error(&unclosed);
        assert!(span.start < 12, "{span:?}");
        assert!(!message.contains("nested"), "{message}");
    }

    #[test]
    fn only_brackets_and_dots_of_the_syntax_count() {
        let brackets = "[".repeat(NESTING_MAX + 1);
        let dots = "a.".repeat(NESTING_MAX + 1);
        let texts = [
            format!("a = \"{brackets}{dots}\" # {brackets}{dots}"),
            format!("a = '''\n{brackets}{dots}'''"),
            "[[a]]\nb = [{ c = 1.5 }]\n".repeat(NESTING_MAX),
        ];
        for text in texts {
            assert!(parse_tables(text.as_bytes()).is_ok(), "{text}");
        }
    }
}
