//! A redirect context, as it is written.

use toml::de::DeValue;

use super::entry::{Entry, Text};
use super::fault::Mark;
use crate::{Code, Context};

/// `"none"`, `"auto"`, `{ text = … }`, `{ hex = … }`.
pub(super) fn context(entry: &Entry<'_>) -> Result<Option<Context>, Mark> {
    let Some(value) = entry.get("context") else {
        return Ok(None);
    };
    if let DeValue::String(_) = value.get_ref() {
        let choices = [("none", false), ("auto", true)];
        let auto = entry.choice("context", &choices)?;
        return Ok(auto.map(|auto| if auto { Context::Auto } else { Context::None }));
    }
    let table = Entry::of("context", value)?;
    table.check_keys(&["text", "hex"])?;
    let (bytes, span) = match (table.text("text")?, table.text("hex")?) {
        (Some(text), None) => (text.text.as_bytes().to_vec(), text.span),
        (None, Some(hex)) => (bytes(&hex)?, hex.span),
        _ => {
            let message = "a context is none, auto, { text = \"…\" } or { hex = \"…\" }";
            return Err(Mark::new(value.span(), message).code(Code::InvalidParameter));
        }
    };
    let context = Context::Fixed(bytes);
    context.check().map_err(|error| Mark::of(span, error))?;
    Ok(Some(context))
}

fn bytes(Text { text, span }: &Text<'_>) -> Result<Vec<u8>, Mark> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit = |byte: &u8| (*byte as char).to_digit(16);
            Some((digit(high)? * 16 + digit(low)?) as u8)
        }
        _ => None,
    };
    pairs.map(byte).collect::<Option<_>>().ok_or_else(|| {
        Mark::new(
            span.clone(),
            "hex needs pairs of the digits 0 to 9 and a to f",
        )
        .code(Code::TypeMismatch)
    })
}
