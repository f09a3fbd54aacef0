//! Why a call was refused, by WFP's names and numbers (specification, 4.9).

use std::fmt;

/// A refusal. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", .code.name())]
pub struct Error {
    /// Which rule was broken.
    pub code: Code,
    /// What was wrong, with what, and what to do.
    pub message: String,
}

impl Error {
    /// A refusal with its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $low:literal, $text:literal;)+) => {
        /// The rule that was broken. Each is WFP's FWP_E_… of the same name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// WFP's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("FWP_E_", $text),)+ }
            }

            /// WFP's number, 0x8032xxxx.
            pub fn number(self) -> u32 {
                0x8032_0000 | match self { $(Self::$name => $low,)+ }
            }
        }
    };
}

codes! {
    /// No service (redirect handle) of this key.
    CalloutNotFound = 0x01, "CALLOUT_NOT_FOUND";
    /// The field does not exist at this layer, or has no meaning on Linux.
    ConditionNotFound = 0x02, "CONDITION_NOT_FOUND";
    /// No filter of this key.
    FilterNotFound = 0x03, "FILTER_NOT_FOUND";
    /// No such layer.
    LayerNotFound = 0x04, "LAYER_NOT_FOUND";
    /// No provider of this key.
    ProviderNotFound = 0x05, "PROVIDER_NOT_FOUND";
    /// No sublayer of this key.
    SublayerNotFound = 0x07, "SUBLAYER_NOT_FOUND";
    /// No such object.
    NotFound = 0x08, "NOT_FOUND";
    /// An object of this key or name exists.
    AlreadyExists = 0x09, "ALREADY_EXISTS";
    /// Another object refers to it.
    InUse = 0x0a, "IN_USE";
    /// Not allowed in a dynamic session.
    DynamicSessionInProgress = 0x0b, "DYNAMIC_SESSION_IN_PROGRESS";
    /// The object is another session's, or another provider's.
    WrongSession = 0x0c, "WRONG_SESSION";
    /// Commit or abort without begin.
    NoTxnInProgress = 0x0d, "NO_TXN_IN_PROGRESS";
    /// Begin within a transaction.
    TxnInProgress = 0x0e, "TXN_IN_PROGRESS";
    /// The transaction was held too long, and is gone.
    TxnAborted = 0x0f, "TXN_ABORTED";
    /// The session is gone.
    SessionAborted = 0x10, "SESSION_ABORTED";
    /// A change within a read-only transaction.
    IncompatibleTxn = 0x11, "INCOMPATIBLE_TXN";
    /// Another writer did not finish in time.
    Timeout = 0x12, "TIMEOUT";
    /// A service that does not redirect at this layer.
    IncompatibleLayer = 0x14, "INCOMPATIBLE_LAYER";
    /// An object refers to one that lives shorter.
    LifetimeMismatch = 0x16, "LIFETIME_MISMATCH";
    /// Built in: it can be neither added nor deleted.
    BuiltinObject = 0x17, "BUILTIN_OBJECT";
    /// More services than fit.
    TooManyCallouts = 0x18, "TOO_MANY_CALLOUTS";
    /// Something that must be given is missing.
    NullPointer = 0x1c, "NULL_POINTER";
    /// A number that names nothing.
    InvalidEnumerator = 0x1d, "INVALID_ENUMERATOR";
    /// Flags that exclude one another.
    InvalidFlags = 0x1e, "INVALID_FLAGS";
    /// A prefix longer than its address.
    InvalidNetMask = 0x1f, "INVALID_NET_MASK";
    /// A range that ends before it begins.
    InvalidRange = 0x20, "INVALID_RANGE";
    /// An empty list where one is needed.
    ZeroLengthArray = 0x22, "ZERO_LENGTH_ARRAY";
    /// No name.
    NullDisplayName = 0x23, "NULL_DISPLAY_NAME";
    /// No such action.
    InvalidActionType = 0x24, "INVALID_ACTION_TYPE";
    /// A weight class over 15.
    InvalidWeight = 0x25, "INVALID_WEIGHT";
    /// The match type does not go with the field's type.
    MatchTypeMismatch = 0x26, "MATCH_TYPE_MISMATCH";
    /// The value's type is not the field's.
    TypeMismatch = 0x27, "TYPE_MISMATCH";
    /// A number, a text or a list beyond its limit.
    OutOfBounds = 0x28, "OUT_OF_BOUNDS";
    /// The action does not exist at this layer.
    ActionIncompatibleWithLayer = 0x2c, "ACTION_INCOMPATIBLE_WITH_LAYER";
    /// The conditions exclude one another.
    NeverMatch = 0x33, "NEVER_MATCH";
    /// Anything else that was asked wrongly.
    InvalidParameter = 0x35, "INVALID_PARAMETER";
    /// More sublayers than 65,536.
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
    fn codes_have_wfps_names_and_numbers() {
        assert_eq!(Code::LifetimeMismatch.name(), "FWP_E_LIFETIME_MISMATCH");
        assert_eq!(Code::LifetimeMismatch.number(), 0x8032_0016);
        assert_eq!(Code::TooManySublayers.number(), 0x8032_0036);
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        numbers.dedup();
        assert!(numbers.is_sorted() && numbers.len() == Code::ALL.len());
    }
}
