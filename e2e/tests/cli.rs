//! The commands that an operator uses, with a daemon that has no data path.

use e2e::{Daemon, Follower, Outcome};
use serde_json::Value;
use sidetrack_abi::text::is_printable;

const POLICY: &str = r#"
owner = "acme"
defaults = { provider = "acme", sublayer = "inspect", lifetime = "persistent" }
provider = [{ name = "acme" }]
sublayer = [{ name = "inspect", weight = 1000 }]
service = [{ name = "inspect", context = "auto" }]

[[filter]]
name = "web"
layer = "connect-redirect"
remote_port = [80, 443]
action = { redirect = "inspect" }

[[filter]]
name = "no mail"
layer = "auth-connect-v4"
remote_port = 25
action = "block"
"#;

/// The standard output of a command that must have succeeded.
fn succeeded(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

/// The error message of a command that must have failed.
fn failed(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    outcome.stderr
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let text = succeeded(daemon.sidetrack(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn generation(daemon: &Daemon) -> u64 {
    json(daemon, &["state", "--json"])["generation"]
        .as_u64()
        .expect("the generation is a number")
}

fn names(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = json(daemon, &[kind, "ls", "--json"]);
    let all = all.as_array().expect("the listing is an array").iter();
    let mut names: Vec<_> = all
        .map(|object| {
            let name = object["name"].as_str();
            name.expect("each object has a name").to_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn apply_is_one_commit_and_repeating_it_changes_nothing() {
    let daemon = Daemon::detached();
    let file = daemon.write_file("policy.toml", POLICY);
    let file = file.to_str().expect("the path is UTF-8");
    let before = generation(&daemon);

    let dry = daemon.sidetrack(&["apply", "--dry-run", file]);
    assert_eq!(dry.code, Some(1), "{dry:?}");
    assert!(
        dry.stdout
            .contains("+ filter \"web\" at connect-redirect-v6"),
        "{dry:?}"
    );
    assert_eq!(generation(&daemon), before, "a dry run changes nothing");

    let applied = succeeded(daemon.sidetrack(&["apply", file]));
    assert!(
        applied.contains("6 added, 0 changed, 0 removed, 0 unchanged"),
        "{applied}"
    );
    assert_eq!(generation(&daemon), before + 1, "apply is one commit");
    assert_eq!(names(&daemon, "filter"), ["no mail", "web", "web"]);

    let again = succeeded(daemon.sidetrack(&["apply", "--dry-run", file]));
    assert!(
        again.contains("0 added, 0 changed, 0 removed, 6 unchanged"),
        "{again}"
    );
}

#[test]
fn apply_lists_each_change_and_keeps_other_owners_objects() {
    let daemon = Daemon::detached();
    succeeded(daemon.sidetrack_with_input(&["apply", "-"], POLICY));
    let other = "filter = [{ name = \"mine\", layer = \"auth-connect-v4\", action = \"permit\" }]";
    succeeded(daemon.sidetrack_with_input(&["apply", "-", "--owner", "somebody"], other));

    let changed = POLICY
        .replace("[80, 443]", "[80, 8080]")
        .replace("no mail", "no post");
    let dry = daemon.sidetrack_with_input(&["apply", "-", "--dry-run"], &changed);
    assert_eq!(dry.code, Some(1));
    for line in [
        "+ filter \"no post\" at auth-connect-v4",
        "- filter \"no mail\" at auth-connect-v4",
        "~ filter \"web\" at connect-redirect-v4",
        "    remote_port: 80 or 443 -> 80 or 8080",
    ] {
        assert!(
            dry.stdout.lines().any(|each| each == line),
            "there is no line {line} in {dry:?}"
        );
    }
    let applied: Value = serde_json::from_str(&succeeded(
        daemon.sidetrack_with_input(&["apply", "-", "--json"], &changed),
    ))
    .expect("the output is JSON");
    assert_eq!(applied["changed"], 2, "{applied}");
    assert_eq!(names(&daemon, "filter"), ["mine", "no post", "web", "web"]);
}

#[test]
fn faulty_policy_is_refused_and_changes_nothing() {
    let daemon = Daemon::detached();
    succeeded(daemon.sidetrack_with_input(&["apply", "-"], POLICY));
    let before = generation(&daemon);
    let misspelt = POLICY.replace("sublayer = \"inspect\"", "sublayer = \"inspekt\"");
    let forgotten = POLICY.replace("sublayer = [{ name = \"inspect\", weight = 1000 }]", "");
    let big = vec![b'#'; 10 << 20];
    let files: [(&str, &[u8], &str); 6] = [
        ("misspelt", misspelt.as_bytes(), "did you mean inspect?"),
        (
            "forgotten",
            forgotten.as_bytes(),
            "there is no sublayer \"inspect\"",
        ),
        (
            "latin",
            b"owner = \"caf\xe9\"",
            ":1:13: the file is not UTF-8",
        ),
        ("big", &big, "a policy file can have at most 10,000,000"),
        ("nested", &[b'['; 100_000], ":1:"),
        ("nul", b"\0", ":1:1: the file contains a NUL byte"),
    ];
    for (name, text, expected) in files {
        let file = daemon.write_file(name, text);
        let file = file.to_str().expect("the path is UTF-8");
        let message = failed(daemon.sidetrack(&["apply", file]));
        assert!(message.contains(expected), "{name}: {message}");
        assert_eq!(daemon.sidetrack(&["check", file]).code, Some(1), "{name}");
    }
    // Only the daemon can find this fault.
    let missing = "filter = [{ name = \"f\", layer = \"auth-connect-v4\", action = \"block\", \
                   sublayer = \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\" }]";
    let message = failed(daemon.sidetrack_with_input(&["apply", "-", "--owner", "other"], missing));
    assert!(message.contains("FWP_E_SUBLAYER_NOT_FOUND"), "{message}");
    assert_eq!(generation(&daemon), before);
}

#[test]
fn objects_are_added_shown_and_deleted_one_by_one() {
    let daemon = Daemon::detached();
    let add =
        |arguments: &str| succeeded(daemon.sidetrack(&arguments.split(' ').collect::<Vec<_>>()));
    add("provider add acme --persistent");
    add("sublayer add inspect --provider acme --weight 7 --persistent");
    add(
        "service add proxy --provider acme --records legacy --on-absent permit --context text:hello",
    );
    add("service add held --connect pended");
    let keys = add(
        "filter add web --layer connect-redirect --sublayer inspect --provider acme --redirect proxy \
         --match remote_port=80 --match remote_port=8000-8999 --weight class:3",
    );
    assert_eq!(keys.lines().count(), 2, "one key for each family: {keys}");

    let shown = json(&daemon, &["filter", "show", "web", "--json"]);
    assert_eq!(shown.as_array().expect("the listing is an array").len(), 2);
    assert_eq!(shown[0]["weight"]["class"], 3);
    assert_eq!(shown[0]["conditions"][1]["match_type"], "range");
    let service = succeeded(daemon.sidetrack(&["service", "show", "proxy"]));
    assert!(
        service.contains("text \"hello\"") && service.contains("legacy"),
        "{service}"
    );
    let held = json(&daemon, &["service", "show", "held", "--json"]);
    assert_eq!(held[0]["connect"], "pended");

    let used = failed(daemon.sidetrack(&["sublayer", "rm", "inspect"]));
    assert!(used.contains("FWP_E_IN_USE"), "{used}");
    succeeded(daemon.sidetrack(&["filter", "rm", "web"]));
    succeeded(daemon.sidetrack(&["sublayer", "rm", "inspect"]));
    assert_eq!(names(&daemon, "filter"), Vec::<String>::new());
    assert_eq!(names(&daemon, "sublayer"), ["universal"]);
    let built_in = failed(daemon.sidetrack(&["sublayer", "rm", "universal"]));
    assert!(built_in.contains("FWP_E_BUILTIN_OBJECT"), "{built_in}");
    let gone = failed(daemon.sidetrack(&["filter", "show", "web"]));
    assert!(gone.contains("there is no filter \"web\""), "{gone}");
}

#[test]
fn rm_of_an_ambiguous_name_needs_a_key_and_a_failed_rm_deletes_nothing() {
    let daemon = Daemon::detached();
    let add = [
        "filter",
        "add",
        "twin",
        "--layer",
        "auth-connect-v4",
        "--action",
        "block",
    ];
    let first = succeeded(daemon.sidetrack(&add));
    succeeded(daemon.sidetrack(&add));
    let ambiguous = failed(daemon.sidetrack(&["filter", "rm", "twin"]));
    assert!(
        ambiguous.contains(first.trim()),
        "the message lists the keys: {ambiguous}"
    );
    failed(daemon.sidetrack(&["filter", "rm", first.trim(), "unknown"]));
    assert_eq!(names(&daemon, "filter").len(), 2);
    succeeded(daemon.sidetrack(&["filter", "rm", first.trim()]));
    assert_eq!(names(&daemon, "filter").len(), 1);
}

#[test]
fn persistent_objects_survive_a_restart_of_the_daemon() {
    let mut daemon = Daemon::detached();
    succeeded(daemon.sidetrack_with_input(&["apply", "-"], POLICY));
    daemon.restart();
    assert_eq!(names(&daemon, "filter"), ["no mail", "web", "web"]);
    let again = succeeded(daemon.sidetrack_with_input(&["apply", "-", "--dry-run"], POLICY));
    assert!(
        again.contains("6 unchanged"),
        "the objects still have their owner: {again}"
    );
}

#[test]
fn events_follow_prints_events_as_they_occur() {
    let daemon = Daemon::detached();
    let mut follower = Follower::start(&daemon, "policy-committed");
    succeeded(daemon.sidetrack_with_input(&["apply", "-"], POLICY));
    let committed = generation(&daemon);
    let event = loop {
        let event = follower.next_event();
        if event["generation"] == committed {
            break event;
        }
    };
    assert_eq!(event["kind"], "policy-committed");
    drop(follower);
    let kept = succeeded(daemon.sidetrack(&["events"]));
    assert!(kept.contains("policy-committed"), "{kept}");
}

#[test]
fn error_without_a_daemon_says_how_to_start_it() {
    let nowhere = ["state", "--socket", "/nowhere/sidetrackd.sock"];
    let daemon = Daemon::detached();
    let message = failed(daemon.sidetrack(&nowhere));
    assert_eq!(
        message,
        "sidetrack: sidetrackd is not running (no socket at /nowhere/sidetrackd.sock); \
         start it with `systemctl start sidetrackd` or `sudo sidetrackd`\n"
    );
    let unknown = daemon.sidetrack(&["events", "--kind", "classify-blok"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("classify-block"), "{unknown:?}");
}

/// What a command has printed is text that acts on no terminal.
fn assert_printable(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        let acts = |character: char| !is_printable(character) && character != '\n';
        assert!(!text.contains(acts), "{outcome:?}");
    }
}

#[test]
fn names_cannot_act_on_the_terminal() {
    let daemon = Daemon::detached();
    let name = "evil\u{202e}\u{2066}\u{200b}name";
    assert_printable(&daemon.sidetrack(&["service", "add", name]));
    let shown = succeeded(daemon.sidetrack(&["service", "ls"]));
    assert!(
        shown.contains(r"evil\u{202e}\u{2066}\u{200b}name"),
        "{shown}"
    );
    let listed = succeeded(daemon.sidetrack(&["service", "ls", "--json"]));
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["name"], name);
    for arguments in [
        &["service", "ls", "--json"][..],
        &["service", "show", name],
        &["service", "show", name, "--json"],
        &["service", "show", "no\u{202e}ne"],
        &["provider", "add", "p", "--description", "d\u{202e}"],
        &["provider", "show", "p"],
        &[
            "explain",
            "--app",
            "/bin/\u{202e}sh",
            "--to",
            "192.0.2.1:80",
        ],
        &["state"],
        &["state", "--json"],
        &["events"],
        &["events", "--json"],
        &["check", "/no/\u{202e}file"],
        &["state", "--socket", "/no/\u{202e}socket"],
    ] {
        let outcome = daemon.sidetrack(arguments);
        assert_printable(&outcome);
        let all = outcome.stdout + &outcome.stderr;
        assert!(!all.is_empty(), "{arguments:?}");
    }
    let policy = "service = [{ name = \"x\u{200f}\", description = \"\u{202e}\" }]\n";
    let wrong =
        format!("{policy}provider = [{{ name = \"\u{202e}\", w\u{e9}\u{301} = 1 }}]\n\u{2028}");
    for arguments in [
        &["apply", "-", "--dry-run"][..],
        &["check", "-", "--json"],
        &["check", "-"],
    ] {
        for text in [policy, &wrong] {
            assert_printable(&daemon.sidetrack_with_input(arguments, text));
        }
    }
}
