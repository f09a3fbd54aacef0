//! Sidetrack's socket options: every length, and every error. Other options are in foreign_options.rs.

use std::net::{SocketAddr, TcpListener, TcpStream};

use e2e::policy::redirect_tcp;
use e2e::sys::{get_option, set_option};
use e2e::{Client, Host, listen_marked, listen_unmarked, mark};
use sidetrack_abi::kernel::{self, AutoContext, CONTEXT, INFO, RECORDS, SOL_SIDETRACK};
use sidetrack_engine::counter::Counter;
use sidetrack_engine::{RedirectContext, RegisteredService};
use sidetrack_policy::Code;
use sidetrack_policy::redirect::in_order;
use zerocopy::FromBytes;

const SOL_IP: i32 = libc::SOL_IP;
const SOL_IPV6: i32 = libc::SOL_IPV6;
const SO_ORIGINAL_DST: i32 = 80;

/// An accepted connection that was redirected, and its client.
struct Accepted {
    stream: TcpStream,
    _client: Client,
}

fn accept(host: &Host, listener: &TcpListener, arguments: &[&str]) -> Accepted {
    let client = host.client(&[&["connect"], arguments].concat());
    let (stream, _) = listener.accept().expect("the client connects");
    Accepted {
        stream,
        _client: client,
    }
}

/// A host on which every connection is redirected to one service, with this context.
fn with_context(test: &str, context: RedirectContext) -> (Host, RegisteredService, TcpListener) {
    let mut host = Host::new(test);
    let service = host.service("inspect");
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    host.set_policy([redirect_tcp(&service).context(context)]);
    (host, service, listener)
}

/// Error number and length of a getsockopt with one of Sidetrack's options.
fn query(socket: &TcpStream, name: i32, size: usize) -> (i32, usize) {
    let answer = get_option(socket, SOL_SIDETRACK, name, size);
    (answer.errno, answer.length as usize)
}

#[test]
fn buffer_that_is_too_small_gives_enobufs_at_every_size() {
    let (host, _, listener) = with_context("too_small", RedirectContext::Fixed(vec![7; 100]));
    let accepted = accept(&host, &listener, &["10.1.2.3:80"]);
    for (name, need) in [(INFO, 1024), (RECORDS, 32), (CONTEXT, 100)] {
        for size in 0..need {
            let got = query(&accepted.stream, name, size);
            assert_eq!(got, (libc::ENOBUFS, size), "option {name}");
        }
    }
    assert_eq!(query(&accepted.stream, RECORDS, 32), (0, 32));
    assert_eq!(query(&accepted.stream, CONTEXT, 100), (0, 100));
    // The answer to INFO contains the context only if all of it fits.
    assert_eq!(query(&accepted.stream, INFO, 1024), (0, 1024));
    assert_eq!(query(&accepted.stream, INFO, 1123), (0, 1024));
    assert_eq!(query(&accepted.stream, INFO, 1124), (0, 1124));
    assert_eq!(query(&accepted.stream, INFO, 4096), (0, 1124));
}

#[test]
fn nothing_is_written_after_the_answer() {
    let (host, _, listener) = with_context("behind_itself", RedirectContext::Fixed(vec![7; 101]));
    let accepted = accept(&host, &listener, &["10.1.2.3:80"]);
    for (name, length) in [(INFO, 1125), (RECORDS, 32), (CONTEXT, 101)] {
        let answer = get_option(&accepted.stream, SOL_SIDETRACK, name, 1500);
        assert_eq!((answer.errno, answer.length), (0, length), "option {name}");
        let rest = &answer.buffer[length as usize..];
        assert!(rest.iter().all(|&byte| byte == 0xa5), "option {name}");
    }
}

