//! Compares the errors of the socket options in three places: the table in `bpf/sidetrack.h`, the table in
//! `docs/proxies.md`, and the code in `bpf/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether a word has the form of an errno, for example "EINVAL".
fn is_errno(word: &str) -> bool {
    word.len() >= 4 && word.starts_with('E') && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The errnos of the table in the header. The table is fenced by `clang-format off` and `on`, and each of its lines
/// is " * ERRNO<TAB>option(s): meaning".
fn of_header() -> BTreeSet<String> {
    let header = read("bpf/sidetrack.h");
    let (_, rest) = header
        .split_once("/* clang-format off */")
        .expect("the table begins");
    let (table, _) = rest
        .split_once("/* clang-format on */")
        .expect("the table ends");
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix(" * ")?.split_once('\t'));
    rows.map(|(errno, meaning)| {
        assert!(is_errno(errno), "{errno:?} is no errno");
        assert!(meaning.contains(": "), "{errno} has no option: {meaning:?}");
        errno.to_owned()
    })
    .collect()
}

/// The errnos in the first column of the first Markdown table whose first column is headed "errno".
fn of_document() -> BTreeSet<String> {
    let document = read("docs/proxies.md");
    let first_cell = |line: &str| {
        let cell = line.strip_prefix('|')?.split('|').next()?;
        Some(cell.trim().trim_matches('`').to_owned())
    };
    let cells = document.lines().map(first_cell);
    cells
        .skip_while(|cell| cell.as_deref() != Some("errno"))
        .skip(2) // the heads of the columns, and the line below them
        .map_while(|cell| cell)
        .map(|errno| {
            assert!(is_errno(&errno), "{errno:?} is no errno");
            errno
        })
        .collect()
}

/// The errnos in the code of the options, without comments.
fn of_code() -> BTreeSet<String> {
    let mut code = String::new();
    for file in ["bpf/option.h", "bpf/service.h"] {
        for (index, part) in read(file).split("/*").enumerate() {
            let without_comment = part.split_once("*/").map_or(part, |(_, after)| after);
            code.push_str(if index == 0 { part } else { without_comment });
        }
    }
    code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| is_errno(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn header_and_document_list_the_same_errnos() {
    let header = of_header();
    assert!(!header.is_empty());
    assert_eq!(header, of_document());
}

#[test]
fn header_lists_every_errno_that_the_code_returns() {
    let (header, code) = (of_header(), of_code());
    assert!(!code.is_empty());
    let missing: Vec<_> = code.difference(&header).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
