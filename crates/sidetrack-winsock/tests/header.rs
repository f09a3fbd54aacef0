//! Checks that include/sidetrack/winsock.h is what cbindgen generates from the source.
//! `UPDATE_HEADER=1 cargo test -p sidetrack-winsock --test header` writes it again.

use std::path::Path;
use std::{env, fs};

#[test]
fn header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = folder.join("include/sidetrack/winsock.h");
    let mut generated = Vec::new();
    cbindgen::generate(folder)
        .expect("the source can be read")
        .write(&mut generated);
    let generated = String::from_utf8(generated).expect("the header is UTF-8");
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&header, &generated).expect("the header can be written");
    }
    let committed = fs::read_to_string(&header).unwrap_or_default();
    assert!(
        committed == generated,
        "include/sidetrack/winsock.h differs from what cbindgen generates from the source; set UPDATE_HEADER=1 to write it"
    );
}
