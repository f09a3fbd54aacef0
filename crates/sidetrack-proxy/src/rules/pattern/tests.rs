use proptest::prelude::*;

use super::*;

fn matches(pattern: &str, destination: &str, host: Option<&str>) -> bool {
    let pattern: Pattern = pattern.parse().unwrap();
    pattern.matches(destination.parse().unwrap(), host)
}

#[test]
fn host_names_match_in_any_case() {
    let to = "192.0.2.1:443";
    assert!(matches("Example.com", to, Some("example.COM")));
    assert!(matches("example.com.", to, Some("example.com")));
    assert!(matches("example.com", to, Some("example.com.")));
    assert!(matches("example.com:443", to, Some("example.com")));
    assert!(!matches("example.com:80", to, Some("example.com")));
    assert!(!matches("example.com", to, Some("www.example.com")));
    assert!(!matches("example.com", to, None));
}

#[test]
fn a_wildcard_matches_subdomains_at_any_depth_but_not_the_name() {
    let to = "192.0.2.1:443";
    for host in [
        "a.example.com",
        "b.a.EXAMPLE.com",
        "ä.example.com",
        "a.example.com.",
    ] {
        assert!(matches("*.example.com", to, Some(host)), "{host}");
    }
    for host in [
        "example.com",
        ".example.com",
        "badexample.com",
        "com",
        "",
        "äexample.com",
    ] {
        assert!(!matches("*.example.com", to, Some(host)), "{host}");
    }
}

#[test]
fn addresses_and_networks_match() {
    assert!(matches("*", "192.0.2.1:443", None));
    assert!(matches("*:443", "[::1]:443", Some("x")));
    assert!(!matches("*:80", "[::1]:443", None));
    assert!(matches("192.0.2.1", "192.0.2.1:1", None));
    assert!(matches("192.0.2.1", "[::ffff:192.0.2.1]:1", None));
    assert!(matches("::ffff:192.0.2.1", "192.0.2.1:1", None));
    assert!(matches("::ffff:10.0.0.0/104", "10.9.9.9:1", None));
    assert!(!matches("::ffff:10.0.0.0/104", "11.9.9.9:1", None));
    assert!(matches("10.1.1.1/8:22", "10.2.0.1:22", None));
    assert!(!matches("10.0.0.0/8:22", "10.2.0.1:23", None));
    assert!(matches("2001:db8::/32", "[2001:db8:1::1]:22", None));
    assert!(matches("[2001:db8::1]:22", "[2001:db8::1]:22", None));
    assert!(matches("[2001:db8::/32]", "[2001:db8::1]:22", None));
    assert!(!matches("[2001:db8::/32]:22", "[2001:db8::1]:23", None));
    assert!(!matches("192.0.2.1", "198.51.100.1:80", Some("192.0.2.1")));
}

#[test]
fn errors_name_the_position() {
    for (text, column, expected) in [
        ("", 1, "a host name"),
        ("https://example.com", 7, "a port"),
        ("example.com:0", 13, "a port"),
        ("example.com:+1", 13, "a port"),
        ("example.com:65536", 13, "a port"),
        ("example.com:", 13, "a port"),
        ("exa mple.com", 4, "an ASCII letter"),
        ("bücher.example", 2, "an ASCII letter"),
        ("ex*mple.com", 3, "`*` only"),
        ("*.*.com", 3, "`*` only"),
        ("*example.com", 1, "`*` only"),
        ("a..com", 3, "a name's part"),
        ("*.", 3, "a name's part"),
        (".", 1, "a name's part"),
        ("10.0.0.0/33", 10, "a prefix length"),
        ("example.com/8", 1, "an address before"),
        ("10.0.0", 1, "a complete IPv4 address"),
        ("10.0.0.256:80", 1, "a complete IPv4 address"),
        ("2001:db8::/32:443", 5, "an IPv6 address"),
        ("[2001:db8::1", 13, "`]`"),
        ("[192.0.2.1]:80", 2, "an IPv6 address"),
        ("[::1]443", 6, "`:` and a port"),
        ("[::1]:x", 7, "a port"),
    ] {
        let error = text.parse::<Pattern>().unwrap_err();
        assert_eq!(error.column, column, "{error}");
        assert!(error.expected.starts_with(expected), "{error}");
    }
    let error = "a\nb".parse::<Pattern>().unwrap_err().to_string();
    assert!(
        error.starts_with(r"pattern `a\nb` is wrong at column 2: expected an ASCII letter"),
        "{error}"
    );
}

#[test]
fn sizes_are_limited() {
    assert!("a".repeat(64).parse::<Pattern>().is_err());
    assert!(vec!["a"; 128].join(".").parse::<Pattern>().is_err()); // 255 bytes
    assert!(vec!["a"; 127].join(".").parse::<Pattern>().is_ok());
    assert!("a".repeat(PATTERN_SIZE_MAX + 1).parse::<Pattern>().is_err());
}

proptest! {
    #[test]
    fn what_is_displayed_parses_again(text in r"(\*\.|\[)?[a-z0-9.:/]{1,12}\]?(:[0-9]{1,5})?") {
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>(), host in any::<String>()) {
        if let Ok(pattern) = text.parse::<Pattern>() {
            pattern.matches(([192, 0, 2, 1], 80).into(), Some(&host));
        }
        let below: Pattern = "*.example.com".parse().unwrap();
        below.matches(([192, 0, 2, 1], 80).into(), Some(&host));
    }
}
