//! Errors, with WFP's names and numbers (docs/wfp.md, 4.9).

use std::fmt;

/// An error. The call that returns it has changed nothing, unless its documentation says otherwise.
///
/// It displays as its message, followed by WFP's name of the code:
///
/// ```
/// use sidetrack_policy::{Code, Error};
///
/// let error = Error::new(Code::InUse, "the sublayer is in use");
/// assert_eq!(error.to_string(), "the sublayer is in use (FWP_E_IN_USE)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", .code.name())]
pub struct Error {
    /// The kind of error.
    pub code: Code,
    /// What failed, on what, and what to do. Starts in lower case and has no full stop.
    pub message: String,
}

impl Error {
    /// An error with this code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $low:literal, $text:literal;)+) => {
        /// The kind of an error. Each variant is the error FWP_E_… of the same name of WFP.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// WFP's name, for example `FWP_E_IN_USE`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("FWP_E_", $text),)+ }
            }

            /// WFP's number, for example 0x8032000a.
            pub fn number(self) -> u32 {
                0x8032_0000 | match self { $(Self::$name => $low,)+ }
            }
        }
    };
}

codes! {
    /// There is no service (WFP: callout, redirect handle) with this key or name.
    CalloutNotFound = 0x01, "CALLOUT_NOT_FOUND";
    /// The field does not exist, does not exist at this layer, or has no meaning on Linux.
    ConditionNotFound = 0x02, "CONDITION_NOT_FOUND";
    /// There is no filter with this key.
    FilterNotFound = 0x03, "FILTER_NOT_FOUND";
    /// There is no layer with this name or number.
    LayerNotFound = 0x04, "LAYER_NOT_FOUND";
    /// There is no provider with this key.
    ProviderNotFound = 0x05, "PROVIDER_NOT_FOUND";
    /// There is no sublayer with this key.
    SublayerNotFound = 0x07, "SUBLAYER_NOT_FOUND";
    /// Something else that the call names does not exist, for example a flow.
    NotFound = 0x08, "NOT_FOUND";
    /// An object with this key, or a service with this name, exists already.
    AlreadyExists = 0x09, "ALREADY_EXISTS";
    /// The object cannot be deleted because another object refers to it.
    InUse = 0x0a, "IN_USE";
    /// A dynamic session cannot do this, for example add a persistent object.
    DynamicSessionInProgress = 0x0b, "DYNAMIC_SESSION_IN_PROGRESS";
    /// The object belongs to another session, or to another user's provider.
    WrongSession = 0x0c, "WRONG_SESSION";
    /// Commit or abort, but the session has no transaction.
    NoTxnInProgress = 0x0d, "NO_TXN_IN_PROGRESS";
    /// Begin, but the session has a transaction already.
    TxnInProgress = 0x0e, "TXN_IN_PROGRESS";
    /// The transaction was aborted: it was held too long, or root waited to write.
    TxnAborted = 0x0f, "TXN_ABORTED";
    /// The session has ended.
    SessionAborted = 0x10, "SESSION_ABORTED";
    /// A change in a read-only transaction.
    IncompatibleTxn = 0x11, "INCOMPATIBLE_TXN";
    /// Another session's writing transaction did not end in time.
    Timeout = 0x12, "TIMEOUT";
    /// The service does not redirect at this layer.
    IncompatibleLayer = 0x14, "INCOMPATIBLE_LAYER";
    /// An object refers to another that does not last as long.
    LifetimeMismatch = 0x16, "LIFETIME_MISMATCH";
    /// The object is built in and can be neither added nor deleted.
    BuiltinObject = 0x17, "BUILTIN_OBJECT";
    /// There are too many services.
    TooManyCallouts = 0x18, "TOO_MANY_CALLOUTS";
    /// A required value is missing.
    NullPointer = 0x1c, "NULL_POINTER";
    /// The number or name is not one of the possible ones.
    InvalidEnumerator = 0x1d, "INVALID_ENUMERATOR";
    /// The flags exclude each other, or do not exist for this kind of object.
    InvalidFlags = 0x1e, "INVALID_FLAGS";
    /// The prefix is longer than its address, or the address has bits set beyond it.
    InvalidNetMask = 0x1f, "INVALID_NET_MASK";
    /// The end of the range is less than its start.
    InvalidRange = 0x20, "INVALID_RANGE";
    /// A list or value is empty that must not be.
    ZeroLengthArray = 0x22, "ZERO_LENGTH_ARRAY";
    /// The object has no name.
    NullDisplayName = 0x23, "NULL_DISPLAY_NAME";
    /// There is no such action.
    InvalidActionType = 0x24, "INVALID_ACTION_TYPE";
    /// The weight class is above 15.
    InvalidWeight = 0x25, "INVALID_WEIGHT";
    /// The match type cannot be used with the field's type.
    MatchTypeMismatch = 0x26, "MATCH_TYPE_MISMATCH";
    /// The value does not have the field's type.
    TypeMismatch = 0x27, "TYPE_MISMATCH";
    /// A number, a string or a list exceeds its limit.
    OutOfBounds = 0x28, "OUT_OF_BOUNDS";
    /// The action does not exist at this layer.
    ActionIncompatibleWithLayer = 0x2c, "ACTION_INCOMPATIBLE_WITH_LAYER";
    /// No connection can satisfy the conditions.
    NeverMatch = 0x33, "NEVER_MATCH";
    /// The call has another error that no other code describes.
    InvalidParameter = 0x35, "INVALID_PARAMETER";
    /// There are more than 65,536 sublayers.
    TooManySublayers = 0x36, "TOO_MANY_SUBLAYERS";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_and_numbers_of_wfp() {
        assert_eq!(Code::LifetimeMismatch.name(), "FWP_E_LIFETIME_MISMATCH");
        assert_eq!(Code::LifetimeMismatch.number(), 0x8032_0016);
        assert_eq!(Code::TooManySublayers.number(), 0x8032_0036);
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        numbers.dedup();
        assert!(numbers.is_sorted() && numbers.len() == Code::ALL.len());
    }
}
