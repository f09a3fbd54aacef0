//! The SDK's `Registration`, which adds a service with its objects, and starts its listeners, in
//! one call.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use e2e::{Daemon, Host, Origin, Process, wait};
use sidetrack::daemon::{Registration, v1};
use sidetrack::{Error, Listener, Service};

fn filter(layer: v1::Layer) -> v1::Filter {
    v1::Filter {
        name: "everything".into(),
        layer: layer.into(),
        action: v1::Action::Redirect.into(),
        ..Default::default()
    }
}

/// Starts a proxy that answers with the original destination until the process ends.
fn answer(service: &Service) -> Result<(), Error> {
    let listener = Listener::bind(service)?;
    thread::spawn(move || {
        while let Ok(connection) = listener.accept() {
            let (mut stream, flow) = connection.into_parts();
            let _ = write!(stream, "{}", flow.original_destination());
        }
    });
    Ok(())
}

/// Registers a service with its own objects. `times` is the number of calls of the function that
/// listens.
fn register(daemon: &Daemon, times: &Arc<AtomicUsize>) -> Registration {
    let times = Arc::clone(times);
    let listen = move |service: &Service| -> Result<(), Error> {
        times.fetch_add(1, Ordering::Relaxed);
        answer(service)
    };
    Registration::of("inspect")
        .socket(daemon.socket())
        .provider(v1::Provider {
            name: "acme".into(),
            ..Default::default()
        })
        .sublayer(v1::Sublayer {
            name: "acme".into(),
            weight: 7,
            ..Default::default()
        })
        .service(v1::Service::default())
        .filter(filter(v1::Layer::ConnectRedirectV4))
        .open(listen)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn sessions(daemon: &Daemon) -> Vec<v1::SessionState> {
    daemon.api().state().sessions
}

/// Number of processes that the kernel knows to belong to a service.
fn processes(daemon: &Daemon) -> u64 {
    let tables = daemon.api().state().tables;
    let mut tables = tables.iter();
    let table = tables.find(|table| table.name == "processes of services");
    table.expect("the table is listed").used
}

#[test]
fn vendor_example_works_without_the_daemon_and_leaves_nothing() {
    let host = Host::without_engine("registration_example");
    let mut daemon = Daemon::attached(&host);
    let origin = Origin::start("127.0.0.1:0");
    let port = origin.address.port().to_string();
    let to = origin.address.to_string();
    let mut vendor = Process::example(&host.service_cgroup, &daemon.socket(), &["vendor", &port]);
    assert_eq!(
        vendor.line(),
        "the filters are in force until standard input ends\n"
    );
    let mut assert_redirected = |when: &str| {
        let report = host.connect_and_send(&to, "hi");
        assert_eq!(report["reply"], "originhi", "{when}: {report}");
        assert_eq!(vendor.line(), format!("client -> {to}\n"), "{when}");
    };
    assert_redirected("at first");
    let before = sessions(&daemon);
    daemon.kill();
    assert_redirected("while the daemon is stopped");
    daemon.restart();
    assert_redirected("after a restart");
    wait::until("the session is resumed", || !sessions(&daemon)[0].waiting);
    assert_eq!(sessions(&daemon)[0].session_id, before[0].session_id);
    assert_redirected("after the resumption");
    vendor.kill();
    wait::until("the registration's objects are removed", || {
        daemon.api().state().services == 0
    });
    let report = host.connect_and_send(&to, "hi");
    assert_eq!(
        report["reply"], "originhi",
        "the connection is not redirected: {report}"
    );
}

#[test]
fn registration_listens_again_when_the_kernel_has_lost_its_service() {
    let host = Host::without_engine("registration_renewed");
    let mut daemon = Daemon::attached(&host);
    host.enter_service_cgroup();
    let times = Arc::new(AtomicUsize::new(0));
    let registration = register(&daemon, &times);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(sessions(&daemon)[0].objects, 4);
    daemon.restart();
    wait::until("the session is resumed", || !sessions(&daemon)[0].waiting);
    wait::until("the registration reports no trouble", || {
        registration.trouble().is_none()
    });
    assert_eq!(
        times.load(Ordering::Relaxed),
        1,
        "the proxy's listeners are still registered"
    );
    assert_eq!(host.connect("10.1.2.3:81")["reply"], "10.1.2.3:81");
    daemon.uninstall();
    daemon.restart();
    wait::until("the proxy listens again", || {
        times.load(Ordering::Relaxed) == 2
    });
    wait::until("the registration reports no trouble", || {
        registration.trouble().is_none()
    });
    assert_eq!(host.connect("10.1.2.3:82")["reply"], "10.1.2.3:82");
    drop(registration);
    wait::until("the registration's objects are removed", || {
        daemon.api().state().filters == 0
    });
}

#[test]
fn registration_for_a_service_of_the_operators_policy_adds_no_objects() {
    let host = Host::without_engine("registration_operators");
    let daemon = Daemon::attached(&host);
    host.enter_service_cgroup();
    let absent = Registration::of("inspect").socket(daemon.socket());
    let refused = absent.open(|_| panic!("there is no service"));
    let refused = refused
        .expect_err("the registration is refused")
        .to_string();
    assert!(refused.contains("FWP_E_CALLOUT_NOT_FOUND"), "{refused}");
    let policy = r#"
        owner = "operator"
        service = [{ name = "inspect" }]
        filter = [{ name = "all", layer = "connect-redirect", action = { redirect = "inspect" } }]
    "#;
    let file = daemon.write_file("policy.toml", policy);
    let applied = daemon.sidetrack(&["apply", file.to_str().expect("the path is UTF-8")]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let registration = Registration::of("inspect").socket(daemon.socket());
    let registration = registration.open(answer);
    let registration = registration.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(sessions(&daemon)[0].objects, 0);
    drop(registration);
    wait::until("the session has ended", || sessions(&daemon).is_empty());
    assert_eq!(
        daemon.api().state().filters,
        2,
        "the operator's filters stay"
    );
}

#[tokio::test]
async fn async_registration_without_a_daemon_reports_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let registration = Registration::of("inspect").socket(folder.path().join("none"));
    let error = registration.open_async(|_| Ok(())).await;
    let text = error.expect_err("there is no daemon").to_string();
    assert!(text.contains("is it running?"), "{text}");
}

#[test]
fn daemon_detaches_from_a_proxys_cgroup_when_its_service_is_gone() {
    let host = Host::without_engine("registration_home");
    let mut daemon = Daemon::attached(&host);
    host.enter_service_cgroup();
    let home = host.service_cgroup.path().display().to_string();
    let is_home = |daemon: &Daemon| daemon.api().state().cgroups.contains(&home);
    let registration = register(&daemon, &Arc::default());
    assert!(is_home(&daemon));
    daemon.restart();
    wait::until("the registration reports no trouble", || {
        registration.trouble().is_none()
    });
    assert!(is_home(&daemon), "the new daemon has adopted the cgroup");
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(processes(&daemon), 1);
    drop(registration);
    wait::until("the process belongs to no service", || {
        processes(&daemon) == 0
    });
    wait::until("the daemon has detached from the cgroup", || {
        !is_home(&daemon)
    });
    assert!(matches!(
        Listener::bind(&Service::from_bytes(&[1; 32]).expect("the length is right")),
        Err(Error::NoEngine)
    ));
}

/// Registers the service "inspect", and returns how many ring buffers of notices and how many senders
/// this process has then.
fn descriptors_with(daemon: &Daemon, connect: v1::Connect) -> (usize, usize) {
    let service = v1::Service {
        connect: connect.into(),
        ..Default::default()
    };
    let registration = Registration::of("inspect")
        .socket(daemon.socket())
        .service(service)
        .open(|_| Ok(()))
        .unwrap_or_else(|error| panic!("{error}"));
    let found = (ring_buffers(), raw_sockets());
    drop(registration);
    found
}

/// The number of ring buffers that this process has open: bpf(2) names the type of a map by its number.
fn ring_buffers() -> usize {
    let infos = fs::read_dir("/proc/self/fdinfo").expect("proc is mounted");
    let infos = infos.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let is_ring = |info: &String| info.lines().any(|line| line == "map_type:\t27");
    infos.filter(is_ring).count()
}

/// The number of raw sockets that this process has open.
fn raw_sockets() -> usize {
    let tables = ["/proc/self/net/raw", "/proc/self/net/raw6"];
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let inodes = lines.filter_map(|line| line.split_whitespace().nth(9));
    let raw: Vec<String> = inodes.map(|inode| format!("socket:[{inode}]")).collect();
    let own = fs::read_dir("/proc/self/fd").expect("proc is mounted");
    let own = own.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    own.filter(|link| raw.iter().any(|socket| link.as_os_str() == socket.as_str()))
        .count()
}

#[test]
fn only_the_proxy_of_a_service_that_pends_gets_descriptors() {
    let host = Host::without_engine("registration_descriptors");
    let daemon = Daemon::attached(&host);
    host.enter_service_cgroup();
    assert_eq!(descriptors_with(&daemon, v1::Connect::Accepted), (0, 0));
    let (rings, senders) = descriptors_with(&daemon, v1::Connect::Pended);
    assert_eq!(rings, 1);
    assert!(
        matches!(senders, 1 | 2),
        "{senders} senders: IPv4, and IPv6 if there is any"
    );
    assert_eq!((ring_buffers(), raw_sockets()), (0, 0), "they are closed");
}
