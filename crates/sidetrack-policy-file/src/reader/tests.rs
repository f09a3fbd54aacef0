use sidetrack_policy::set::FILTERS_MAX;
use sidetrack_policy::{Action, LayerKind, MatchType};

use super::object::{PROVIDER_KEYS, SERVICE_KEYS, SUBLAYER_KEYS};
use super::*;
use crate::schema;

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
connect = "pended"
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

fn read(text: &str) -> Result<Policy, FileErrors> {
    read_among(text.as_bytes(), None, &Listing::default())
}

fn read_among(text: &[u8], owner: Option<&str>, others: &Listing) -> Result<Policy, FileErrors> {
    let options = ParseOptions {
        file: "policy.toml",
        owner,
        others,
        users: &|name| (name == "alice").then_some(1001),
    };
    parse(text, &options)
}

/// The errors about a text, as people see them.
fn errors(text: &str) -> String {
    read(text).expect_err("the file has an error").to_string()
}

/// A file with one filter, which has the given lines.
fn filter(lines: &str) -> String {
    format!(
        "[[filter]]\nname = \"f\"\nlayer = \"connect-redirect\"\naction = \"permit\"\n{lines}\n"
    )
}

fn conditions(lines: &str) -> Vec<String> {
    let policy = read(&filter(lines)).unwrap_or_else(|errors| panic!("{errors}"));
    let all = policy.objects.filters.iter().map(|filter| {
        let conditions: Vec<_> = filter.conditions.iter().map(ToString::to_string).collect();
        format!("{}: {}", filter.layer, conditions.join(" "))
    });
    all.collect()
}

#[test]
fn a_file_gives_the_same_objects_and_keys_each_time() {
    let policy = read(ACME).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(policy, read(ACME).unwrap());
    insta::assert_debug_snapshot!(policy);
}

#[test]
fn another_owner_has_other_keys() {
    let other = read_among(ACME.as_bytes(), Some("other"), &Listing::default()).unwrap();
    let acme = read(ACME).unwrap();
    assert_eq!(other.owner, "other");
    for (one, another) in acme.objects.filters.iter().zip(&other.objects.filters) {
        assert_ne!(one.identity.key, another.identity.key);
    }
}

