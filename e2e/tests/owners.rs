//! Whose process is it: known as long as its service is there, and forgotten with it, whatever is open.

use std::io::{self, Read};
use std::net::TcpStream;

use e2e::{Host, Origin, Process, listen_by_hand, mark};
use sidetrack_abi::kernel;
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{Cgroup, Service, ServiceSpec};

/// How many processes the kernel knows as services'.
fn owners(host: &mut Host) -> u64 {
    let maps = host.engine().map_usage().expect("they can be read");
    let map = maps.iter().find(|map| map.name == "processes of services");
    map.expect("it is one").used
}

fn remove(host: &mut Host, service: &Service) {
    let removed = host.engine().remove_service(service.number);
    removed.expect("no policy names it");
}

/// A proxy that forgets the records is refused, as its service's own, each time: it is known still.
fn is_known(host: &Host, origin: &Origin, times: u64) {
    assert_eq!(host.connect(&origin.address.to_string())["reply"], "");
    assert_eq!(host.count(Counter::RecordsMissing), times);
    assert_eq!(host.count(Counter::Redirected), times);
    assert_eq!(origin.accepted(), 0);
}

fn ask(to: &str) -> io::Result<String> {
    let mut reply = String::new();
    TcpStream::connect(to)?.read_to_string(&mut reply)?;
    Ok(reply)
}

/// A service with a proxy, which has a cgroup for itself or shares that of all.
fn passing(host: &mut Host, own: Option<&Cgroup>) -> (Service, Process) {
    let spec = ServiceSpec {
        owns_cgroup: own.is_some(),
        ..ServiceSpec::new("passing")
    };
    let home = own.unwrap_or(&host.service);
    let engine = host.engine.as_mut().expect("the engine is there");
    let service = engine.add_service(&spec, home).expect("there is room");
    let proxy = Process::proxy(home, Some(&service), &["answer"]);
    (service, proxy)
}

#[test]
fn services_that_go_before_their_listeners_leave_room_for_others() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("owners_room");
    let staying = host.service("staying");
    let _proxy = host.proxy(&staying, "forget");
    host.redirect_all(&[&staying]);
    is_known(&host, &origin, 1);
    for round in 0..kernel::OWNERS_MAX + 10 {
        // In the cgroup of the one that stays, and in one that is the service's alone, in turn.
        let own = (round % 2 == 0).then(|| host.service.make("own").expect("it can be made"));
        let (service, proxy) = passing(&mut host, own.as_ref());
        assert_eq!(host.engine().listeners(&service).unwrap(), (1, 1));
        assert_eq!(owners(&mut host), 2, "round {round}");
        remove(&mut host, &service);
        assert_eq!(owners(&mut host), 1, "round {round}");
        proxy.kill();
        if let Some(own) = own {
            own.remove().expect("nobody is there");
        }
    }
    is_known(&host, &origin, 2);
}

#[test]
fn process_of_a_service_that_is_gone_is_a_program_and_its_flows_go_on() {
    let mut host = Host::new("owners_left");
    let (gone, other) = (host.service("gone"), host.service("other"));
    let listener = listen_by_hand(&gone, "0.0.0.0:0", 16);
    let _other = host.proxy(&other, "answer");
    host.redirect_all(&[&gone, &other]);
    let _client = host.client(&["connect", "10.1.2.3:80"]);
    let (accepted, _) = listener.accept().expect("the client comes");
    let flow = sidetrack::query(&accepted).expect("it is redirected");
    let refused = ask("10.1.2.4:80").expect_err("it is the service's own");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    host.redirect_all(&[&other]);
    remove(&mut host, &gone);
    assert_eq!(
        ask("10.1.2.4:80").expect("it is a program's"),
        "10.1.2.4:80"
    );
    let mut reply = String::new();
    let mut onward = flow.connect().expect("the records are good");
    onward.read_to_string(&mut reply).expect("it is answered");
    assert_eq!(reply, "10.1.2.3:80");
    let again = host.service("again");
    assert_eq!(mark(&listener, &again), 0, "it was nobody's");
    let refused = ask("10.1.2.4:80").expect_err("it is the new service's own");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn number_that_is_given_anew_is_not_touched_by_what_the_old_service_left() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("owners_number");
    let gone = host.service("gone");
    let old = host.proxy(&gone, "answer");
    remove(&mut host, &gone);
    let new = loop {
        let service = host.service("new");
        if service.number == gone.number {
            break service;
        }
        remove(&mut host, &service);
    };
    assert_eq!(
        owners(&mut host),
        0,
        "the old one's process is not the new one's"
    );
    let _proxy = host.proxy(&new, "forget");
    host.redirect_all(&[&new]);
    old.kill();
    assert_eq!(host.engine().listeners(&new).unwrap(), (1, 1));
    assert_eq!(owners(&mut host), 1);
    is_known(&host, &origin, 1);
}
