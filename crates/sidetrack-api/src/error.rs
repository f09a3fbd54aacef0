//! Conversion between policy errors and gRPC statuses.

use sidetrack_policy::{Code, Error};
use tonic::Status;

/// Name of the metadata entry that holds WFP's error number, in decimal.
pub const CODE_METADATA: &str = "sidetrack-code";
/// Name of the metadata entry that holds WFP's error name.
pub const NAME_METADATA: &str = "sidetrack-name";

/// The status for an error, with its message, and with WFP's number and name as metadata.
pub fn status(error: &Error) -> Status {
    let mut status = Status::new(grpc_code(error.code), &error.message);
    let metadata = status.metadata_mut();
    metadata.insert(CODE_METADATA, error.code.number().into());
    metadata.insert(
        NAME_METADATA,
        tonic::metadata::MetadataValue::from_static(error.code.name()),
    );
    status
}

/// The error in a status; none if the status is not from a policy error.
pub fn policy_error(status: &Status) -> Option<Error> {
    let number: u32 = status
        .metadata()
        .get(CODE_METADATA)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    let code = Code::ALL.iter().find(|code| code.number() == number)?;
    Some(Error::new(*code, status.message()))
}

/// The gRPC code that resembles a policy error most, for clients that do not read the metadata.
fn grpc_code(code: Code) -> tonic::Code {
    use tonic::Code as Grpc;
    match code {
        Code::CalloutNotFound
        | Code::FilterNotFound
        | Code::ProviderNotFound
        | Code::SublayerNotFound
        | Code::NotFound => Grpc::NotFound,
        Code::AlreadyExists => Grpc::AlreadyExists,
        Code::WrongSession => Grpc::PermissionDenied,
        Code::Timeout => Grpc::DeadlineExceeded,
        Code::TxnAborted | Code::SessionAborted => Grpc::Aborted,
        Code::TooManyCallouts | Code::TooManySublayers => Grpc::ResourceExhausted,
        Code::InUse
        | Code::DynamicSessionInProgress
        | Code::NoTxnInProgress
        | Code::TxnInProgress
        | Code::IncompatibleTxn
        | Code::LifetimeMismatch
        | Code::BuiltinObject => Grpc::FailedPrecondition,
        _ => Grpc::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_from_its_status() {
        for &code in Code::ALL {
            let error = Error::new(code, format!("because of {code}"));
            assert_eq!(policy_error(&status(&error)), Some(error));
        }
        assert_eq!(policy_error(&Status::unavailable("no daemon")), None);
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let page = include_str!("../../../docs/daemon.md");
        for code in Code::ALL {
            let row = format!("| {} | {:#010x} | ", code.name(), code.number());
            assert!(page.contains(&row), "docs/daemon.md has no row {row:?}");
        }
    }
}
