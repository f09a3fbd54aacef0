//! The documented schema is the code's.

use std::process::Command;

#[test]
fn documented_schema_is_what_the_command_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_sidetrack"))
        .arg("schema")
        .output()
        .expect("it runs");
    let documented = include_str!("../../../docs/flows.schema.json");
    assert_eq!(
        String::from_utf8_lossy(&printed.stdout),
        documented,
        "run: sidetrack schema > docs/flows.schema.json"
    );
}

#[test]
fn every_field_of_the_schema_is_in_the_page() {
    let page = include_str!("../../../docs/flows.md");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/flows.schema.json")).expect("it is JSON");
    let fields = schema["properties"].as_object().expect("it has fields");
    assert!(fields.len() > 10);
    for field in fields.keys() {
        assert!(
            page.contains(&format!("`{field}`")),
            "{field} is not in docs/flows.md"
        );
    }
}
