use super::*;
use crate::LayerKind;

const ACME: &str = r#"
owner = "acme"

[[provider]]
name = "acme"

[[sublayer]]
name = "acme-inspect"
provider = "acme"
weight = 1000

[[service]]
name = "inspect"
provider = "acme"
records = "required"
on_absent = "block"
context = "auto"

[[filter]]
name = "web through inspect"
provider = "acme"
layer = "connect-redirect"
sublayer = "acme-inspect"
weight = { class = 8 }
app = "/usr/bin/curl"
remote_port = [80, 443, "8000-8999", { greater = 60000 }]
protocol = "tcp"
user = ["alice", 1000, "2000-2999"]
cgroup = { prefix = "/system.slice" }
flags = { flags_none_set = ["loopback", "proxy_connection"] }
action = { redirect = "inspect" }
"#;

fn read(text: &str) -> Result<Policy, Faults> {
    read_among(text.as_bytes(), None, &Listing::default())
}

fn read_among(text: &[u8], owner: Option<&str>, others: &Listing) -> Result<Policy, Faults> {
    let surroundings = Surroundings {
        file: "policy.toml",
        owner,
        others,
        users: &|name| (name == "alice").then_some(1001),
    };
    parse(text, &surroundings)
}

/// The rendering of what is wrong.
fn wrong(text: &str) -> String {
    read(text).expect_err("it is wrong").to_string()
}

/// A filter with the given lines.
fn filter(lines: &str) -> String {
    format!(
        "[[filter]]\nname = \"f\"\nlayer = \"connect-redirect\"\naction = \"permit\"\n{lines}\n"
    )
}

fn conditions(lines: &str) -> Vec<String> {
    let policy = read(&filter(lines)).unwrap_or_else(|faults| panic!("{faults}"));
    let all = policy.objects.filters.iter().map(|filter| {
        let conditions: Vec<_> = filter.conditions.iter().map(ToString::to_string).collect();
        format!("{}: {}", filter.layer, conditions.join(" "))
    });
    all.collect()
}

#[test]
fn a_file_is_objects_with_the_same_keys_each_time() {
    let policy = read(ACME).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(policy, read(ACME).unwrap());
    insta::assert_debug_snapshot!(policy);
}

#[test]
fn another_owner_makes_other_keys() {
    let other = read_among(ACME.as_bytes(), Some("other"), &Listing::default()).unwrap();
    let acme = read(ACME).unwrap();
    assert_eq!(other.owner, "other");
    for (one, another) in acme.objects.filters.iter().zip(&other.objects.filters) {
        assert_ne!(one.identity.key, another.identity.key);
    }
}

#[test]
fn every_field_and_match_type_can_be_said() {
    let shown = [
        conditions("app = \"/a\"\ncurrent_app = { not_equal = \"/b\" }"),
        conditions("user = { not_equal = 0 }\ncurrent_user = [\"alice\", \"1-9\"]"),
        conditions(
            "cgroup = { not_prefix = \"/a\" }\ncurrent_cgroup = { prefix = [\"/a\", \"/b\"] }",
        ),
        conditions("flags = [\"redirected\", { flags_any_set = [\"loopback\", 4] }]"),
        conditions("flags = { flags_all_set = 3 }"),
        conditions(
            "local_address_type = \"loopback\"\ndestination_address_type = [\"multicast\", 4]",
        ),
        conditions("local_port = { range = [1, 1023] }\nremote_port = { range = \"5-6\" }"),
        conditions("remote_port = [{ less = 5 }, { less_or_equal = 5 }, { greater_or_equal = 9 }]"),
        conditions("protocol = { equal = [6, 17] }\nnetns = 18446744073709551615"),
    ];
    insta::assert_debug_snapshot!(shown);
    let direction = "[[filter]]\nname = \"f\"\nlayer = \"flow-established-v4\"\naction = \"inspect\"\n\
                     direction = \"inbound\"";
    assert_eq!(
        read(direction).unwrap().objects.filters[0].conditions.len(),
        1
    );
}

