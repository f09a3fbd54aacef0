//! A policy: WFP's objects, what they mean, and what the kernel is given. Pure: no I/O.
#![forbid(unsafe_code)]

pub mod condition;
pub mod diff;
mod error;
pub mod field;
pub mod file;
mod layer;
pub mod object;
mod objects;
pub mod property;
mod weight;

pub use condition::{Condition, MatchType, Value};
pub use error::{Code, Error};
pub use field::Field;
pub use layer::{Family, Layer, LayerKind};
pub use object::{
    Absent, Action, Context, Filter, Identity, Lifetime, Provider, Records, SUBLAYER_UNIVERSAL,
    Service, Sublayer, Uuid,
};
pub use objects::Objects;
pub use weight::Weight;
