//! An engine that ends leaves nothing in the kernel (ARCHITECTURE.md, What must always hold, 12), and
//! `sidetrack uninstall` removes the daemon's data path.

use std::collections::HashSet;
use std::io::Write;
use std::thread;

use e2e::run::sidetrack;
use e2e::{Daemon, Host, Origin, Outcome, Process, netns, wait};
use libbpf_rs::query::ProgInfoQueryOptions;
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, MapInfoIter, ProgInfoIter};
use sidetrack_engine::{Cgroup, host, network};

/// The ids of an engine's programs and maps in the kernel.
struct KernelObjects {
    programs: HashSet<u32>,
    maps: HashSet<u32>,
}

impl KernelObjects {
    /// Those of the engine that is attached to one of these cgroups.
    fn of(cgroups: &[&Cgroup]) -> Self {
        let programs: HashSet<u32> = LinkInfoIter::default()
            .filter(|link| match &link.info {
                LinkTypeInfo::Cgroup(at) => {
                    cgroups.iter().any(|cgroup| cgroup.id() == at.cgroup_id)
                }
                _ => false,
            })
            .map(|link| link.prog_id)
            .collect();
        let options = ProgInfoQueryOptions::default().include_map_ids(true);
        let maps = ProgInfoIter::with_query_opts(options)
            .filter(|program| programs.contains(&program.id))
            .flat_map(|program| program.map_ids)
            .collect();
        Self { programs, maps }
    }

    fn are_gone(&self) -> bool {
        let programs = host::programs().expect("the kernel lists its programs");
        programs.iter().all(|(id, _)| !self.programs.contains(id))
            && MapInfoIter::default().all(|map| !self.maps.contains(&map.id))
    }
}

/// Asserts that connects are not redirected, that the options are unknown, and that these programs
/// and maps no longer exist.
fn assert_gone(host: &Host, objects: &KernelObjects, origin: &Origin) {
    let cgroups = [host.root(), &host.program_cgroup, &host.service_cgroup];
    assert_eq!(
        KernelObjects::of(&cgroups).programs.len(),
        0,
        "no link is left"
    );
    let to = origin.address.to_string();
    let report = host.connect_and_send(&to, "x");
    assert_eq!(
        (&report["reply"], &report["peer"]),
        (&"originx".into(), &to.into()),
        "{report}"
    );
    let service = sidetrack::Service::from_bytes(&[1; 32]).unwrap();
    let refused = sidetrack::Listener::bind(&service);
    assert!(matches!(refused, Err(sidetrack::Error::NoEngine)));
    // The kernel frees programs and maps only when no CPU can be running them.
    wait::until("programs and maps are gone", || objects.are_gone());
}

#[test]
fn dropped_engine_leaves_nothing() {
    netns::enter();
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("dropped");
    let service = host.service("inspect");
    let _answering = host.answer(&service);
    host.redirect_all(&[&service]);
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    let objects = KernelObjects::of(&[host.root(), &host.program_cgroup, &host.service_cgroup]);
    assert_eq!(objects.programs.len(), 15);
    assert!(objects.maps.len() >= 9);
    drop(host.engine.take());
    assert_gone(&host, &objects, &origin);
}

#[test]
fn killed_engine_leaves_only_a_route_that_can_be_found_and_removed() {
    netns::enter();
    let origin = Origin::start("127.0.0.1:0");
    let host = Host::without_engine("killed_engine");
    let mut engine = Process::engine(host.root(), &host.service_cgroup);
    let service = engine.service();
    host.enter_service_cgroup();
    let listener = sidetrack::Listener::bind(&service).expect("the listener is marked");
    thread::spawn(move || {
        let connection = listener.accept().expect("the client connects");
        let (mut stream, flow) = connection.into_parts();
        let _ = stream.write_all(flow.original_destination().to_string().as_bytes());
    });
    assert_eq!(host.connect("10.1.2.3:80")["reply"], "10.1.2.3:80");
    let objects = KernelObjects::of(&[host.root(), &host.program_cgroup, &host.service_cgroup]);
    assert_eq!(objects.programs.len(), 15);
    engine.kill();
    assert_gone(&host, &objects, &origin);
    // Only the route outlives the engine's process.
    assert_eq!(network::left_over().unwrap().len(), 1);
    assert_eq!(network::clear_left_over().unwrap(), 1);
    assert_eq!(network::left_over().unwrap().len(), 0);
}