#[test]
fn only_the_families_that_the_addresses_allow_get_a_filter() {
    let shown = [
        conditions("remote_address = \"10.0.0.0/8\""),
        conditions("remote_address = \"2001:db8::1-2001:db8::9\""),
        conditions("remote_address = [\"10.0.0.1\", \"2001:db8::/32\"]"),
        // Not in 10/8: so is all of IPv6.
        conditions("remote_address = { not_equal = \"10.0.0.0/8\" }"),
        conditions("remote_address = { not_equal = \"10.0.0.0/8\" }\nlocal_address = \"::1\""),
    ];
    insta::assert_debug_snapshot!(shown);
    let mixed = wrong(&filter(
        "remote_address = \"10.0.0.1\"\nlocal_address = \"::1\"",
    ));
    insta::assert_snapshot!(mixed);
}

#[test]
fn defaults_are_for_what_an_entry_leaves_out() {
    let text = "defaults = { layer = \"auth-connect-v4\", action = \"block\", lifetime = \"boot_time\", sublayer = \"s\" }\n\
                sublayer = [{ name = \"s\" }]\n\
                filter = [{ name = \"a\" }, { name = \"b\", action = \"permit\" }]";
    let policy = read(text).unwrap_or_else(|faults| panic!("{faults}"));
    let actions: Vec<_> = policy
        .objects
        .filters
        .iter()
        .map(|one| one.action.name())
        .collect();
    assert_eq!(actions, ["block", "permit"]);
    assert_eq!(policy.objects.filters[0].lifetime, Lifetime::BootTime);
    assert_eq!(policy.objects.sublayers[0].lifetime, Lifetime::Persistent);
}

#[test]
fn objects_outside_of_the_file_are_found_by_name() {
    let mut others = read(ACME).unwrap().objects;
    let text = filter("sublayer = \"acme-inspect\"");
    let found = read_among(text.as_bytes(), None, &others).unwrap();
    assert_eq!(
        found.objects.filters[0].sublayer,
        others.sublayers[0].identity.key
    );

    // What this owner applied goes, as the file has it no more.
    let faults = read_among(text.as_bytes(), Some("acme"), &others).unwrap_err();
    assert_eq!(faults.shown[0].code, Some(Code::SublayerNotFound));

    let mut twin = others.sublayers[0].clone();
    twin.identity.key = Uuid::from_u128(1);
    others.sublayers.push(twin);
    let faults = read_among(text.as_bytes(), None, &others).unwrap_err();
    insta::assert_snapshot!(faults);
}

