//! The policies that are swapped. All of them send everything through both services.

use std::fmt::Write;

use super::SERVICES;

/// Number of different policies.
pub(super) const COUNT: u32 = 4;
/// Number of filters that match nothing, in every second policy.
const OTHER_FILTERS: u32 = 500;

/// The policy with this number: the services in one order or the other, with or without many other
/// filters.
pub(super) fn text(number: u32) -> String {
    let mut order = SERVICES;
    if number % 2 == 1 {
        order.reverse();
    }
    let mut text = String::from("defaults = { lifetime = \"persistent\" }\n");
    for name in SERVICES {
        writeln!(text, "[[service]]\nname = {name:?}").expect("a String has room");
    }
    for (name, weight) in order.into_iter().zip([2, 1]) {
        write!(
            text,
            "[[filter]]\nname = \"all to {name}\"\nlayer = \"connect-redirect\"\n\
             weight = {weight}\naction = {{ redirect = {name:?} }}\n"
        )
        .expect("a String has room");
    }
    for other in 0..number / 2 * OTHER_FILTERS {
        write!(
            text,
            "[[filter]]\nname = \"other {other}\"\nlayer = \"connect-redirect\"\n\
             remote_port = {}\naction = \"permit\"\n",
            10_000 + other
        )
        .expect("a String has room");
    }
    text
}
