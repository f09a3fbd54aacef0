//! The syntax of a policy file: from its bytes to tables of TOML.

use toml::de::DeTable;

use crate::finding::SpannedFinding;

/// Parses the text of a file, up to its first error.
pub(crate) fn parse_tables(text: &[u8]) -> Result<DeTable<'_>, SpannedFinding> {
    let document = DeTable::parse(decode(text)?).map_err(|error| syntax_error(&error))?;
    Ok(document.into_inner())
}

/// The text of a file, if it is UTF-8 without NUL bytes.
fn decode(text: &[u8]) -> Result<&str, SpannedFinding> {
    if let Some(at) = text.iter().position(|&byte| byte == 0) {
        return Err(
            SpannedFinding::new(at..at + 1, "the file contains a NUL byte")
                .advice("a policy file is a text file"),
        );
    }
    std::str::from_utf8(text).map_err(|error| {
        let at = error.valid_up_to();
        SpannedFinding::new(at..at + 1, "the file is not UTF-8").advice("save it as UTF-8")
    })
}

fn syntax_error(error: &toml::de::Error) -> SpannedFinding {
    let message = match error.message() {
        deep if deep.contains("recursion") => "tables or lists are nested too deeply",
        other => other,
    };
    SpannedFinding::new(error.span().unwrap_or(0..0), message)
}
