//! The key `context` of a service or filter: a redirect context.

use sidetrack_policy::{Code, RedirectContext};
use toml::de::DeValue;

use crate::error::SpannedError;
use crate::table::{FileTable, TomlText};

/// Reads the key `context`: `"none"`, `"auto"`, `{ text = "…" }` or `{ hex = "…" }`.
pub(crate) fn context(entry: &FileTable<'_>) -> Result<Option<RedirectContext>, SpannedError> {
    let Some(value) = entry.get("context") else {
        return Ok(None);
    };
    if let DeValue::String(_) = value.get_ref() {
        let choices = [("none", false), ("auto", true)];
        let auto = entry.choice("context", &choices)?;
        return Ok(auto.map(|auto| {
            if auto {
                RedirectContext::Auto
            } else {
                RedirectContext::None
            }
        }));
    }
    let table = FileTable::of("context", value)?;
    table.check_keys(&["text", "hex"])?;
    let bytes = match (table.text("text")?, table.text("hex")?) {
        (Some(text), None) => text.text.as_bytes().to_vec(),
        (None, Some(hex)) => hex_bytes(&hex)?,
        _ => {
            let message = "context must be \"none\", \"auto\", { text = \"…\" } or { hex = \"…\" }";
            return Err(SpannedError::new(value.span(), message).code(Code::InvalidParameter));
        }
    };
    Ok(Some(RedirectContext::Fixed(bytes)))
}

fn hex_bytes(TomlText { text, span }: &TomlText<'_>) -> Result<Vec<u8>, SpannedError> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit = |byte: &u8| (*byte as char).to_digit(16);
            Some((digit(high)? * 16 + digit(low)?) as u8)
        }
        _ => None,
    };
    pairs.map(byte).collect::<Option<_>>().ok_or_else(|| {
        SpannedError::new(
            span.clone(),
            "hex must be pairs of the digits 0 to 9 and a to f",
        )
        .code(Code::TypeMismatch)
    })
}