#[test]
fn each_error_has_one_meaning() {
    let (mut host, _, listener) = with_context("one_meaning", RedirectContext::None);
    let unconnected = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let unconnected = unconnected.expect("a socket");
    for name in [INFO, CONTEXT, RECORDS] {
        let answer = get_option(&listener, SOL_SIDETRACK, name, 4096);
        assert_eq!(answer.errno, libc::ENOTCONN, "a listener");
        let answer = get_option(&unconnected, SOL_SIDETRACK, name, 4096);
        assert_eq!(answer.errno, libc::ENOTCONN, "an unconnected socket");
    }
    // This connection reaches the service's listener directly, without a redirect.
    host.set_policy([]);
    let to = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let client = TcpStream::connect(to).expect("the client connects");
    let (stream, _) = listener.accept().expect("the client has connected");
    for name in [INFO, CONTEXT, RECORDS] {
        assert_eq!(
            query(&stream, name, 4096).0,
            libc::ENODATA,
            "not redirected"
        );
        assert_eq!(query(&client, name, 4096).0, libc::ENODATA, "a client");
    }
    assert!(matches!(
        sidetrack::query(&stream),
        Err(sidetrack::Error::NotRedirected)
    ));
    assert!(matches!(
        sidetrack::query(&listener),
        Err(sidetrack::Error::NotConnected)
    ));
}

#[test]
fn without_a_context_only_the_option_context_answers_enodata() {
    let (host, _, listener) = with_context("no_context", RedirectContext::None);
    let accepted = accept(&host, &listener, &["10.1.2.3:80"]);
    assert_eq!(query(&accepted.stream, CONTEXT, 4096).0, libc::ENODATA);
    assert_eq!(query(&accepted.stream, INFO, 4096), (0, 1024));
    let unknown = get_option(&accepted.stream, SOL_SIDETRACK, 99, 4096);
    assert_eq!(unknown.errno, libc::EOPNOTSUPP, "the kernel's own answer");
    assert_eq!(sidetrack::query(&accepted.stream).unwrap().context(), None);
}

#[test]
fn contexts_of_every_length_come_back_byte_for_byte() {
    let (mut host, service, listener) = with_context("context_lengths", RedirectContext::None);
    for length in [1, 7, 8, 9, 3071, 3072, 3073, 4000] {
        let context: Vec<u8> = (0..length)
            .map(|at: u32| (at * 31 + length) as u8)
            .collect();
        let fixed = RedirectContext::Fixed(context.clone());
        host.set_policy([redirect_tcp(&service).context(fixed)]);
        let accepted = accept(&host, &listener, &["10.1.2.3:80"]);
        let flow = sidetrack::query(&accepted.stream).expect("the socket answers");
        assert_eq!(flow.context(), Some(&context[..]), "{length} bytes");
        let answer = get_option(&accepted.stream, SOL_SIDETRACK, CONTEXT, length as usize);
        assert_eq!(
            (answer.errno, &answer.buffer),
            (0, &context),
            "{length} bytes"
        );
    }
    let too_long = redirect_tcp(&service).context(RedirectContext::Fixed(vec![0; 4001]));
    let filters = in_order([too_long]);
    let error = filters[0].check().expect_err("it is too long");
    assert_eq!(error.error.code, Code::OutOfBounds);
    assert!(error.to_string().contains("4001"), "{error}");
    let error = host.engine().commit(&filters, &[]);
    let error = error.expect_err("the engine refuses what was not checked");
    assert!(error.to_string().contains("4001"), "{error}");
}

