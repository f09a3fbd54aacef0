//! Short forms of a client's calls, and of assertions about them.

use sidetrack_api::client::{Client, Error, Session};
use sidetrack_api::v1;
use sidetrack_policy::Code;

use super::example::{filter, key, sublayer};

/// What a client in a separate process prints if every call had the result that it must have.
pub(super) const AS_EXPECTED: &str = "as it should be";

/// Asserts that a call was refused with one of WFP's codes.
#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code) {
    match Error::from(result.unwrap_err()) {
        Error::Policy(error) => {
            assert_eq!(error.code, code, "{error}");
            assert!(!error.message.is_empty());
        }
        other => panic!("expected {code}, got {other}"),
    }
}

/// Adds a sublayer and a filter in it.
pub(super) async fn add_two_objects(client: &mut Client, session: &Session) {
    let request = v1::AddSublayerRequest {
        session_id: session.id(),
        sublayer: Some(sublayer(1)),
    };
    client.add_sublayer(request).await.unwrap();
    let own = v1::Filter {
        sublayer: key(1),
        ..filter(1)
    };
    client.try_add_filter(session, own).await.unwrap();
}

/// Short forms of calls.
pub(super) trait ClientCalls {
    async fn try_add_filter(
        &mut self,
        session: &Session,
        filter: v1::Filter,
    ) -> Result<u64, tonic::Status>;
    async fn begin(&mut self, session: &Session, read_only: bool) -> Result<u64, tonic::Status>;
    async fn commit_transaction(&mut self, session: &Session) -> Result<u64, tonic::Status>;
    async fn abort_transaction(&mut self, session: &Session) -> Result<(), tonic::Status>;
    async fn try_apply(
        &mut self,
        session: &Session,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse, tonic::Status>;
    async fn filters(&mut self, session: u64) -> Vec<v1::Filter>;
}

impl ClientCalls for Client {
    async fn try_add_filter(
        &mut self,
        session: &Session,
        filter: v1::Filter,
    ) -> Result<u64, tonic::Status> {
        let request = v1::AddFilterRequest {
            session_id: session.id(),
            filter: Some(filter),
        };
        Ok(self.add_filter(request).await?.into_inner().id)
    }

    async fn begin(&mut self, session: &Session, read_only: bool) -> Result<u64, tonic::Status> {
        let request = v1::BeginTransactionRequest {
            session_id: session.id(),
            read_only,
        };
        Ok(self
            .begin_transaction(request)
            .await?
            .into_inner()
            .generation)
    }

    async fn commit_transaction(&mut self, session: &Session) -> Result<u64, tonic::Status> {
        let session_id = session.id();
        let committed = self.commit(v1::CommitRequest { session_id }).await?;
        Ok(committed.into_inner().generation)
    }

    async fn abort_transaction(&mut self, session: &Session) -> Result<(), tonic::Status> {
        let session_id = session.id();
        self.abort(v1::AbortRequest { session_id }).await.map(drop)
    }

    async fn try_apply(
        &mut self,
        session: &Session,
        request: v1::ApplyPolicyRequest,
    ) -> Result<v1::ApplyPolicyResponse, tonic::Status> {
        let request = v1::ApplyPolicyRequest {
            session_id: session.id(),
            ..request
        };
        Ok(self.apply_policy(request).await?.into_inner())
    }

    async fn filters(&mut self, session_id: u64) -> Vec<v1::Filter> {
        let request = v1::ListRequest {
            session_id,
            provider: Vec::new(),
        };
        let mut messages = self.list_filters(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            assert!((1..=1024).contains(&message.filters.len()));
            all.extend(message.filters);
        }
        all
    }
}
