//! The SDK's registration: a service, its secret, its listeners and its filters, in one call.

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

/// Answers with the original destination, for as long as the process lives.
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

/// Registers a service of its own, and counts how often it was listened for.
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

/// How many the kernel knows as services'.
fn processes(daemon: &Daemon) -> u64 {
    let tables = daemon.api().state().tables;
    let mut tables = tables.iter();
    let table = tables.find(|table| table.name == "processes of services");
    table.expect("it is one").used
}

#[test]
fn example_is_a_vendors_product_that_outlives_the_daemon_and_leaves_nothing() {
    let host = Host::bare("registration_example");
    let mut daemon = Daemon::attached(&host);
    let origin = Origin::start("127.0.0.1:0");
    let port = origin.address.port().to_string();
    let to = origin.address.to_string();
    let mut vendor = Process::example(&host.service, &daemon, &["vendor", &port]);
    assert_eq!(
        vendor.line(),
        "the filters are in force until standard input ends\n"
    );
    let mut passes = |when: &str| {
        let told = host.connect_and_send(&to, "hi");
        assert_eq!(told["reply"], "originhi", "{when}: {told}");
        assert_eq!(vendor.line(), format!("client -> {to}\n"), "{when}");
    };
    passes("at first");
    let before = sessions(&daemon);
    daemon.kill();
    passes("while there is no daemon");
    daemon.restart();
    passes("after a restart");
    wait::until("the session is resumed", || !sessions(&daemon)[0].waiting);
    assert_eq!(sessions(&daemon)[0].session_id, before[0].session_id);
    passes("after the resumption");
    vendor.kill();
    wait::until("its objects go", || daemon.api().state().services == 0);
    let told = host.connect_and_send(&to, "hi");
    assert_eq!(told["reply"], "originhi", "it goes straight: {told}");
}

#[test]
fn registration_listens_again_when_the_kernel_has_lost_its_service() {
    let host = Host::bare("registration_renewed");
    let mut daemon = Daemon::attached(&host);
    host.enter_service();
    let times = Arc::new(AtomicUsize::new(0));
    let registration = register(&daemon, &times);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(sessions(&daemon)[0].objects, 4);
    daemon.restart();
    wait::until("it is back", || !sessions(&daemon)[0].waiting);
    wait::until("it is told", || registration.trouble().is_none());
    assert_eq!(times.load(Ordering::Relaxed), 1, "its listeners are good");
    assert_eq!(host.connect("10.1.2.3:81")["reply"], "10.1.2.3:81");
    daemon.uninstall();
    daemon.restart();
    wait::until("it listens again", || times.load(Ordering::Relaxed) == 2);
    wait::until("all is well", || registration.trouble().is_none());
    assert_eq!(host.connect("10.1.2.3:82")["reply"], "10.1.2.3:82");
    drop(registration);
    wait::until("its objects go", || daemon.api().state().filters == 0);
}

#[test]
fn registration_for_a_service_of_the_operators_policy_brings_no_objects() {
    let host = Host::bare("registration_operators");
    let daemon = Daemon::attached(&host);
    host.enter_service();
    let absent = Registration::of("inspect").socket(daemon.socket());
    let refused = absent.open(|_| panic!("there is no service"));
    let refused = refused.expect_err("it is refused").to_string();
    assert!(refused.contains("FWP_E_CALLOUT_NOT_FOUND"), "{refused}");
    let policy = r#"
        owner = "operator"
        service = [{ name = "inspect" }]
        filter = [{ name = "all", layer = "connect-redirect", action = { redirect = "inspect" } }]
    "#;
    let file = daemon.file("policy.toml", policy);
    let applied = daemon.sidetrack(&["apply", file.to_str().expect("it is UTF-8")]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let registration = Registration::of("inspect").socket(daemon.socket());
    let registration = registration.open(answer);
    let registration = registration.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(sessions(&daemon)[0].objects, 0);
    drop(registration);
    wait::until("its session ends", || sessions(&daemon).is_empty());
    assert_eq!(daemon.api().state().filters, 2, "they are the operator's");
}

#[tokio::test]
async fn registration_in_an_async_program_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let registration = Registration::of("inspect").socket(folder.path().join("none"));
    let error = registration.open_async(|_| Ok(())).await;
    let text = error.expect_err("nobody is there").to_string();
    assert!(text.contains("is it running?"), "{text}");
}

#[test]
fn cgroup_of_a_proxy_is_left_when_its_service_has_gone() {
    let host = Host::bare("registration_home");
    let mut daemon = Daemon::attached(&host);
    host.enter_service();
    let home = host.service.path().display().to_string();
    let is_home = |daemon: &Daemon| daemon.api().state().cgroups.contains(&home);
    let registration = register(&daemon, &Arc::default());
    assert!(is_home(&daemon));
    daemon.restart();
    wait::until("it is back", || registration.trouble().is_none());
    assert!(is_home(&daemon), "it was taken up");
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    assert_eq!(processes(&daemon), 1);
    drop(registration);
    wait::until("its process is nobody's", || processes(&daemon) == 0);
    wait::until("the daemon leaves it", || !is_home(&daemon));
    assert!(matches!(
        Listener::bind(&Service::from_bytes(&[1; 32]).expect("so long they are")),
        Err(Error::NoEngine)
    ));
}