#[test]
fn automatic_context_describes_the_flow() {
    let (host, _, listener) = with_context("auto_context", RedirectContext::Auto);
    let mut client = host.client(&["connect", "10.1.2.3:80"]);
    let (stream, _) = listener.accept().expect("the client connects");
    let flow = sidetrack::query(&stream).expect("the socket answers");
    let context = flow.context().expect("the flow has a context");
    let context = AutoContext::read_from_bytes(context).unwrap();
    assert_eq!((context.version, context.size), (kernel::ABI_VERSION, 296));
    assert_eq!(context.flow_id, flow.id());
    assert_eq!(context.pid, client.child().id());
    assert_eq!(context.uid, rustix::process::getuid().as_raw());
    assert_eq!((context.protocol, context.family), (6, 2));
    let to = sidetrack_abi::address::socket_address(context.remote_addr, context.remote_port);
    assert_eq!(to.to_string(), "10.1.2.3:80");
    let executable = sidetrack_abi::address::text(&context.executable);
    let executable = String::from_utf8_lossy(executable).into_owned();
    assert_eq!(
        std::path::Path::new(&executable),
        executable_of(&mut client)
    );
    assert_eq!(flow.program().executable, executable_of(&mut client));
    assert_eq!(flow.program().comm.to_string(), "client");
    assert_eq!(flow.program().cgroup_id, host.program_cgroup.id());
}

fn executable_of(client: &mut Client) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{}/exe", client.child().id())).expect("the client runs")
}

#[test]
fn option_listen_is_refused_on_unsuitable_sockets() {
    let mut host = Host::new("listen_refused");
    let service = host.service("inspect");
    let idle = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    assert_eq!(
        mark(&idle, &service),
        libc::EINVAL,
        "the socket does not listen"
    );
    let listener = listen_marked(&service, "0.0.0.0:0", 16);
    assert_eq!(mark(&listener, &service), libc::EALREADY, "marked twice");
    let other = listen_unmarked("0.0.0.0:0", 16);
    assert_eq!(mark(&other, &service), libc::EADDRINUSE, "another address");
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (1, 0));
    assert_eq!(
        mark(listen_unmarked("[::1]:0", 16), &service),
        0,
        "another family"
    );
    assert_eq!(host.count(Counter::BadSecret), 0);

    let fresh = listen_unmarked("0.0.0.0:0", 16);
    for index in 0..service.credentials().len() {
        let mut wrong = service.credentials().to_vec();
        wrong[index] ^= 0x10;
        let refused = set_option(&fresh, SOL_SIDETRACK, kernel::LISTEN, &wrong);
        assert_eq!(refused, libc::EINVAL, "byte {index} is wrong");
    }
    assert_eq!(host.count(Counter::BadSecret), 32);
    for size in (0..32).chain([33, 4096, 5000]) {
        let mut value = service.credentials().to_vec();
        value.resize(size, 0);
        let refused = set_option(&fresh, SOL_SIDETRACK, kernel::LISTEN, &value);
        assert_eq!(refused, libc::EINVAL, "{size} bytes");
    }
}

/// What conntrack would answer: the bytes of a sockaddr_in or a sockaddr_in6.
fn socket_address(to: SocketAddr) -> Vec<u8> {
    let mut bytes = match to {
        SocketAddr::V4(_) => (libc::AF_INET as u16).to_ne_bytes().to_vec(),
        SocketAddr::V6(_) => (libc::AF_INET6 as u16).to_ne_bytes().to_vec(),
    };
    bytes.extend(to.port().to_be_bytes());
    match to {
        SocketAddr::V4(v4) => bytes.extend([&v4.ip().octets()[..], &[0; 8]].concat()),
        SocketAddr::V6(v6) => bytes.extend([&[0; 4], &v6.ip().octets()[..], &[0; 4]].concat()),
    }
    bytes
}

