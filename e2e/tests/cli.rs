//! What an operator types, against a real daemon: it holds policy, and judges no connection by it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use e2e::{Daemon, Outcome};
use serde_json::Value;

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

/// What it wrote; it went well.
fn done(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stdout
}

/// The sentence it failed with.
fn failed(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    outcome.stderr
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let text = done(daemon.sidetrack(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn generation(daemon: &Daemon) -> u64 {
    json(daemon, &["state", "--json"])["generation"]
        .as_u64()
        .expect("it is a number")
}

fn names(daemon: &Daemon, kind: &str) -> Vec<String> {
    let all = json(daemon, &[kind, "ls", "--json"]);
    let all = all.as_array().expect("it is a list").iter();
    let mut names: Vec<_> = all
        .map(|one| one["name"].as_str().expect("it has a name").to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_policy_comes_into_force_whole_and_again_changes_nothing() {
    let daemon = Daemon::detached();
    let file = daemon.file("policy.toml", POLICY);
    let file = file.to_str().expect("it is UTF-8");
    let before = generation(&daemon);

    let dry = daemon.sidetrack(&["apply", "--dry-run", file]);
    assert_eq!(dry.code, Some(1), "{dry:?}");
    assert!(
        dry.stdout
            .contains("+ filter \"web\" at connect-redirect-v6"),
        "{dry:?}"
    );
    assert_eq!(generation(&daemon), before, "a dry run changes nothing");

    let applied = done(daemon.sidetrack(&["apply", file]));
    assert!(
        applied.contains("6 added, 0 changed, 0 removed, 0 unchanged"),
        "{applied}"
    );
    assert_eq!(generation(&daemon), before + 1, "it is one commit");
    assert_eq!(names(&daemon, "filter"), ["no mail", "web", "web"]);

    let again = done(daemon.sidetrack(&["apply", "--dry-run", file]));
    assert!(
        again.contains("0 added, 0 changed, 0 removed, 6 unchanged"),
        "{again}"
    );
}

#[test]
fn a_changed_policy_tells_each_change_and_others_objects_stay() {
    let daemon = Daemon::detached();
    done(daemon.sidetrack_fed(&["apply", "-"], POLICY));
    let other = "filter = [{ name = \"mine\", layer = \"auth-connect-v4\", action = \"permit\" }]";
    done(daemon.sidetrack_fed(&["apply", "-", "--owner", "somebody"], other));

    let changed = POLICY
        .replace("[80, 443]", "[80, 8080]")
        .replace("no mail", "no post");
    let dry = daemon.sidetrack_fed(&["apply", "-", "--dry-run"], &changed);
    assert_eq!(dry.code, Some(1));
    for line in [
        "+ filter \"no post\" at auth-connect-v4",
        "- filter \"no mail\" at auth-connect-v4",
        "~ filter \"web\" at connect-redirect-v4",
        "    remote_port: 80 or 443 -> 80 or 8080",
    ] {
        assert!(
            dry.stdout.lines().any(|each| each == line),
            "{line} is not in {dry:?}"
        );
    }
    let applied: Value = serde_json::from_str(&done(
        daemon.sidetrack_fed(&["apply", "-", "--json"], &changed),
    ))
    .expect("it is JSON");
    assert_eq!(applied["changed"], 2, "{applied}");
    assert_eq!(names(&daemon, "filter"), ["mine", "no post", "web", "web"]);
}

#[test]
fn a_faulty_policy_changes_nothing() {
    let daemon = Daemon::detached();
    done(daemon.sidetrack_fed(&["apply", "-"], POLICY));
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
    for (name, text, told) in files {
        let file = daemon.file(name, text);
        let file = file.to_str().expect("it is UTF-8");
        let sentence = failed(daemon.sidetrack(&["apply", file]));
        assert!(sentence.contains(told), "{name}: {sentence}");
        assert_eq!(daemon.sidetrack(&["check", file]).code, Some(1), "{name}");
    }
    // What only the daemon can know.
    let missing = "filter = [{ name = \"f\", layer = \"auth-connect-v4\", action = \"block\", \
                   sublayer = \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\" }]";
    let sentence = failed(daemon.sidetrack_fed(&["apply", "-", "--owner", "other"], missing));
    assert!(sentence.contains("FWP_E_SUBLAYER_NOT_FOUND"), "{sentence}");
    assert_eq!(generation(&daemon), before);
}

#[test]
fn objects_are_added_shown_and_deleted_one_by_one() {
    let daemon = Daemon::detached();
    let add = |arguments: &str| done(daemon.sidetrack(&arguments.split(' ').collect::<Vec<_>>()));
    add("provider add acme --persistent");
    add("sublayer add inspect --provider acme --weight 7 --persistent");
    add(
        "service add proxy --provider acme --records legacy --on-absent permit --context text:hello",
    );
    let keys = add(
        "filter add web --layer connect-redirect --sublayer inspect --provider acme --redirect proxy \
         --match remote_port=80 --match remote_port=8000-8999 --weight class:3",
    );
    assert_eq!(keys.lines().count(), 2, "one for each family: {keys}");

    let shown = json(&daemon, &["filter", "show", "web", "--json"]);
    assert_eq!(shown.as_array().expect("it is a list").len(), 2);
    assert_eq!(shown[0]["weight"]["class"], 3);
    assert_eq!(shown[0]["conditions"][1]["match_type"], "range");
    let service = done(daemon.sidetrack(&["service", "show", "proxy"]));
    assert!(
        service.contains("text \"hello\"") && service.contains("legacy"),
        "{service}"
    );

    let used = failed(daemon.sidetrack(&["sublayer", "rm", "inspect"]));
    assert!(used.contains("FWP_E_IN_USE"), "{used}");
    done(daemon.sidetrack(&["filter", "rm", "web"]));
    done(daemon.sidetrack(&["sublayer", "rm", "inspect"]));
    assert_eq!(names(&daemon, "filter"), Vec::<String>::new());
    assert_eq!(names(&daemon, "sublayer"), ["universal"]);
    let built_in = failed(daemon.sidetrack(&["sublayer", "rm", "universal"]));
    assert!(built_in.contains("FWP_E_BUILTIN_OBJECT"), "{built_in}");
    let gone = failed(daemon.sidetrack(&["filter", "show", "web"]));
    assert!(gone.contains("there is no filter \"web\""), "{gone}");
}

#[test]
fn several_of_one_name_need_a_key_and_a_failed_rm_deletes_none() {
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
    let first = done(daemon.sidetrack(&add));
    done(daemon.sidetrack(&add));
    let unclear = failed(daemon.sidetrack(&["filter", "rm", "twin"]));
    assert!(
        unclear.contains(first.trim()),
        "it lists the keys: {unclear}"
    );
    failed(daemon.sidetrack(&["filter", "rm", first.trim(), "nobody"]));
    assert_eq!(names(&daemon, "filter").len(), 2);
    done(daemon.sidetrack(&["filter", "rm", first.trim()]));
    assert_eq!(names(&daemon, "filter").len(), 1);
}

#[test]
fn what_is_persistent_outlives_the_daemon() {
    let mut daemon = Daemon::detached();
    done(daemon.sidetrack_fed(&["apply", "-"], POLICY));
    daemon.restart();
    assert_eq!(names(&daemon, "filter"), ["no mail", "web", "web"]);
    let again = done(daemon.sidetrack_fed(&["apply", "-", "--dry-run"], POLICY));
    assert!(
        again.contains("6 unchanged"),
        "it is still its owner's: {again}"
    );
}

#[test]
fn events_are_told_as_they_happen() {
    let daemon = Daemon::detached();
    let mut follower = daemon
        .command(&[
            "events",
            "--follow",
            "--backlog",
            "--json",
            "--kind",
            "policy-committed",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("sidetrack starts");
    let mut lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    done(daemon.sidetrack_fed(&["apply", "-"], POLICY));
    let committed = generation(&daemon);
    let told = lines
        .by_ref()
        .map(|line| serde_json::from_str::<Value>(&line.expect("it can be read")))
        .map(|event| event.expect("each line is JSON"))
        .find(|event| event["generation"] == committed)
        .expect("the commit is told");
    assert_eq!(told["kind"], "policy-committed");
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");
    let kept = done(daemon.sidetrack(&["events"]));
    assert!(kept.contains("policy-committed"), "{kept}");
}

#[test]
fn without_a_daemon_a_sentence_says_how_to_start_it() {
    let nowhere = ["state", "--socket", "/nowhere/sidetrackd.sock"];
    let daemon = Daemon::detached();
    let sentence = failed(daemon.sidetrack(&nowhere));
    assert_eq!(
        sentence,
        "sidetrack: sidetrackd is not running (no socket at /nowhere/sidetrackd.sock); \
         start it with `systemctl start sidetrackd` or `sudo sidetrackd`\n"
    );
    let unknown = daemon.sidetrack(&["events", "--kind", "classify-blok"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("classify-block"), "{unknown:?}");
}
