//! Tests that the API returns each of WFP's error codes, and tests of conformance cases about them
//! (docs/wfp.md, 8).

use std::collections::BTreeSet;

use sidetrack_api::client::Error;
use sidetrack_api::v1;
use sidetrack_policy::{Code, SUBLAYER_UNIVERSAL};

use super::client::{ClientCalls, assert_refused};
use super::example::{condition, filter, key, provider, range, service, sublayer};
use super::harness::Daemon;

type Change = Box<dyn Fn(&mut v1::Filter)>;

/// Boxes a change of a filter.
fn changed(change: impl Fn(&mut v1::Filter) + 'static) -> Change {
    Box::new(change)
}

/// Returns a change that gives a filter one condition.
fn with_condition(field: v1::Field, match_type: i32, value: v1::value::Kind) -> Change {
    changed(move |filter| {
        filter.conditions = vec![condition(field, match_type, value.clone())];
    })
}

/// Returns changes that each make a filter invalid, with the code with which it must be refused.
fn wrong_filters() -> Vec<(Change, Code)> {
    let redirect = v1::Action::Redirect as i32;
    vec![
        (changed(|f| f.name.clear()), Code::NullDisplayName),
        (changed(|f| f.name = "x".repeat(257)), Code::OutOfBounds),
        (changed(|f| f.key = vec![1; 3]), Code::InvalidParameter),
        (changed(|f| f.key = key(9)), Code::AlreadyExists),
        (changed(|f| f.provider = key(99)), Code::ProviderNotFound),
        (changed(|f| f.sublayer = key(99)), Code::SublayerNotFound),
        (
            changed(move |f| (f.action, f.service) = (redirect, key(99))),
            Code::CalloutNotFound,
        ),
        (changed(move |f| f.action = redirect), Code::NullPointer),
        (changed(|f| f.layer = 99), Code::LayerNotFound),
        (changed(|f| f.action = 99), Code::InvalidActionType),
        (changed(|f| f.flags = 0x8000), Code::InvalidFlags),
        (
            changed(|f| f.weight = Some(v1::filter::Weight::Class(16))),
            Code::InvalidWeight,
        ),
        (
            changed(|f| f.layer = v1::Layer::FlowEstablishedV4.into()),
            Code::ActionIncompatibleWithLayer,
        ),
    ]
}

