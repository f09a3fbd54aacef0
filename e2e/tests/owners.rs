//! Owners: the kernel recognises a service's processes as long as the service exists, and forgets
//! them with it, even if their sockets are still open.

use std::io::{self, Read};
use std::net::TcpStream;

use e2e::{Host, Origin, Process, listen_marked, mark};
use sidetrack_abi::kernel;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Cgroup, RegisteredService, ServiceSpec};

/// Number of processes that the kernel knows to belong to a service.
fn owners(host: &mut Host) -> u64 {
    let maps = host.engine().map_usage().expect("the maps are readable");
    let map = maps.iter().find(|map| map.name == "processes of services");
    map.expect("the map is listed").used
}

fn remove(host: &mut Host, service: &RegisteredService) {
    let removed = host.engine().remove_service(service.number);
    removed.expect("no policy names the service");
}

/// Asserts that the proxy's connect without records is refused, which shows that the kernel
/// recognises the proxy. `times` is the number of such refusals so far.
fn assert_recognised(host: &Host, origin: &Origin, times: u64) {
    assert_eq!(host.connect(&origin.address.to_string())["reply"], "");
    assert_eq!(host.count(Counter::RecordsMissing), times);
    assert_eq!(host.count(Counter::Redirected), times);
    assert_eq!(origin.accepted(), 0);
}

/// Connects from this process, and reads until the end.
fn connect_and_read(to: &str) -> io::Result<String> {
    let mut reply = String::new();
    TcpStream::connect(to)?.read_to_string(&mut reply)?;
    Ok(reply)
}

/// A service with a proxy. With `own` the service owns that cgroup; otherwise the proxy is in the
/// cgroup of all proxies.
fn temporary_service(host: &mut Host, own: Option<&Cgroup>) -> (RegisteredService, Process) {
    let spec = ServiceSpec {
        owns_cgroup: own.is_some(),
        ..ServiceSpec::new("temporary")
    };
    let home = own.unwrap_or(&host.service_cgroup);
    let engine = host.engine.as_mut().expect("the engine exists");
    let service = engine.add_service(&spec, home).expect("there is room");
    let proxy = Process::proxy(home, Some(&service), &["answer"]);
    (service, proxy)
}

#[test]
fn services_removed_before_their_listeners_leave_room_for_others() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("owners_room");
    let permanent = host.service("permanent");
    let _proxy = host.proxy(&permanent, "without-records");
    host.redirect_all(&[&permanent]);
    assert_recognised(&host, &origin, 1);
    for round in 0..kernel::OWNERS_MAX + 10 {
        // In turn, the proxy is in the cgroup of the other service, and in a cgroup that its
        // service owns.
        let own =
            (round % 2 == 0).then(|| host.service_cgroup.make("own").expect("the cgroup is made"));
        let (service, proxy) = temporary_service(&mut host, own.as_ref());
        assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 1));
        assert_eq!(owners(&mut host), 2, "round {round}");
        remove(&mut host, &service);
        assert_eq!(owners(&mut host), 1, "round {round}");
        proxy.kill();
        if let Some(own) = own {
            own.remove().expect("the cgroup is empty");
        }
    }
    assert_recognised(&host, &origin, 2);
}

#[test]
fn process_of_a_removed_service_is_a_program_and_its_flows_continue() {
    let mut host = Host::new("owners_removed");
    let (removed, other) = (host.service("removed"), host.service("other"));
    let listener = listen_marked(&removed, "0.0.0.0:0", 16);
    let _other = host.proxy(&other, "answer");
    host.redirect_all(&[&removed, &other]);
    let _client = host.client(&["connect", "10.1.2.3:80"]);
    let (accepted, _) = listener.accept().expect("the client connects");
    let flow = sidetrack::query(&accepted).expect("the connection was redirected");
    let refused = connect_and_read("10.1.2.4:80").expect_err("this process is the service's");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    host.redirect_all(&[&other]);
    remove(&mut host, &removed);
    assert_eq!(
        connect_and_read("10.1.2.4:80").expect("this process is an ordinary program"),
        "10.1.2.4:80"
    );
    let mut reply = String::new();
    let mut outgoing = flow.connect().expect("the records are still valid");
    outgoing
        .read_to_string(&mut reply)
        .expect("the other service answers");
    assert_eq!(reply, "10.1.2.3:80");
    let new = host.service("new");
    assert_eq!(mark(&listener, &new), 0, "the listener had no service");
    let refused = connect_and_read("10.1.2.4:80").expect_err("this process is the new service's");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn reused_service_number_does_not_inherit_the_old_services_processes() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("owners_number");
    let removed = host.service("removed");
    let old = host.proxy(&removed, "answer");
    remove(&mut host, &removed);
    let new = loop {
        let service = host.service("new");
        if service.number == removed.number {
            break service;
        }
        remove(&mut host, &service);
    };
    assert_eq!(
        owners(&mut host),
        0,
        "the old service's process is not the new service's"
    );
    let _proxy = host.proxy(&new, "without-records");
    host.redirect_all(&[&new]);
    old.kill();
    assert_eq!(host.engine().listeners(&new).unwrap().tcp(), (1, 1));
    assert_eq!(owners(&mut host), 1);
    assert_recognised(&host, &origin, 1);
}
