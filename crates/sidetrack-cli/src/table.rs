//! Text output: tables with aligned columns, and lists of properties.

use sidetrack_abi::text::Printable;
use unicode_width::UnicodeWidthStr;

use crate::text_style::TextStyle;

/// The space between two columns.
const GAP: &str = "  ";

/// Rows under a header. Cells are written as [`Printable`], because other programs choose much of
/// the text.
pub(crate) struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(header: [&'static str; N]) -> Self {
        Self {
            header,
            rows: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| Printable(cell).to_string()));
    }

    /// Renders the header and the rows as lines. The last column is not padded.
    pub(crate) fn render(&self, style: TextStyle) -> String {
        let mut widths = self.header.map(str::len);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let header = line(&self.header, &widths);
        let mut text = style.bold(header.trim_end()) + "\n";
        for row in &self.rows {
            let cells: Vec<_> = row.iter().map(String::as_str).collect();
            text.push_str(line(&cells, &widths).trim_end());
            text.push('\n');
        }
        text
    }
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        if !line.is_empty() {
            line.push_str(GAP);
        }
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
    }
    line
}

/// Renders properties: each on one line, with the values aligned.
pub(crate) fn properties<'a>(
    all: impl IntoIterator<Item = (&'a str, String)>,
    style: TextStyle,
) -> String {
    let all: Vec<_> = all.into_iter().collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = all.iter().map(|(name, value)| {
        let name = style.dim(&format!("{name:width$}"));
        format!("{name}{GAP}{}\n", Printable(value))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "WEIGHT", "WHAT"]);
        table.push(["ä漢".into(), "65535".into(), "x".into()]);
        table.push([
            "evil\u{1b}[2J".into(),
            "\u{202e}1".into(),
            "\u{200f}".into(),
        ]);
        insta::assert_snapshot!(table.render(TextStyle::plain()), @r"
        NAME           WEIGHT     WHAT
        ä漢            65535      x
        evil\u{1b}[2J  \u{202e}1  \u{200f}
        ");
        let of_all = properties([("name", "a\u{2066}b".to_owned())], TextStyle::plain());
        assert_eq!(of_all, "name  a\\u{2066}b\n");
    }
}
