//! A policy: WFP's objects, their meaning, and the image of them that the kernel reads.
//!
//! The crate does no input or output. [`set::Objects`] holds the objects that are in force,
//! [`mod@reference`] defines what they mean, and [`mod@compile`] lowers them for the kernel. The
//! crate `sidetrack-policy-file` reads policy files. The words are those of docs/glossary.md.
#![forbid(unsafe_code)]

pub mod compile;
pub mod condition;
mod error;
pub mod explain;
pub mod field;
pub mod field_values;
mod layer;
mod listeners;
pub mod object;
pub mod rank;
pub mod redirect;
pub mod reference;
pub mod set;
mod test;
mod weight;

pub use condition::{Condition, MatchType, Value};
pub use error::{Code, Error};
pub use field::Field;
pub use layer::{Family, Layer, LayerKind};
pub use listeners::{Listeners, absent_services};
pub use object::{
    Absent, Action, ConnectMode, Filter, Identity, Lifetime, Provider, RecordsMode,
    RedirectContext, SUBLAYER_UNIVERSAL, Service, Sublayer, Uuid,
};
pub use set::Objects;
pub use weight::Weight;
