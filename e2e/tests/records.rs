//! Proxies that set no records: a fault of one that should, the nature of one that cannot.

use e2e::{Host, Origin, Process};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::event::EventKind;
use sidetrack_engine::{Cgroup, Config, Engine, Filter, RecordsMode, Service, ServiceSpec};

#[test]
fn proxy_that_forgets_the_records_is_blocked_and_reported() {
    let origin = Origin::start("127.0.0.1:0");
    let to = origin.address.to_string();
    let mut host = Host::new("forgets");
    let service = host.service("forgetful");
    let proxy = host.proxy(&service, "forget");
    host.redirect_all(&[&service]);
    let told = host.connect(&to);
    assert_eq!(told["reply"], "", "the proxy could not go on: {told}");
    let event = host.await_event(EventKind::RecordsMissing, &to);
    assert_eq!((event.service, event.pid), (service.number, proxy.id()));
    assert_eq!(
        host.count(Counter::RecordsMissing),
        1,
        "once: it is no loop"
    );
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(origin.accepted(), 0);
}

#[test]
fn proxy_that_forgets_the_records_goes_straight_if_its_own_traffic_is_permitted() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("forgets_permitted");
    let service = host.service_of(&ServiceSpec {
        records: RecordsMode::Required { permit_own: true },
        ..ServiceSpec::new("forgetful")
    });
    let _proxy = host.proxy(&service, "forget");
    host.redirect_all(&[&service]);
    let told = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::Redirected), 1);
    assert_eq!(host.count(Counter::RecordsMissing), 0);
}

/// One connection through [first, legacy, last]: one at each, one at the origin.
fn legacy_in_a_chain(test: &str, kind: &str) {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new(test);
    let (first, last) = (host.service("first"), host.service("last"));
    let (first_proxy, last_proxy) = (host.relay(&first), host.relay(&last));
    let legacy_proxy = host.legacy_proxy(kind);
    let legacy = host
        .engine()
        .adopt_service("legacy", legacy_proxy.addresses[0])
        .expect("it listens");
    host.redirect_all(&[&first, &legacy, &last]);
    once_each(&host, &origin);
    assert_eq!(first_proxy.flows().len(), 1);
    let chain: Vec<_> = last_proxy.flows()[0].chain().map(str::to_owned).collect();
    assert_eq!(chain, ["first", "legacy", "last"]);
    assert_eq!(last_proxy.flows().len(), 1);
}

fn once_each(host: &Host, origin: &Origin) {
    let told = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(host.count(Counter::Redirected), 3);
    assert_eq!(host.count(Counter::HandedOver), 3);
}

#[test]
fn legacy_proxy_in_a_chain_is_judged_from_behind_its_place() {
    legacy_in_a_chain("legacy", "legacy");
}

#[test]
fn legacy_proxy_whose_children_go_on_is_known_by_descent() {
    legacy_in_a_chain("legacy_forking", "legacy-forking");
}

#[test]
fn legacy_service_that_owns_its_cgroup_is_known_by_it() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("legacy_cgroup");
    let home = host.service.make("vendor").expect("a cgroup can be made");
    let spec = ServiceSpec {
        owns_cgroup: true,
        ..ServiceSpec::legacy("legacy")
    };
    let (first, last) = (host.service("first"), host.service("last"));
    let _proxies = [host.relay(&first), host.relay(&last)];
    let legacy = host
        .engine()
        .add_service(&spec, &home)
        .expect("it can be added");
    let _vendor = Process::proxy(&home, Some(&legacy), &["forget"]);
    host.redirect_all(&[&first, &legacy, &last]);
    once_each(&host, &origin);
}

#[test]
fn two_legacy_proxies_of_two_vendors_see_a_connection_once_each() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("two_legacy");
    let proxies = [
        host.legacy_proxy("legacy"),
        host.legacy_proxy("legacy-forking"),
    ];
    let last = host.service("last");
    let _last_proxy = host.relay(&last);
    let mut services: Vec<Service> = proxies
        .iter()
        .map(|proxy| host.engine().adopt_service("vendor", proxy.addresses[0]))
        .collect::<Result<_, _>>()
        .expect("they listen");
    services.push(last);
    host.redirect_all(&services.iter().collect::<Vec<_>>());
    once_each(&host, &origin);
}

#[test]
fn last_filter_of_a_legacy_service_is_its_place() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("legacy_place");
    let proxy = host.legacy_proxy("legacy");
    let legacy = host
        .engine()
        .adopt_service("legacy", proxy.addresses[0])
        .expect("it listens");
    let (between, last) = (host.service("between"), host.service("last"));
    let (between_proxy, last_proxy) = (host.relay(&between), host.relay(&last));
    host.redirect_all(&[&legacy, &between, &legacy, &last]);
    let told = host.connect_and_send(&origin.address.to_string(), "x");
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!(origin.accepted(), 1);
    assert_eq!(last_proxy.flows().len(), 1);
    assert_eq!(
        between_proxy.flows().len(),
        0,
        "it is before legacy's last filter"
    );
}

/// The scope is only the programs' cgroup; the hooks are at the services' too.
fn narrow(test: &str) -> (Host, Service) {
    let mut host = Host::bare(test);
    let engine = Engine::open(&host.program, Config::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach());
    host.engine = Some(engine.expect("an engine"));
    host.enter_service();
    let service = host.service("inspect");
    host.redirect_all(&[&service]);
    (host, service)
}

#[test]
fn program_outside_the_scope_is_untouched() {
    let origin = Origin::start("127.0.0.1:0");
    let (host, service) = narrow("outside");
    let proxy = host.answer(&service);
    let bystander = host
        .service
        .make("bystander")
        .expect("a cgroup can be made");
    let to = origin.address.to_string();
    let told = straight(&host, &bystander, &to);
    assert_eq!(told["reply"], "originx", "{told}");
    assert_eq!(told["peer"], to);
    assert_eq!(proxy.flows().len(), 0);
    assert_eq!(
        host.connect("10.1.2.3:80")["reply"],
        "10.1.2.3:80",
        "within, it is diverted"
    );
}

fn straight(host: &Host, cgroup: &Cgroup, to: &str) -> serde_json::Value {
    host.client_in(cgroup, &["connect", to, "--send", "x"])
        .json()
}

#[test]
fn child_of_a_service_in_another_cgroup_is_a_program_of_its_own() {
    // This process is the service's; its child in the programs' cgroup is diverted all the same.
    let (host, service) = narrow("child_program");
    let _answering = host.answer(&service);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    // In the service's own cgroup, a child is the service.
    let told = host
        .client_in(&host.service, &["connect", "10.1.2.3:80"])
        .json();
    assert_eq!(told["errno"], libc::EPERM, "{told}");
    assert_eq!(host.count(Counter::RecordsMissing), 1);
}

#[test]
fn filters_that_do_not_match_do_not_touch_a_services_own_traffic() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("own_unmatched");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.set_policy(&[Filter {
        remote: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::redirect_all(service.number)
    }]);
    std::net::TcpStream::connect(origin.address).expect("no filter matches");
    assert_eq!(host.count(Counter::RecordsMissing), 0);
}