/// Returns changes that each give a filter an invalid condition.
fn wrong_conditions() -> Vec<(Change, Code)> {
    use v1::Field::{LocalInterface, Protocol, RemoteAddress, RemotePort};
    use v1::value::Kind;
    let address = |bytes: &[u8]| Kind::Address(bytes.to_vec());
    let prefix = |length| {
        let address = vec![10, 0, 0, 0];
        Kind::Prefix(v1::Prefix { address, length })
    };
    vec![
        (
            with_condition(LocalInterface, 0, Kind::Uint(1)),
            Code::ConditionNotFound,
        ),
        (
            with_condition(RemotePort, 99, Kind::Uint(1)),
            Code::InvalidEnumerator,
        ),
        (
            with_condition(RemotePort, 11, Kind::Uint(1)),
            Code::MatchTypeMismatch,
        ),
        (
            with_condition(RemotePort, 0, Kind::Path("/x".into())),
            Code::TypeMismatch,
        ),
        (
            with_condition(RemoteAddress, 0, address(&[0; 16])),
            Code::TypeMismatch,
        ),
        (
            with_condition(RemotePort, 0, Kind::Uint(65_536)),
            Code::OutOfBounds,
        ),
        (with_condition(Protocol, 5, range(7, 6)), Code::InvalidRange),
        (
            with_condition(RemoteAddress, 0, prefix(33)),
            Code::InvalidNetMask,
        ),
        (
            with_condition(RemoteAddress, 0, address(&[])),
            Code::ZeroLengthArray,
        ),
        (
            with_condition(RemoteAddress, 0, address(&[1; 5])),
            Code::InvalidParameter,
        ),
        (
            changed(|f| f.conditions = vec![v1::Condition::default()]),
            Code::NullPointer,
        ),
        (
            changed(|f| {
                let port = condition(RemotePort, 0, Kind::Uint(1));
                f.conditions = vec![port; 1025];
            }),
            Code::OutOfBounds,
        ),
        // No port is below 0.
        (
            with_condition(RemotePort, 2, Kind::Uint(0)),
            Code::NeverMatch,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_filter_is_refused_and_changes_nothing() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.try_add_filter(&session, filter(9)).await.unwrap();
    let generation = daemon.data_path.generation();
    let wrong = wrong_filters().into_iter().chain(wrong_conditions());
    for (number, (change, code)) in wrong.enumerate() {
        let mut wrong = filter(1);
        change(&mut wrong);
        let result = client.try_add_filter(&session, wrong).await;
        let error = Error::from(result.unwrap_err());
        let Error::Policy(error) = error else {
            panic!("filter {number}: {error}");
        };
        assert_eq!(error.code, code, "filter {number}: {error}");
    }
    assert_eq!(daemon.data_path.generation(), generation);
    assert_eq!(client.filters(0).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_131_a_field_that_only_windows_has_is_refused_by_name() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let mut wrong = filter(1);
    let value = v1::value::Kind::Uint(1);
    wrong.conditions = vec![condition(v1::Field::LocalInterface, 0, value)];
    let status = client.try_add_filter(&session, wrong).await.unwrap_err();
    assert!(status.message().contains("local_interface"), "{status}");
    assert_refused::<u64>(Err(status), Code::ConditionNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_135_a_range_with_its_ends_swapped_is_refused() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let mut wrong = filter(1);
    wrong.conditions = vec![condition(v1::Field::RemotePort, 5, range(443, 80))];
    assert_refused(
        client.try_add_filter(&session, wrong).await,
        Code::InvalidRange,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn case_143_a_persistent_filter_cannot_refer_to_a_dynamic_sublayer() {
    let daemon = Daemon::start().await;
    let (mut other, dynamic) = daemon.dynamic_session().await;
    let request = v1::AddSublayerRequest {
        session_id: dynamic.id(),
        sublayer: Some(sublayer(1)),
    };
    other.add_sublayer(request).await.unwrap();
    let (mut client, session) = daemon.session().await;
    let persistent = v1::Filter {
        sublayer: key(1),
        flags: v1::Flag::Persistent as u32,
        ..filter(1)
    };
    let result = client.try_add_filter(&session, persistent).await;
    assert_refused(result, Code::LifetimeMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn case_149_boot_time_and_persistent_exclude_one_another() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let both = v1::Filter {
        flags: v1::Flag::Persistent as u32 | v1::Flag::BootTime as u32,
        ..filter(1)
    };
    assert_refused(
        client.try_add_filter(&session, both).await,
        Code::InvalidFlags,
    );
}

/// The codes that no other test of this folder causes.
#[tokio::test(flavor = "multi_thread")]
async fn every_other_code_is_returned() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let id = session.id();
    let delete = |number| v1::DeleteRequest {
        session_id: id,
        key: key(number),
    };
    let get = |number| v1::GetRequest {
        session_id: 0,
        key: key(number),
    };
    assert_refused(client.delete_filter(delete(9)).await, Code::FilterNotFound);
    assert_refused(client.get_provider(get(9)).await, Code::ProviderNotFound);
    assert_refused(client.get_service(get(9)).await, Code::CalloutNotFound);
    let nothing = v1::GetRequest::default();
    assert_refused(client.get_filter(nothing).await, Code::NullPointer);
    let universal = delete(SUBLAYER_UNIVERSAL.as_u128());
    assert_refused(client.delete_sublayer(universal).await, Code::BuiltinObject);
    let request = v1::AddServiceRequest {
        session_id: id,
        service: Some(service(1)),
    };
    client.add_service(request.clone()).await.unwrap();
    assert_refused(client.add_service(request).await, Code::AlreadyExists);
    let to_service = v1::Filter {
        action: v1::Action::Redirect.into(),
        service: key(1),
        ..filter(1)
    };
    client.try_add_filter(&session, to_service).await.unwrap();
    assert_refused(client.delete_service(delete(1)).await, Code::InUse);
    let nothing = v1::AddProviderRequest {
        session_id: id,
        provider: None,
    };
    assert_refused(client.add_provider(nothing).await, Code::NullPointer);
    let unknown_session = v1::AddProviderRequest {
        session_id: id ^ 1,
        provider: Some(provider(1)),
    };
    assert_refused(
        client.add_provider(unknown_session).await,
        Code::SessionAborted,
    );
    let flow = v1::explain_request::Subject::FlowId(9);
    let request = v1::ExplainRequest {
        subject: Some(flow),
        layer: 0,
    };
    assert_refused(client.explain(request).await, Code::NotFound);
    let request = v1::ExplainRequest::default();
    assert_refused(client.explain(request).await, Code::NullPointer);
    // The data path's error is passed on to the client.
    daemon.data_path.recorded().refuse = Some(Code::OutOfBounds);
    let result = client.try_add_filter(&session, filter(2)).await;
    assert_refused(result, Code::OutOfBounds);
}

/// Codes that no call returns yet. They are reserved.
const UNREACHABLE: [Code; 1] = [Code::IncompatibleLayer];

/// Every code must be named in a test of this folder, so that a test has seen it.
#[test]
fn every_code_is_named_by_a_test_of_the_api() {
    let tests = [
        include_str!("codes.rs"),
        include_str!("limits.rs"),
        include_str!("objects.rs"),
        include_str!("sessions.rs"),
        include_str!("transactions.rs"),
    ]
    .concat();
    let unnamed: BTreeSet<String> = Code::ALL
        .iter()
        .filter(|code| !UNREACHABLE.contains(code))
        .map(|code| format!("Code::{code:?}"))
        .filter(|name| !tests.contains(name))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}
