//! The daemon's errors as statuses of gRPC.

use tonic::Status;

use crate::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Policy(refusal) => sidetrack_api::status(refusal),
            Error::Denied(denied) => Self::permission_denied(denied.to_string()),
            Error::QuotaExceeded(_) => Self::resource_exhausted(error.to_string()),
            Error::Adopted(_) => Self::failed_precondition(error.to_string()),
            Error::Stopping => Self::unavailable(error.to_string()),
            Error::Store(_)
            | Error::DataPath(_)
            | Error::Committer(_)
            | Error::UnknownGroup(_)
            | Error::Mismatch(_)
            | Error::Reflection(_)
            | Error::Runtime(_) => Self::internal(error.with_sources()),
        }
    }
}