#[test]
fn every_field_and_match_type_can_be_written() {
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
fn only_families_that_the_addresses_allow_get_a_filter() {
    let shown = [
        conditions("remote_address = \"10.0.0.0/8\""),
        conditions("remote_address = \"2001:db8::1-2001:db8::9\""),
        conditions("remote_address = [\"10.0.0.1\", \"2001:db8::/32\"]"),
        // No IPv6 address is in 10.0.0.0/8.
        conditions("remote_address = { not_equal = \"10.0.0.0/8\" }"),
        conditions("remote_address = { not_equal = \"10.0.0.0/8\" }\nlocal_address = \"::1\""),
    ];
    insta::assert_debug_snapshot!(shown);
    let mixed = errors(&filter(
        "remote_address = \"10.0.0.1\"\nlocal_address = \"::1\"",
    ));
    insta::assert_snapshot!(mixed);
}

#[test]
fn defaults_apply_to_keys_that_an_entry_leaves_out() {
    let text = "defaults = { layer = \"auth-connect-v4\", action = \"block\", lifetime = \"boot_time\", sublayer = \"s\" }\n\
                sublayer = [{ name = \"s\" }]\n\
                filter = [{ name = \"a\" }, { name = \"b\", action = \"permit\" }]";
    let policy = read(text).unwrap_or_else(|errors| panic!("{errors}"));
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
fn objects_in_force_are_found_by_name() {
    let mut others = read(ACME).unwrap().objects;
    let text = filter("sublayer = \"acme-inspect\"");
    let found = read_among(text.as_bytes(), None, &others).unwrap();
    assert_eq!(
        found.objects.filters[0].sublayer,
        others.sublayers[0].identity.key
    );

    // The file does not contain the sublayer that its owner applied, so applying the file deletes it.
    let errors = read_among(text.as_bytes(), Some("acme"), &others).unwrap_err();
    assert_eq!(errors.shown[0].code, Some(Code::SublayerNotFound));

    let mut twin = others.sublayers[0].clone();
    twin.identity.key = Uuid::from_u128(1);
    others.sublayers.push(twin);
    let errors = read_among(text.as_bytes(), None, &others).unwrap_err();
    insta::assert_snapshot!(errors);
}

#[test]
fn findings_about_structure_are_shown_at_their_position() {
    let shown = [
        errors("owner = \"\""),
        errors("[[fitler]]\nname = \"a\""),
        errors("provider = 3"),
        errors("[[sublayer]]\nwieght = 3"),
        errors("[[sublayer]]\nweight = 3"),
        errors("[[sublayer]]\nname = \"a\"\nweight = 65536"),
        errors("[[sublayer]]\nname = \"\""),
        errors("[[sublayer]]\nname = 5"),
        errors("[[sublayer]]\nname = \"a\"\n[[sublayer]]\nname = \"a\""),
        errors("[[sublayer]]\nname = \"a\"\nkey = \"x\""),
        errors("[[sublayer]]\nname = \"a\"\nprovider = \"b\""),
        errors("[[service]]\nname = \"a service whose name is much too long\""),
        errors("[[service]]\nname = \"a\"\nrecords = \"requird\""),
        errors("[[service]]\nname = \"a\"\nconnect = \"pending\""),
        errors("[[service]]\nname = \"a\"\nrecords = \"legacy\"\nconnect = \"pended\""),
        errors("[[service]]\nname = \"a\"\ncontext = { hex = \"1\" }"),
        errors("[[service]]\nname = \"a\"\nlifetime = \"boot_time\""),
        errors("[[service]]\nname = \"a\"\nlifetime = \"dynamic\""),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn references_to_an_invalid_object_are_no_further_errors() {
    let redirect = "[[filter]]\nname = \"f\"\nlayer = \"connect-redirect\"\nlifetime = \"persistent\"\n\
                    action = { redirect = \"a\" }";
    for invalid in [
        "records = \"legacy\"\nconnect = \"pended\"",
        "records = \"requird\"",
        "wieght = 3",
    ] {
        let text = format!("[[service]]\nname = \"a\"\n{invalid}\n{redirect}");
        let errors = read(&text).unwrap_err();
        assert_eq!(errors.shown.len(), 1, "{errors}");
    }
}

#[test]
fn findings_about_filters_are_shown_at_their_position() {
    let named = |key: &str| format!("[[filter]]\nname = \"f\"\n{key}");
    let shown = [
        errors(&named("action = \"permit\"")),
        errors(&named("layer = \"connect-redirekt\"\naction = \"permit\"")),
        errors(&named("layer = \"connect\"\naction = \"permit\"")),
        errors(&named("layer = \"auth-connect\"")),
        errors(&named("layer = \"auth-connect\"\naction = \"deny\"")),
        errors(&named("layer = \"flow-established\"\naction = \"block\"")),
        errors(&named(
            "layer = \"bind-redirect\"\naction = \"block\"\nremote_port = 1",
        )),
        errors(&named("layer = \"auth-connect\"\naction = \"redirect\"")),
        errors(&named(
            "layer = \"auth-connect\"\naction = { redirect = \"a\" }",
        )),
        errors(&filter("key = \"6ba7b810-9dad-11d1-80b4-00c04fd430c8\"")),
        errors(&filter("on_absent = \"block\"")),
        errors(&filter("weight = { class = 16 }")),
        errors(&filter("weight = -1")),
        errors(&filter("weight = 1.5")),
        errors(&filter("disabled = 1")),
        errors(&filter("sublayer = \"universe\"")),
        errors(&filter("local_interface = 1")),
        errors(&filter("remote_prot = 1")),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn an_invalid_part_of_an_object_is_reported_where_it_is_written() {
    let long = |size: usize| "x".repeat(size);
    let service = |lines: &str| format!("[[service]]\nname = \"s\"\n{lines}");
    for (text, line, column) in [
        ("[[provider]]\nname = \"\"".to_owned(), 2, 8),
        (
            service(&format!("description = \"{}\"", long(1_025))),
            3,
            15,
        ),
        (
            service(&format!("context = {{ text = \"{}\" }}", long(4_001))),
            3,
            20,
        ),
        (
            filter("").replace("name = \"f\"", "name = \"a\\u0007\""),
            2,
            8,
        ),
        (filter(&format!("description = \"{}\"", long(1_025))), 5, 15),
        (filter("context = \"auto\""), 5, 11),
        (
            filter(&format!("context = {{ hex = \"{}\" }}", "00".repeat(4_001))),
            5,
            19,
        ),
        (filter("app = [\"/a\", \"b\"]"), 5, 14),
    ] {
        let error = &read(&text).unwrap_err().shown[0];
        let position = error.position.as_ref().unwrap();
        assert_eq!((position.line, position.column), (line, column), "{error}");
    }
}

#[test]
fn findings_about_values_are_shown_at_their_position() {
    let shown = [
        errors(&filter("remote_port = [80, 65536]")),
        errors(&filter("remote_port = \"9-1\"")),
        errors(&filter("remote_port = \"https\"")),
        errors(&filter("remote_port = []")),
        errors(&filter("remote_port = [[1]]")),
        errors(&filter("remote_port = { not_equal = [1, 2] }")),
        errors(&filter("remote_port = { not = 1 }")),
        errors(&filter("remote_port = { less = 1, greater = 5 }")),
        errors(&filter("remote_port = { range = [1, 2, 3] }")),
        errors(&filter("remote_port = { prefix = 1 }")),
        errors(&filter("protocol = \"tpc\"")),
        errors(&filter("user = \"bob\"")),
        errors(&filter("app = \"curl\"")),
        errors(&filter("app = { equal_case_insensitive = \"/curl\" }")),
        errors(&filter("remote_address = \"10.0.0.1/8\"")),
        errors(&filter("remote_address = \"10.0.0.0/33\"")),
        errors(&filter("remote_address = \"::ffff:10.0.0.1\"")),
        errors(&filter("remote_address = \"example.com\"")),
        errors(&filter("remote_address = { greater = \"10.0.0.0/8\" }")),
        errors(&filter("remote_address = 5")),
        errors(&filter(
            "protocol = 6\nremote_port = [{ less = 0 }, { greater = 65535 }]",
        )),
        errors(&filter("").replace("redirect\"", "redirect-v4\"\nremote_address = \"::1\"")),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn an_object_cannot_refer_to_one_that_does_not_last_as_long() {
    insta::assert_snapshot!(errors(
        "[[sublayer]]\nname = \"s\"\n[[filter]]\nname = \"f\"\nlifetime = \"persistent\"\n\
         layer = \"auth-connect\"\naction = \"block\"\nsublayer = \"s\""
    ));
}

#[test]
fn files_that_are_not_policies_are_refused() {
    let bytes = |bytes: &[u8]| {
        let read = read_among(bytes, None, &Listing::default());
        read.expect_err("the file has an error").to_string()
    };
    let shown = [
        bytes(b"owner = \"a\"\n\n# caf\xe9\n"),
        bytes(b"owner = \"a\0b\"\n"),
        bytes(&vec![b'\n'; 10 << 20]),
        errors("owner = \"a"),
        errors("owner = \"a\"\nowner = \"b\""),
        errors("\towner = 'ä\u{1b}[2J\u{7}"),
        errors(&format!("a = {}", "[".repeat(100_000))),
        errors(&format!("{} = 1", "a.".repeat(100_000) + "a")),
        errors(&format!("{}€{}", "x = 1 # ".repeat(1_000), " \0".repeat(2))),
    ]
    .join("\n\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn reading_stops_after_the_greatest_number_of_findings() {
    let errors = read(&"[[filter]]\n".repeat(1_000)).unwrap_err();
    assert_eq!(errors.shown.len(), ERRORS_MAX);
    assert!(
        errors
            .to_string()
            .ends_with("reading stopped here; there may be more errors")
    );
}

#[test]
fn a_limit_is_reported_at_the_first_item_beyond_it() {
    let ports: Vec<_> = (0..1_025).map(|port| port.to_string()).collect();
    let one_too_many = filter(&format!("remote_port = [{}]", ports.join(", ")));
    let error = &read(&one_too_many).unwrap_err().shown[0];
    assert_eq!(error.code, Some(Code::OutOfBounds));
    assert!(
        one_too_many.lines().nth(4).unwrap()[error.position.as_ref().unwrap().column - 1..]
            .starts_with("1024]")
    );

    let line = |index: usize| format!("[[filter]]\nname = \"{index}\"\n");
    let head = "defaults = { layer = \"auth-connect-v4\", action = \"block\" }\n".to_owned();
    let full = head + &(0..FILTERS_MAX).map(line).collect::<String>();
    assert_eq!(read(&full).unwrap().objects.filters.len(), FILTERS_MAX);
    let error = &read(&(full + &line(FILTERS_MAX))).unwrap_err().shown[0];
    assert_eq!(error.position.as_ref().unwrap().line, 2 * FILTERS_MAX + 2);
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
    let types = MatchType::ALL.iter().map(|each| each.name());
    let usable: Vec<_> = types
        .filter(|name| *name != "equal_case_insensitive")
        .collect();
    assert_eq!(definition(comparison.unwrap()), sorted(&usable));
}

#[test]
fn the_documented_schema_is_up_to_date() {
    let mut text = serde_json::to_string_pretty(&schema()).unwrap();
    text.push('\n');
    let documented = include_str!("../../../../docs/policy.schema.json");
    assert_eq!(
        text, documented,
        "run: sidetrack schema policy > docs/policy.schema.json"
    );
}

/// A table of docs/policy.md that shows which of the rows exist at which layer.
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
fn the_page_has_the_tables_of_the_code_and_its_examples_are_policies() {
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
    actions.push(Action::Redirect(Uuid::nil()));
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
        read(text).unwrap_or_else(|errors| panic!("{errors}"));
    }
    for name in MatchType::ALL.map(MatchType::name) {
        assert!(page.contains(name), "{name} is not in docs/policy.md");
    }
}

#[test]
fn the_example_of_the_readme_is_a_policy() {
    let readme = include_str!("../../../../README.md");
    let example = readme.split("```toml\n").nth(1).unwrap();
    let text = example.split("```").next().unwrap();
    let policy = read(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(policy.objects.filters.len(), 2);
}
