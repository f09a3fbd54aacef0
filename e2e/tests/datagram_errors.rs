//! Errors that clients get if their datagrams do not arrive: from an origin, or because a proxy was
//! killed.

use e2e::run::{CHAIN, Run, UNTIL_A_FLOW_ENDED, is_gone};
use e2e::{EchoOrigin, Host, netns, send_signal, wait};
use rustix::process::Signal;
use sidetrack::{Batch, DatagramListener, Unreachable};

/// A Python program that sends a datagram and waits for an error. It prints the error, and either the
/// address that sent the ICMP message (`recverr`), or whether the peer name is the destination.
const PRINT_ERROR: &str = "
import errno, select, socket, struct, sys
host, port, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
if kind == 'mapped': host, family = '::ffff:' + host, socket.AF_INET6
one = socket.socket(family, socket.SOCK_DGRAM)
one.settimeout(15)
if kind == 'recverr':
    one.setsockopt(*((41, 25) if family == socket.AF_INET6 else (0, 11)), 1)
    one.sendto(b'x', (host, port))
    poll = select.poll()
    poll.register(one, 0)
    poll.poll(15000)
    control = one.recvmsg(100, 500, socket.MSG_ERRQUEUE)[1][0][2]
    number, = struct.unpack_from('=I', control)
    offender = control[20:24] if family == socket.AF_INET else control[24:40]
    print(errno.errorcode[number], socket.inet_ntop(family, offender))
    sys.exit()
one.connect((host, port))
one.send(b'x')
try: print(one.recv(10))
except OSError as error: print(errno.errorcode[error.errno], one.getpeername()[:2] == (host, port))
";

#[test]
fn refusal_by_the_origin_reaches_the_client_with_the_origins_address() {
    netns::enter();
    netns::ip("address add 192.0.2.1/32 dev lo");
    netns::ip("address add 2001:db8::1/128 dev lo nodad");
    for (ip, kind, expected) in [
        ("192.0.2.1", "connected", "ECONNREFUSED True"),
        ("192.0.2.1", "mapped", "ECONNREFUSED True"),
        ("192.0.2.1", "recverr", "ECONNREFUSED 192.0.2.1"),
        ("2001:db8::1", "connected", "ECONNREFUSED True"),
        ("2001:db8::1", "recverr", "ECONNREFUSED 2001:db8::1"),
    ] {
        for options in [&[][..], &CHAIN] {
            let command = ["python3", "-c", PRINT_ERROR, ip, "9", kind];
            let ended = Run::new(options, &command).wait();
            assert_eq!(ended.outcome.stdout.trim(), expected, "{kind}: {ended:?}");
            for line in &ended.flows {
                assert_eq!(line["ended"], "refused by origin", "{ended:?}");
            }
        }
    }
}

/// Under sudo the proxy runs as the invoking user. It has CAP_NET_RAW only so that it can send ICMP
/// messages.
#[test]
fn refusal_reaches_the_client_under_sudo() {
    netns::enter();
    let script = "grep -h CapEff /proc/[0-9]*/status | sort -u >&2; exec python3 -c \"$0\" \"$@\"";
    let command = [
        "sh",
        "-c",
        script,
        PRINT_ERROR,
        "127.0.0.1",
        "9",
        "connected",
    ];
    let ended = Run::new(&[], &command).env("SUDO_UID", "1").wait();
    assert_eq!(ended.outcome.stdout, "ECONNREFUSED True\n", "{ended:?}");
    assert!(
        ended.outcome.stderr.contains("0000000000002000"),
        "{ended:?}"
    );
}

#[test]
fn errors_that_cannot_reach_the_client_are_counted() {
    netns::enter();
    let without = ["setpriv", "--bounding-set=-net_raw"];
    let script = format!("echo hi >/dev/udp/127.0.0.1/9; {UNTIL_A_FLOW_ENDED}");
    let ended = Run::with_wrapper(&without, &[], &["bash", "-c", &script]).wait();
    let message = "sidetrack proxy: errors not passed on to UDP clients because the proxy has no CAP_NET_RAW: 1";
    assert!(ended.outcome.stderr.contains(message), "{ended:?}");
}