#[test]
fn so_original_dst_answers_legacy_proxies() {
    let mut host = Host::new("original_dst");
    let service = host.service("inspect");
    let listeners = ["0.0.0.0:0", "[::1]:0"].map(|at| listen_marked(&service, at, 16));
    host.redirect_all(&[&service]);
    let mapped = ["10.1.2.3:80", "--mapped"];
    for (listener, arguments, level, sizes) in [
        (
            0,
            &["10.1.2.3:80"][..],
            SOL_IP,
            &[16, 20, 28, 32, 4096, 5000][..],
        ),
        (0, &mapped, SOL_IP, &[16, 28]),
        (1, &["[2001:db8::7]:443"], SOL_IPV6, &[28, 32, 4096, 5000]),
    ] {
        let accepted = accept(&host, &listeners[listener], arguments);
        let expected = socket_address(arguments[0].parse().unwrap());
        for &size in sizes {
            let answer = get_option(&accepted.stream, level, SO_ORIGINAL_DST, size);
            let case = format!("{arguments:?} in {size} bytes: {answer:?}");
            assert_eq!(
                (answer.errno, answer.length as usize),
                (0, expected.len()),
                "{case}"
            );
            assert_eq!(answer.buffer[..expected.len()], expected, "{case}");
        }
        let small = get_option(&accepted.stream, level, SO_ORIGINAL_DST, expected.len() - 1);
        assert_eq!(small.errno, libc::EINVAL);
        let other = SOL_IP + SOL_IPV6 - level;
        let other = get_option(&accepted.stream, other, SO_ORIGINAL_DST, 28);
        assert_ne!(other.errno, 0, "the level of the other family");
    }
}

#[test]
fn so_original_dst_is_unchanged_without_redirection() {
    let mut host = Host::new("original_dst_own");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "127.0.0.1:0", 16);
    let inside = TcpStream::connect(listener.local_addr().unwrap()).expect("the client connects");
    let (accepted, _) = listener.accept().expect("the client has connected");
    host.leave_scope();
    let outside = TcpStream::connect(listener.local_addr().unwrap()).expect("the client connects");
    for size in [0, 15, 16, 28, 5000] {
        for level in [SOL_IP, SOL_IPV6] {
            let unchanged = get_option(&outside, level, SO_ORIGINAL_DST, size);
            assert_ne!(unchanged.errno, 0, "there is no conntrack");
            for socket in [&inside, &accepted] {
                assert_eq!(
                    get_option(socket, level, SO_ORIGINAL_DST, size),
                    unchanged,
                    "{size}"
                );
            }
        }
    }
}

/// LISTEN registers a socket for its own family. A socket at [::] that also accepts IPv4 is no IPv4
/// listener.
#[test]
fn dual_stack_listener_serves_ipv6_only() {
    let mut host = Host::new("dual_stack");
    let service = host.service("inspect");
    let listener = listen_marked(&service, "[::]:0", 16);
    host.redirect_all(&[&service]);
    assert_eq!(host.engine().listeners(&service).unwrap().tcp(), (0, 1));
    let accepted = accept(&host, &listener, &["[fd00::1]:80"]);
    let flow = sidetrack::query(&accepted.stream).expect("the socket answers");
    assert_eq!(flow.original_destination().to_string(), "[fd00::1]:80");
    let report = host.connect("10.1.2.3:80");
    assert_eq!(
        report["errno"],
        libc::ECONNREFUSED,
        "there is no IPv4 listener: {report}"
    );
}

#[test]
fn sdk_reports_that_no_engine_is_attached() {
    let host = Host::without_engine("no_engine");
    host.enter_service_cgroup();
    let listener = listen_unmarked("127.0.0.1:0", 16);
    let client = TcpStream::connect(listener.local_addr().unwrap()).expect("the client connects");
    let (accepted, _) = listener.accept().expect("the client has connected");
    for name in [INFO, CONTEXT, RECORDS] {
        assert_eq!(query(&accepted, name, 4096), (libc::EOPNOTSUPP, 4096));
    }
    let records = [0; 32];
    let errno = set_option(&client, SOL_SIDETRACK, RECORDS, &records);
    assert_eq!(errno, libc::ENOPROTOOPT);
    assert!(matches!(
        sidetrack::query(&accepted),
        Err(sidetrack::Error::NoEngine)
    ));
    let service = sidetrack::Service::from_bytes(&[1; 32]).expect("the length is right");
    let refused = sidetrack::Listener::bind(&service);
    assert!(matches!(refused, Err(sidetrack::Error::NoEngine)));
}
