//! Reads the head of an HTTP/1 request.

use httparse::{EMPTY_HEADER, Request, Status};

use super::host::reported_host;
use super::{RAW, Sniffed};
use crate::seen::Seen;

/// The longest head that is read, in bytes. A connection with a longer one is raw.
pub const HEAD_SIZE_MAX: usize = 16 * 1024;
/// The largest number of header fields. A connection with more in its head is raw.
pub const HEADERS_MAX: usize = 256;
/// The longest method, in bytes. A connection that begins with a longer word is not HTTP.
pub const METHOD_SIZE_MAX: usize = 32;
/// The number of bytes after which a path is cut.
pub const PATH_SIZE_MAX: usize = 2048;

/// Decides whether the bytes begin with an HTTP/1 request, as far as they were received.
pub(super) fn sniff(bytes: &[u8]) -> Sniffed {
    let bytes = &bytes[..bytes.len().min(HEAD_SIZE_MAX)];
    if !has_short_method(bytes) {
        return RAW;
    }
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => read_head(&request).map_or(RAW, Sniffed::Seen),
        Ok(Status::Partial) if bytes.len() < HEAD_SIZE_MAX => Sniffed::More,
        Ok(Status::Partial) | Err(_) => RAW,
    }
}

/// Whether the first word may be a method. So protocols that begin with a long word are decided
/// without waiting for a whole head.
fn has_short_method(bytes: &[u8]) -> bool {
    let mut line = bytes.iter().skip_while(|byte| b"\r\n".contains(byte));
    let method = line.by_ref().take_while(|&&byte| byte != b' ');
    method.take(METHOD_SIZE_MAX + 1).count() <= METHOD_SIZE_MAX
}

fn read_head(request: &Request<'_, '_>) -> Option<Seen> {
    let (method, path) = (request.method?, request.path?);
    let host = match target_authority(method, path) {
        Some(authority) => host_of(authority.as_bytes()),
        None => request
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("host"))
            .and_then(|header| host_of(header.value)),
    };
    Some(Seen::Http {
        host,
        method: method.into(),
        path: cut(path).into(),
    })
}

/// The authority in the request's target, if there is one. It takes precedence over the Host field
/// (RFC 9112, 3.2).
fn target_authority<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Some(target);
    }
    if target.starts_with('/') {
        return None;
    }
    let (_, rest) = target.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

/// The host of an authority, without user, port and brackets.
fn host_of(authority: &[u8]) -> Option<String> {
    let authority = authority.trim_ascii();
    let authority = match authority.iter().rposition(|&byte| byte == b'@') {
        Some(at) => &authority[at + 1..],
        None => authority,
    };
    let (begin, end) = match authority.first() {
        Some(b'[') => (1, authority.iter().position(|&byte| byte == b']')?),
        _ => (
            0,
            authority
                .iter()
                .position(|&byte| byte == b':')
                .unwrap_or(authority.len()),
        ),
    };
    reported_host(&authority[begin..end])
}

/// The path, cut after [`PATH_SIZE_MAX`] bytes or a few less, so that no character is cut.
fn cut(path: &str) -> &str {
    let mut end = path.len().min(PATH_SIZE_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sniff::sniff;

    fn seen(head: &str) -> (Option<String>, String, String) {
        match sniff(head.as_bytes()) {
            Sniffed::Seen(Seen::Http { host, method, path }) => (host, method, path),
            other => panic!("{head:?} is {other:?}"),
        }
    }

    #[test]
    fn a_head_in_pieces() {
        let head = "GET /a?b HTTP/1.1\r\nAccept: */*\r\nHOST:  Example.COM:8080 \r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(sniff(&head.as_bytes()[..end]), Sniffed::More, "{end}");
        }
        let wanted = (Some("example.com".into()), "GET".into(), "/a?b".into());
        assert_eq!(seen(head), wanted);
        assert_eq!(seen(&format!("{head}body")), wanted);
    }

    #[test]
    fn hosts_of_all_forms() {
        for (line, host) in [
            ("CONNECT b.example:443", Some("b.example")),
            ("CONNECT [2001:DB8::1]:443", Some("2001:db8::1")),
            ("GET http://b.example/x", Some("b.example")),
            ("GET HTTP://me:pw@B.example:80?q", Some("b.example")),
            ("GET /http://b.example/", Some("a.example")),
            ("OPTIONS *", Some("a.example")),
            ("GET http:///x", None),
            ("CONNECT [::1", None),
        ] {
            let head = format!("{line} HTTP/1.1\r\nHost: a.example\r\n\r\n");
            assert_eq!(seen(&head).0.as_deref(), host, "{line}");
        }
        assert_eq!(seen("GET / HTTP/1.0\r\n\r\n").0, None);
        assert_eq!(
            seen("GET / HTTP/1.1\r\nHost: [::1]:8\r\n\r\n").0.unwrap(),
            "::1"
        );
    }

    #[test]
    fn fields_are_bounded() {
        let long = "a".repeat(3000);
        let (host, _, path) = seen(&format!("GET /{long} HTTP/1.1\r\nHost: {long}\r\n\r\n"));
        assert_eq!((host, path.len()), (None, PATH_SIZE_MAX));
        assert_eq!(
            cut(&format!("/{}", "ä".repeat(3000))).len(),
            PATH_SIZE_MAX - 1
        );
    }

    #[test]
    fn a_head_over_the_limit_is_raw_with_any_number_of_bytes() {
        let head = format!(
            "GET / HTTP/1.1\r\nA: {}\r\nHost: a\r\n\r\n",
            "a".repeat(HEAD_SIZE_MAX)
        );
        assert_eq!(sniff(&head.as_bytes()[..HEAD_SIZE_MAX - 1]), Sniffed::More);
        assert_eq!(sniff(&head.as_bytes()[..HEAD_SIZE_MAX]), RAW);
        assert_eq!(sniff(head.as_bytes()), RAW);
    }

    #[test]
    fn other_protocols_are_raw_at_once() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.7\r\n"[..],
            b"EHLO client.example\r\n",
            b"PING\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"BitTorrent protocol with words \x13",
            b"TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsu",
        ] {
            assert_eq!(sniff(bytes), RAW, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
