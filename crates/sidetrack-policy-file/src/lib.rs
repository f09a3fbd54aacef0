//! Policy files, and objects as text.
//!
//! [`parse`] reads a policy from TOML, [`schema()`] describes the format for editors,
//! [`diff::Diff`] compares two lists of objects, and [`mod@property`] shows single objects.
//! docs/policy.md describes the format. What the objects mean is defined in [`sidetrack_policy`].
//! The crate does no input or output.
#![forbid(unsafe_code)]

mod context;
pub mod diff;
mod error;
mod listing;
mod name;
pub mod property;
mod reader;
mod schema;
mod syntax;
mod table;
mod value;

pub use error::{ERRORS_MAX, FileError, FileErrors, Position};
pub use listing::Listing;
pub use reader::{FILE_SIZE_MAX, OWNER, ParseOptions, Policy, parse};
pub use schema::schema;
pub use value::UserLookup;
