//! Values as people read them.

/// Formats a value with its unit. Times are in nanoseconds, and shown in µs, ms or s.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "ns" if value >= 1e9 => format!("{} s", shown(value / 1e9)),
        "ns" if value >= 1e6 => format!("{} ms", shown(value / 1e6)),
        "ns" => format!("{} µs", shown(value / 1e3)),
        _ => format!("{} {unit}", shown(value)),
    }
}

/// Formats a value with about three digits.
pub(crate) fn shown(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
