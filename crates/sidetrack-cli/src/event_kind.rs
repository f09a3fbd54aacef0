//! The names of the kinds of events, as `--kind` takes them and as they are printed.

use sidetrack_api::v1;

/// The prefix of the event kinds' names in protobuf.
const KIND_PREFIX: &str = "EVENT_KIND_";

/// Returns the kinds as `--kind` takes them and as they are printed: classify-block and so on.
pub(crate) fn kind_names() -> Vec<clap::builder::PossibleValue> {
    let numbers = 1..;
    let kinds = numbers.map_while(|number| v1::EventKind::try_from(number).ok());
    kinds
        .map(|kind| clap::builder::PossibleValue::new(kind_name(kind)))
        .collect()
}

/// The name of a kind, as it is printed.
pub(crate) fn kind_name(kind: v1::EventKind) -> String {
    let name = kind.as_str_name();
    let name = name.strip_prefix(KIND_PREFIX).unwrap_or(name);
    name.to_ascii_lowercase().replace('_', "-")
}

/// The number of the kind with this name; 0, unspecified, if there is none.
pub(crate) fn kind_number(name: &str) -> i32 {
    let name = name.to_ascii_uppercase().replace('-', "_");
    v1::EventKind::from_str_name(&format!("{KIND_PREFIX}{name}")).map_or(0, Into::into)
}
