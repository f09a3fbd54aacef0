//! A policy: WFP's objects, what they mean, and what the kernel is given. Pure: no I/O.
#![forbid(unsafe_code)]

pub mod compile;
pub mod condition;
pub mod diff;
mod error;
pub mod explain;
pub mod field;
pub mod field_values;
pub mod file;
mod layer;
mod listing;
pub mod object;
pub mod property;
pub mod reference;
pub mod rule;
pub mod set;
mod test;
mod weight;

pub use condition::{Condition, MatchType, Value};
pub use error::{Code, Error};
pub use field::Field;
pub use layer::{Family, Layer, LayerKind};
pub use listing::Listing;
pub use object::{
    Absent, Action, Context, Filter, Identity, Lifetime, Provider, Records, SUBLAYER_UNIVERSAL,
    Service, Sublayer, Uuid,
};
pub use set::Objects;
pub use weight::Weight;
