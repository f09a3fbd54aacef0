//! Colour and weight of text on a terminal.

use std::io::{self, IsTerminal};

/// Adds ANSI escape sequences to text if the output is a terminal, and nothing otherwise.
#[derive(Clone, Copy)]
pub(crate) struct TextStyle {
    enabled: bool,
}

impl TextStyle {
    /// The style for standard error. The environment variable NO_COLOR switches it off
    /// (no-color.org).
    pub(crate) fn stderr() -> Self {
        Self::for_terminal(io::stderr().is_terminal())
    }

    /// The style for standard output. NO_COLOR switches it off.
    pub(crate) fn stdout() -> Self {
        Self::for_terminal(io::stdout().is_terminal())
    }

    /// A style that adds nothing, for tests.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { enabled: false }
    }

    fn for_terminal(is_terminal: bool) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            enabled: is_terminal && !forbidden,
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self.enabled {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}