#[test]
fn open_connection_outlives_the_engine() {
    let origin = Origin::start("127.0.0.1:0");
    let mut host = Host::new("outlives");
    let service = host.service("inspect");
    let _relaying = host.relay(&service);
    host.redirect_all(&[&service]);
    let to = origin.address.to_string();
    let mut client = host.client(&["connect", &to, "--send", "x", "--hold"]);
    assert_eq!(client.json_line()["reply"], "originx");
    drop(host.engine.take());
    client.send_line("go on");
    assert_eq!(client.wait().code, Some(0));
}

#[test]
fn engine_that_fails_to_attach_leaves_nothing() {
    let origin = Origin::start("127.0.0.1:0");
    let first = Host::new("first_attached");
    let before = KernelObjects::of(&[first.root()]);
    let again = sidetrack_engine::Engine::open(first.root(), Default::default())
        .and_then(|engine| engine.load())
        .and_then(|engine| engine.attach());
    assert!(again.is_err());
    assert_eq!(KernelObjects::of(&[first.root()]).programs, before.programs);
    drop(first);
    assert!(origin.accepted() == 0);
    wait::until("programs and maps are gone", || before.are_gone());
}

/// What doctor has found about the daemon's data path.
fn data_path(daemon: &Daemon) -> String {
    let outcome = daemon.sidetrack(&["doctor", "--json", "--config", &config(daemon)]);
    let findings: serde_json::Value =
        serde_json::from_str(&outcome.stdout).expect("the output is JSON");
    let findings = findings
        .as_array()
        .expect("the findings are an array")
        .iter();
    let mut findings = findings.filter(|finding| finding["what"] == "data path");
    let finding = findings.next().expect("doctor checks the data path");
    assert_eq!(finding["good"], true, "{finding}");
    let found = finding["found"].as_str();
    found.expect("the finding has a text").to_owned()
}

fn config(daemon: &Daemon) -> String {
    let path = daemon.socket().with_file_name("sidetrackd.toml");
    path.to_str().expect("the path is UTF-8").to_owned()
}

fn uninstall(daemon: &Daemon) -> Outcome {
    daemon.sidetrack(&["uninstall", "--config", &config(daemon)])
}

const POLICY: &str = r#"
    owner = "operator"
    service = [{ name = "inspect" }]
    filter = [{ name = "all", layer = "connect-redirect", action = { redirect = "inspect" } }]
"#;

#[test]
fn uninstall_leaves_nothing_of_the_daemon() {
    let origin = Origin::start("127.0.0.1:0");
    let host = Host::without_engine("uninstall");
    let mut daemon = Daemon::attached(&host);
    let file = daemon.write_file("policy.toml", POLICY);
    let applied = daemon.sidetrack(&["apply", file.to_str().expect("the path is UTF-8")]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    let proxy = Process::registered(&host.service_cgroup, &daemon.socket(), "inspect", "answer");
    let is_redirected = || host.connect("10.1.2.3:80")["reply"] == "10.1.2.3:80";
    assert!(is_redirected());
    let objects = KernelObjects::of(&[host.root(), &host.program_cgroup, &host.service_cgroup]);
    assert_eq!(objects.programs.len(), 15);
    let found = data_path(&daemon);
    assert!(found.starts_with("pinned by sidetrackd at /"), "{found}");
    assert!(!found.contains("is not running"), "{found}");

    let refused = uninstall(&daemon);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    assert!(is_redirected(), "nothing was changed");

    daemon.kill();
    let found = data_path(&daemon);
    assert!(
        found.contains("`sidetrack uninstall` removes it"),
        "{found}"
    );
    assert!(is_redirected());

    let done = uninstall(&daemon);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("removed the data path"), "{done:?}");
    proxy.kill();
    assert_gone(&host, &objects, &origin);
    assert!(data_path(&daemon).starts_with("none is pinned at "));
    let again = uninstall(&daemon);
    assert!(again.stdout.contains("no data path is pinned"), "{again:?}");
}

#[test]
fn run_in_a_daemons_scope_is_refused_with_a_hint_to_use_apply() {
    let host = Host::without_engine("run_under_daemon");
    let daemon = Daemon::attached(&host);
    let socket = format!("SIDETRACK_SOCKET={}", daemon.socket().display());
    let run = sidetrack();
    let run = run.to_str().expect("the path is UTF-8");
    let refused = host.run(&["env", &socket, run, "run", "--", "true"]).wait();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("sidetrackd already classifies"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("sidetrack apply"), "{refused:?}");
}
