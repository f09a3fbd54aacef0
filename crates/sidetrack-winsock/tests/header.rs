//! The committed header is what the source says. `UPDATE_HEADER=1 cargo test` writes it anew.

use std::path::Path;
use std::{env, fs};

#[test]
fn header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = folder.join("include/sidetrack/winsock.h");
    let mut made = Vec::new();
    cbindgen::generate(folder)
        .expect("the source can be read")
        .write(&mut made);
    let made = String::from_utf8(made).expect("it is text");
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&header, &made).expect("it can be written");
    }
    let committed = fs::read_to_string(&header).unwrap_or_default();
    assert!(
        committed == made,
        "include/sidetrack/winsock.h is not what cbindgen makes of the source; UPDATE_HEADER=1 renews it"
    );
}
