//! Tests of adding, listing and applying objects, and of the permissions for it.

use sidetrack_api::client::{Client, Session};
use sidetrack_api::config::Config;
use sidetrack_api::v1;
use sidetrack_policy::{Code, Identity, SUBLAYER_UNIVERSAL, Uuid};

use super::client::{AS_EXPECTED, ClientCalls, assert_refused};
use super::example::{filter, key, policy, provider, service, sublayer};
use super::harness::Daemon;
use super::user::group_writes;

/// Returns a filter without a key.
fn named(name: &str) -> v1::Filter {
    v1::Filter {
        key: Vec::new(),
        name: name.into(),
        ..filter(1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_returned_as_it_was_added_and_lists_span_several_messages() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let given = v1::Filter {
        sublayer: Vec::new(),
        weight: Some(v1::filter::Weight::Class(3)),
        ..filter(1)
    };
    let id = client
        .try_add_filter(&session, given.clone())
        .await
        .unwrap();
    let request = v1::GetRequest {
        session_id: 0,
        key: key(1),
    };
    let got = client.get_filter(request).await.unwrap().into_inner();
    let expected = v1::Filter {
        id,
        lifetime: v1::Lifetime::Static.into(),
        sublayer: SUBLAYER_UNIVERSAL.as_bytes().to_vec(),
        effective_weight: got.effective_weight,
        ..given
    };
    assert_eq!(got, expected);
    let many = policy((2..=3000).map(filter).collect());
    client.try_apply(&session, many).await.unwrap();
    let all = client.filters(0).await;
    assert_eq!(all.len(), 3000);
    assert!(all.is_sorted_by_key(|filter| filter.key.clone()));
    assert_eq!(all.iter().filter(|each| each.owner == "mine").count(), 2999);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_can_be_limited_to_one_provider() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let request = v1::ApplyPolicyRequest {
        providers: vec![provider(1), provider(2)],
        sublayers: vec![
            v1::Sublayer {
                provider: key(1),
                ..sublayer(1)
            },
            sublayer(2),
        ],
        services: vec![service(1)],
        ..policy(Vec::new())
    };
    client.try_apply(&session, request).await.unwrap();
    let request = |provider| v1::ListRequest {
        session_id: 0,
        provider,
    };
    let mut messages = client
        .list_sublayers(request(key(1)))
        .await
        .unwrap()
        .into_inner();
    let message = messages.message().await.unwrap().unwrap();
    assert_eq!(message.sublayers.len(), 1);
    let mut messages = client
        .list_providers(request(Vec::new()))
        .await
        .unwrap()
        .into_inner();
    let message = messages.message().await.unwrap().unwrap();
    assert_eq!(message.providers.len(), 2);
    let mut messages = client
        .list_services(request(Vec::new()))
        .await
        .unwrap()
        .into_inner();
    let message = messages.message().await.unwrap().unwrap();
    assert!(message.services[0].listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_applied_in_one_commit_and_a_dry_run_only_reports() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    let first = policy(vec![named("a"), named("b")]);
    let generation = daemon.data_path.generation();
    let dry = v1::ApplyPolicyRequest {
        dry_run: true,
        ..first.clone()
    };
    let preview = client.try_apply(&session, dry).await.unwrap();
    assert_eq!((preview.added, preview.changes.len()), (2, 2));
    assert_eq!(daemon.data_path.generation(), generation);
    let applied = client.try_apply(&session, first.clone()).await.unwrap();
    assert_eq!((applied.added, applied.generation), (2, generation + 1));
    let key_of_a = Identity::applied_key("mine", "filter", "a");
    assert!(daemon.data_path.in_force().contains(&key_of_a.as_u128()));
    // Applying the same policy again is not a commit.
    let again = client.try_apply(&session, first).await.unwrap();
    assert_eq!((again.unchanged, again.generation), (2, generation + 1));
    let blocking = v1::Filter {
        action: v1::Action::Block.into(),
        ..named("a")
    };
    let second = v1::ApplyPolicyRequest {
        dry_run: true,
        ..policy(vec![blocking, named("c")])
    };
    let preview = client.try_apply(&session, second).await.unwrap();
    assert_eq!(
        (preview.added, preview.replaced, preview.removed),
        (1, 1, 1)
    );
    let replaced = preview
        .changes
        .iter()
        .find(|change| change.operation() == v1::change::Operation::Replace)
        .unwrap();
    let action = |object: &Option<v1::Object>| match &object.as_ref().unwrap().kind {
        Some(v1::object::Kind::Filter(filter)) => filter.action(),
        other => panic!("{other:?}"),
    };
    assert_eq!(action(&replaced.before), v1::Action::Permit);
    assert_eq!(action(&replaced.after), v1::Action::Block);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_changes_nothing_even_in_a_transaction() {
    let daemon = Daemon::start().await;
    let (mut client, session) = daemon.session().await;
    client.begin(&session, false).await.unwrap();
    let good = policy(vec![named("a")]);
    client.try_apply(&session, good).await.unwrap();
    let twice = policy(vec![named("b"), named("c"), named("c")]);
    let result = client.try_apply(&session, twice).await;
    assert_refused(result, Code::AlreadyExists);
    let dangling = v1::Filter {
        sublayer: key(9),
        ..named("d")
    };
    let result = client
        .try_apply(&session, policy(vec![named("b"), dangling]))
        .await;
    assert_refused(result, Code::SublayerNotFound);
    client.commit_transaction(&session).await.unwrap();
    let names: Vec<_> = client
        .filters(0)
        .await
        .into_iter()
        .map(|f| f.name)
        .collect();
    assert_eq!(names, ["a"]);
}

/// Runs a client in a separate process as a user and a group, and checks that it succeeds.
fn run_as(daemon: &Daemon, subcommand: &str, user: u32, group: u32) {
    let output = daemon.client_as(subcommand, user, group).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains(AS_EXPECTED),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The user id of the vendor.
const VENDOR: u32 = 65_534;

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_host_group_adds_filters_for_all_users() {
    let (mut config, group) = config_with_write_group();
    config.access.host_group = config.access.write_group.clone();
    let daemon = Daemon::start_with(config).await;
    let (mut client, session) = daemon.session().await;
    change_as_root_and_vendor(&daemon, &mut client, &session, group).await;
    let users = users_of_filters(&mut client).await;
    assert_eq!(users, [(0, None), (VENDOR, None)]);
}

/// Returns a configuration in which only root and the members of one group read and write, and the id of
/// that group.
fn config_with_write_group() -> (Config, u32) {
    let (mut config, group) = group_writes();
    config.access.everyone_reads = false;
    (config, group)
}

/// Root adds a provider, a service and a filter, and then a vendor its own ones.
async fn change_as_root_and_vendor(
    daemon: &Daemon,
    client: &mut Client,
    session: &Session,
    group: u32,
) {
    let request = v1::ApplyPolicyRequest {
        providers: vec![provider(1)],
        services: vec![service(1)],
        filters: vec![filter(1)],
        ..policy(Vec::new())
    };
    client.try_apply(session, request).await.unwrap();
    tokio::task::block_in_place(|| run_as(daemon, "change-as-vendor", VENDOR, group));
}

/// Returns, for each filter, the user that added it, and the user to whom it is restricted.
async fn users_of_filters(client: &mut Client) -> Vec<(u32, Option<u32>)> {
    let filters = client.filters(0).await;
    let users = filters.iter().map(|filter| (filter.user, filter.only_user));
    users.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_changes_its_own_objects_only() {
    let (config, group) = config_with_write_group();
    let daemon = Daemon::start_with(config).await;
    let (mut client, session) = daemon.session().await;
    change_as_root_and_vendor(&daemon, &mut client, &session, group).await;
    assert_eq!(daemon.data_path.in_force(), [1, 2]);
    let users = users_of_filters(&mut client).await;
    assert_eq!(users, [(0, None), (VENDOR, Some(VENDOR))]);
    // The vendor has added a service of the same name as root's, which stands for root's still.
    let by_name = v1::RegisterServiceRequest {
        session_id: session.id(),
        service: Some(v1::register_service_request::Service::Name(
            "proxy 1".into(),
        )),
    };
    let registered = client.register_service(by_name).await.unwrap();
    assert_eq!(registered.into_inner().key, key(1));
    let vendors = v1::DeleteRequest {
        session_id: session.id(),
        key: Uuid::from_u128(2).as_bytes().to_vec(),
    };
    client.delete_filter(vendors).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_in_no_group_may_only_ask_for_the_version() {
    let (config, _) = config_with_write_group();
    let daemon = Daemon::start_with(config).await;
    tokio::task::block_in_place(|| run_as(&daemon, "ask-as-stranger", 65_534, 65_534));
}