#[test]
fn faults_of_structure_are_shown_at_their_place() {
    let shown = [
        wrong("owner = \"\""),
        wrong("[[fitler]]\nname = \"a\""),
        wrong("provider = 3"),
        wrong("[[sublayer]]\nwieght = 3"),
        wrong("[[sublayer]]\nweight = 3"),
        wrong("[[sublayer]]\nname = \"a\"\nweight = 65536"),
        wrong("[[sublayer]]\nname = \"\""),
        wrong("[[sublayer]]\nname = 5"),
        wrong("[[sublayer]]\nname = \"a\"\n[[sublayer]]\nname = \"a\""),
        wrong("[[sublayer]]\nname = \"a\"\nkey = \"x\""),
        wrong("[[sublayer]]\nname = \"a\"\nprovider = \"b\""),
        wrong("[[service]]\nname = \"a service whose name is much too long\""),
        wrong("[[service]]\nname = \"a\"\nrecords = \"requird\""),
        wrong("[[service]]\nname = \"a\"\ncontext = { hex = \"1\" }"),
        wrong("[[service]]\nname = \"a\"\nlifetime = \"boot_time\""),
        wrong("[[service]]\nname = \"a\"\nlifetime = \"dynamic\""),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn faults_of_filters_are_shown_at_their_place() {
    let named = |key: &str| format!("[[filter]]\nname = \"f\"\n{key}");
    let shown = [
        wrong(&named("action = \"permit\"")),
        wrong(&named("layer = \"connect-redirekt\"\naction = \"permit\"")),
        wrong(&named("layer = \"connect\"\naction = \"permit\"")),
        wrong(&named("layer = \"auth-connect\"")),
        wrong(&named("layer = \"auth-connect\"\naction = \"deny\"")),
        wrong(&named("layer = \"flow-established\"\naction = \"block\"")),
        wrong(&named(
            "layer = \"bind-redirect\"\naction = \"block\"\nremote_port = 1",
        )),
        wrong(&named("layer = \"auth-connect\"\naction = \"redirect\"")),
        wrong(&named(
            "layer = \"auth-connect\"\naction = { redirect = \"a\" }",
        )),
        wrong(&filter("key = \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\"")),
        wrong(&filter("on_absent = \"block\"")),
        wrong(&filter("weight = { class = 16 }")),
        wrong(&filter("weight = -1")),
        wrong(&filter("weight = 1.5")),
        wrong(&filter("disabled = 1")),
        wrong(&filter("sublayer = \"universe\"")),
        wrong(&filter("local_interface = 1")),
        wrong(&filter("remote_prot = 1")),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn faults_of_values_are_shown_at_their_place() {
    let shown = [
        wrong(&filter("remote_port = [80, 65536]")),
        wrong(&filter("remote_port = \"9-1\"")),
        wrong(&filter("remote_port = \"https\"")),
        wrong(&filter("remote_port = []")),
        wrong(&filter("remote_port = [[1]]")),
        wrong(&filter("remote_port = { not_equal = [1, 2] }")),
        wrong(&filter("remote_port = { not = 1 }")),
        wrong(&filter("remote_port = { less = 1, greater = 5 }")),
        wrong(&filter("remote_port = { range = [1, 2, 3] }")),
        wrong(&filter("remote_port = { prefix = 1 }")),
        wrong(&filter("protocol = \"tpc\"")),
        wrong(&filter("user = \"bob\"")),
        wrong(&filter("app = \"curl\"")),
        wrong(&filter("app = { equal_case_insensitive = \"/curl\" }")),
        wrong(&filter("remote_address = \"10.0.0.1/8\"")),
        wrong(&filter("remote_address = \"10.0.0.0/33\"")),
        wrong(&filter("remote_address = \"::ffff:10.0.0.1\"")),
        wrong(&filter("remote_address = \"example.com\"")),
        wrong(&filter("remote_address = { greater = \"10.0.0.0/8\" }")),
        wrong(&filter("remote_address = 5")),
        wrong(&filter(
            "protocol = 6\nremote_port = [{ less = 0 }, { greater = 65535 }]",
        )),
        wrong(&filter("").replace("redirect\"", "redirect-v4\"\nremote_address = \"::1\"")),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_shorter_lived_object_cannot_be_referred_to() {
    insta::assert_snapshot!(wrong(
        "[[sublayer]]\nname = \"s\"\n[[filter]]\nname = \"f\"\nlifetime = \"persistent\"\n\
         layer = \"auth-connect\"\naction = \"block\"\nsublayer = \"s\""
    ));
}

#[test]
fn what_is_no_policy_at_all_is_refused() {
    let bytes = |bytes: &[u8]| {
        let read = read_among(bytes, None, &Listing::default());
        read.expect_err("it is wrong").to_string()
    };
    let shown = [
        bytes(b"owner = \"a\"\n\n# caf\xe9\n"),
        bytes(b"owner = \"a\0b\"\n"),
        bytes(&vec![b'\n'; 10 << 20]),
        wrong("owner = \"a"),
        wrong("owner = \"a\"\nowner = \"b\""),
        wrong("\towner = 'ä\u{1b}[2J\u{7}"),
        wrong(&format!("a = {}", "[".repeat(100_000))),
        wrong(&format!("{} = 1", "a.".repeat(100_000) + "a")),
        wrong(&format!("{}€{}", "x = 1 # ".repeat(1_000), " \0".repeat(2))),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn reading_stops_after_so_many_faults() {
    let faults = read(&"[[filter]]\n".repeat(1_000)).unwrap_err();
    assert_eq!(faults.shown.len(), FAULTS_MAX);
    assert!(
        faults
            .to_string()
            .ends_with("there may be more: reading stopped here")
    );
}

#[test]
fn limits_are_told_at_the_first_thing_too_many() {
    let ports: Vec<_> = (0..1_025).map(|port| port.to_string()).collect();
    let one_too_many = filter(&format!("remote_port = [{}]", ports.join(", ")));
    let fault = &read(&one_too_many).unwrap_err().shown[0];
    assert_eq!(fault.code, Some(Code::OutOfBounds));
    assert!(
        one_too_many.lines().nth(4).unwrap()[fault.place.as_ref().unwrap().column - 1..]
            .starts_with("1024]")
    );

    let line = |index: usize| format!("[[filter]]\nname = \"{index}\"\n");
    let head = "defaults = { layer = \"auth-connect-v4\", action = \"block\" }\n".to_owned();
    let full = head + &(0..FILTERS_MAX).map(line).collect::<String>();
    assert_eq!(read(&full).unwrap().objects.filters.len(), FILTERS_MAX);
    let fault = &read(&(full + &line(FILTERS_MAX))).unwrap_err().shown[0];
    assert_eq!(fault.place.as_ref().unwrap().line, 2 * FILTERS_MAX + 2);
}

#[test]
fn the_schema_has_the_keys_that_are_read() {
    let schema = serde_json::to_value(schema()).unwrap();
    let keys = |of: &serde_json::Value| {
        let mut keys: Vec<_> = of["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        keys.sort();
        keys
    };
    let sorted = |names: &[&str]| {
        let mut names: Vec<_> = names.iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    let definition = |name: &str| keys(&schema["$defs"][name]);
    assert_eq!(keys(&schema), sorted(&TOP_KEYS));
    assert_eq!(definition("Defaults"), sorted(&DEFAULT_KEYS));
    assert_eq!(definition("Provider"), sorted(&PROVIDER_KEYS));
    assert_eq!(definition("Sublayer"), sorted(&SUBLAYER_KEYS));
    assert_eq!(definition("Service"), sorted(&SERVICE_KEYS));
    let fields = Field::ALL.map(Field::name);
    assert_eq!(
        definition("Filter"),
        sorted(&[&filter::KEYS[..], &fields].concat())
    );
    let comparison = schema["$defs"]
        .as_object()
        .unwrap()
        .keys()
        .find(|key| key.starts_with("Comparison"));
    let types = crate::MatchType::ALL.iter().map(|each| each.name());
    let usable: Vec<_> = types
        .filter(|name| *name != "equal_case_insensitive")
        .collect();
    assert_eq!(definition(comparison.unwrap()), sorted(&usable));
}

#[test]
fn the_documented_schema_is_the_codes() {
    let mut text = serde_json::to_string_pretty(&schema()).unwrap();
    text.push('\n');
    let documented = include_str!("../../../../docs/policy.schema.json");
    assert_eq!(
        text, documented,
        "run: sidetrack schema policy > docs/policy.schema.json"
    );
}

/// A table of the page: what exists at which layer.
fn table<T>(
    head: &str,
    rows: &[T],
    name: fn(&T) -> &str,
    is_at: fn(&T, LayerKind) -> bool,
) -> String {
    let kinds = LayerKind::ALL.map(LayerKind::name).join(" | ");
    let mut text = format!(
        "| {head} | {kinds} |\n|---|{}\n",
        "---|".repeat(LayerKind::ALL.len())
    );
    for row in rows {
        let cells = LayerKind::ALL.map(|kind| if is_at(row, kind) { "x" } else { "" });
        text.push_str(&format!("| `{}` | {} |\n", name(row), cells.join(" | ")));
    }
    text
}

#[test]
fn the_page_has_the_codes_tables_and_its_examples_are_policies() {
    let page = include_str!("../../../../docs/policy.md");
    let fields = table(
        "field",
        &Field::ALL,
        |field| field.name(),
        |field, kind| field.is_at(kind),
    );
    assert!(
        page.contains(&fields),
        "docs/policy.md should have\n{fields}"
    );
    let mut actions = filter::ACTIONS.map(|(_, action)| action).to_vec();
    actions.push(crate::Action::Redirect(Uuid::nil()));
    let actions = table(
        "action",
        &actions,
        |action| action.name(),
        |action, kind| action.is_at(kind),
    );
    assert!(
        page.contains(&actions),
        "docs/policy.md should have\n{actions}"
    );
    let examples: Vec<_> = page.split("```toml\n").skip(1).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let text = example.split("```").next().unwrap();
        read(text).unwrap_or_else(|faults| panic!("{faults}"));
    }
    for name in crate::MatchType::ALL.map(crate::MatchType::name) {
        assert!(page.contains(name), "{name} is not in docs/policy.md");
    }
}

#[test]
fn the_readmes_example_is_a_policy() {
    let readme = include_str!("../../../../README.md");
    let example = readme.split("```toml\n").nth(1).unwrap();
    let text = example.split("```").next().unwrap();
    let policy = read(text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(policy.objects.filters.len(), 2);
}