#[test]
fn errors_that_a_proxy_reports_reach_the_client() {
    netns::enter();
    let mut host = Host::new("datagram_unreachable");
    let service = host.service("inspect");
    let listener =
        DatagramListener::bind(&e2e::sdk_service(&service)).expect("the listener is marked");
    host.redirect_datagrams(&[&service]);
    for (to, reason, expected) in [
        ("10.1.2.3", Unreachable::Port, "ECONNREFUSED 10.1.2.3"),
        ("10.1.2.3", Unreachable::Host, "EHOSTUNREACH 10.1.2.3"),
        ("10.1.2.3", Unreachable::Network, "ENETUNREACH 10.1.2.3"),
        ("10.1.2.3", Unreachable::Prohibited, "EHOSTUNREACH 10.1.2.3"),
        ("fd00::1", Unreachable::Port, "ECONNREFUSED fd00::1"),
        ("fd00::1", Unreachable::Host, "EHOSTUNREACH fd00::1"),
        ("fd00::1", Unreachable::Network, "ENETUNREACH fd00::1"),
        ("fd00::1", Unreachable::Prohibited, "EACCES fd00::1"),
    ] {
        let client = host.run(&["python3", "-c", PRINT_ERROR, to, "53", "recverr"]);
        let mut batch = Batch::new(1, 2048);
        listener.receive(&mut batch).expect("a datagram arrives");
        let datagram = batch.iter().next().expect("the batch has a datagram");
        let reported = listener.report(datagram.flow(), reason);
        reported.expect("the test has CAP_NET_RAW");
        let outcome = client.wait();
        assert_eq!(outcome.stdout.trim(), expected, "{reason:?}: {outcome:?}");
    }
}

/// A Python program that sends requests until a line comes on its standard input, and then 20 more. It
/// prints the results in order, each repetition once: answered, lost, refused.
const REQUEST_UNTIL_INPUT: &str = "
import itertools, select, socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
to = ('127.0.0.1', int(sys.argv[1]))
if sys.argv[2] == 'connected': one.connect(to)
one.settimeout(0.2)
def ask():
    try:
        one.sendto(b'x', to) if sys.argv[2] != 'connected' else one.send(b'x')
        one.recvfrom(10)
        return 'answered'
    except TimeoutError: return 'lost'
    except ConnectionRefusedError: return 'refused'
got = []
while not select.select([sys.stdin], [], [], 0)[0]: got.append(ask())
got += [ask() for _ in range(20)]
print(*(key for key, _ in itertools.groupby(got)))
";

#[test]
fn proxy_killed_during_datagrams_is_absent_from_the_next_one_on() {
    netns::enter();
    for (on_absent, kind, last) in [
        ("block", "unconnected", "refused"),
        ("permit", "unconnected", "answered"),
        ("block", "connected", "refused"),
    ] {
        let origin = EchoOrigin::start("127.0.0.1:0");
        let port = origin.address.port().to_string();
        let command = ["python3", "-c", REQUEST_UNTIL_INPUT, &port, kind];
        let mut started = Run::new(&["--on-absent", on_absent], &command).start();
        wait::until("requests are answered", || origin.datagrams() > 20);
        let proxy = started.processes("service-1")[0];
        send_signal(proxy, Signal::KILL);
        wait::until("the proxy is gone", || is_gone(proxy));
        started.send_line("end");
        let ended = started.wait();
        let results: Vec<_> = ended.outcome.stdout.split_whitespace().collect();
        // Datagrams that the proxy had when it was killed are lost.
        let not_lost: Vec<_> = results.iter().filter(|result| **result != "lost").collect();
        let expected = ["answered", last];
        assert_eq!(results.last(), Some(&last), "{on_absent} {kind}: {ended:?}");
        assert!(
            expected.iter().eq(not_lost.iter().copied()) || last == "answered",
            "{ended:?}"
        );
        assert!(
            ended.outcome.stderr.contains("the proxy inspect has ended"),
            "{ended:?}"
        );
    }
}

/// The second proxy of a chain is killed. The first one's next datagram goes to the third, or is
/// refused.
#[test]
fn killed_proxy_of_a_chain_is_skipped_or_the_client_is_refused() {
    netns::enter();
    for (on_absent, last) in [("block", "refused"), ("permit", "answered")] {
        let origin = EchoOrigin::start("127.0.0.1:0");
        let port = origin.address.port().to_string();
        let options = [&["--on-absent", on_absent], &CHAIN[..]].concat();
        let command = ["python3", "-c", REQUEST_UNTIL_INPUT, &port, "connected"];
        let mut started = Run::new(&options, &command).start();
        wait::until("requests are answered", || origin.datagrams() > 20);
        let proxy = started.processes("service-2")[0];
        send_signal(proxy, Signal::KILL);
        wait::until("the proxy is gone", || is_gone(proxy));
        started.send_line("end");
        let ended = started.wait();
        let results = ended.outcome.stdout.split_whitespace();
        assert_eq!(results.last(), Some(last), "{on_absent}: {ended:?}");
    }
}
