//! Invalid policies for a daemon with a data path: each gives an error, and changes nothing in the
//! kernel.

use e2e::{Daemon, Host, Process};

const POLICY: &str = r#"
service = [{ name = "inspect" }]

[[filter]]
name = "all"
layer = "connect-redirect"
remote_port = 80
action = { redirect = "inspect" }
"#;

/// A policy with this number of filters, each with a different context.
fn contexts(count: u32) -> String {
    let filter = |number| {
        format!(
            "[[filter]]\nname = \"f{number}\"\nlayer = \"connect-redirect-v4\"\n\
             remote_port = {number}\naction = {{ redirect = \"inspect\" }}\n\
             context = {{ text = \"c{number}\" }}\n"
        )
    };
    let filters = (1..=count).map(filter);
    "service = [{ name = \"inspect\" }]\n".to_owned() + &filters.collect::<String>()
}

fn services(count: u32) -> String {
    let service = |number| format!("[[service]]\nname = \"s{number}\"\n");
    (1..=count).map(service).collect()
}

#[test]
fn refused_policy_changes_nothing_in_the_kernel() {
    let host = Host::without_engine("bad_input");
    let daemon = Daemon::attached(&host);
    daemon.apply(POLICY);
    let _proxy = Process::registered(&host.service_cgroup, &daemon.socket(), "inspect", "answer");
    let mut api = daemon.api();
    let before = api.state();
    let filter = |more: &str| {
        format!(
            "{POLICY}\n[[filter]]\nname = \"bad\"\nlayer = \"auth-connect-v4\"\naction = \"block\"\n{more}\n"
        )
    };
    let texts: [(&str, Vec<u8>, &str); 8] = [
        (
            "large",
            vec![b'#'; 10 << 20],
            "a policy file can have at most 10,000,000",
        ),
        ("not text", b"owner = \"\xff\xfe\"".to_vec(), "is not UTF-8"),
        (
            "empty array",
            filter("remote_port = []").into(),
            "remote_port",
        ),
        (
            "upside down",
            filter("remote_port = \"9-1\"").into(),
            "FWP_E_INVALID_RANGE",
        ),
        (
            "wrong type",
            filter("remote_port = \"web\"").into(),
            "remote_port",
        ),
        ("unknown field", filter("interface = 3").into(), "interface"),
        ("contexts", contexts(257).into(), "FWP_E_OUT_OF_BOUNDS"),
        ("services", services(256).into(), "FWP_E_TOO_MANY_CALLOUTS"),
    ];
    for (name, text, expected) in texts {
        let file = daemon.write_file(name, text);
        let refused = daemon.sidetrack(&["apply", file.to_str().expect("the path is UTF-8")]);
        assert_eq!(refused.code, Some(2), "{name}: {refused:?}");
        assert!(refused.stderr.contains(expected), "{name}: {refused:?}");
        let after = api.state();
        assert_eq!(
            (
                after.generation,
                after.filters,
                after.services,
                after.policy_bytes
            ),
            (
                before.generation,
                before.filters,
                before.services,
                before.policy_bytes
            ),
            "{name}"
        );
        assert_eq!(
            host.connect("10.1.2.3:80")["reply"],
            "10.1.2.3:80",
            "{name}"
        );
    }
    let again = daemon.sidetrack_with_input(&["apply", "-"], &contexts(200));
    assert_eq!(
        again.code,
        Some(0),
        "the contexts of the refused policy take no room: {again:?}"
    );
}
