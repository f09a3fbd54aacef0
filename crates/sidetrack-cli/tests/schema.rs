//! docs/flows.schema.json and docs/flows.md agree with the code.

use std::process::Command;

#[test]
fn documented_schema_is_the_one_that_the_command_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_sidetrack"))
        .arg("schema")
        .output()
        .expect("the command runs");
    let documented = include_str!("../../../docs/flows.schema.json");
    assert_eq!(
        String::from_utf8_lossy(&printed.stdout),
        documented,
        "update the file with `sidetrack schema > docs/flows.schema.json`"
    );
}

#[test]
fn every_field_of_the_schema_is_in_the_page() {
    let page = include_str!("../../../docs/flows.md");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/flows.schema.json"))
            .expect("the schema is JSON");
    let fields = schema["properties"]
        .as_object()
        .expect("the schema has fields");
    assert!(fields.len() > 10);
    for field in fields.keys() {
        assert!(
            page.contains(&format!("`{field}`")),
            "{field} is not documented in docs/flows.md"
        );
    }
}
