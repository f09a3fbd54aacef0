//! What clients of datagrams are told when these do not arrive: by an origin, or by a proxy that dies.

use e2e::run::{CHAIN, Run, UNTIL_A_FLOW_ENDED, is_gone};
use e2e::{EchoOrigin, Host, netns, wait};
use rustix::process::{Pid, Signal, kill_process};
use sidetrack::{Batch, DatagramListener, Unreachable};

/// Sends to where nobody is until it is told, and says what, by whom, and who it thinks its peer is.
const TOLD: &str = "
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
fn nobody_there_is_told_to_the_client_as_from_there() {
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
            let ended = Run::new(options, &["python3", "-c", TOLD, ip, "9", kind]).wait();
            assert_eq!(ended.outcome.stdout.trim(), expected, "{kind}: {ended:?}");
            for line in &ended.flows {
                assert_eq!(line["ended"], "refused by origin", "{ended:?}");
            }
        }
    }
}

/// The proxy is the user's, and has CAP_NET_RAW for this alone.
#[test]
fn under_sudo_the_client_is_told_too() {
    netns::enter();
    let script = "grep -h CapEff /proc/[0-9]*/status | sort -u >&2; exec python3 -c \"$0\" \"$@\"";
    let command = ["sh", "-c", script, TOLD, "127.0.0.1", "9", "connected"];
    let ended = Run::new(&[], &command).env("SUDO_UID", "1").wait();
    assert_eq!(ended.outcome.stdout, "ECONNREFUSED True\n", "{ended:?}");
    assert!(
        ended.outcome.stderr.contains("0000000000002000"),
        "{ended:?}"
    );
}

#[test]
fn errors_that_cannot_be_told_are_counted() {
    netns::enter();
    let without = ["setpriv", "--bounding-set=-net_raw"];
    let script = format!("echo hi >/dev/udp/127.0.0.1/9; {UNTIL_A_FLOW_ENDED}");
    let ended = Run::through(&without, &[], &["bash", "-c", &script]).wait();
    let told = "sidetrack proxy: errors not passed on to UDP clients because the proxy has no CAP_NET_RAW: 1";
    assert!(ended.outcome.stderr.contains(told), "{ended:?}");
}

#[test]
fn a_host_that_cannot_be_reached_and_a_refusal_are_told() {
    netns::enter();
    let mut host = Host::new("datagram_unreachable");
    let service = host.service("inspect");
    let listener = DatagramListener::bind(&e2e::sdk(&service)).expect("it is accepted");
    host.redirect_datagrams(&[&service]);
    for (to, why, expected) in [
        ("10.1.2.3", Unreachable::Port, "ECONNREFUSED 10.1.2.3"),
        ("10.1.2.3", Unreachable::Host, "EHOSTUNREACH 10.1.2.3"),
        ("10.1.2.3", Unreachable::Network, "ENETUNREACH 10.1.2.3"),
        ("10.1.2.3", Unreachable::Prohibited, "EHOSTUNREACH 10.1.2.3"),
        ("fd00::1", Unreachable::Port, "ECONNREFUSED fd00::1"),
        ("fd00::1", Unreachable::Host, "EHOSTUNREACH fd00::1"),
        ("fd00::1", Unreachable::Network, "ENETUNREACH fd00::1"),
        ("fd00::1", Unreachable::Prohibited, "EACCES fd00::1"),
    ] {
        let client = host.run(&["python3", "-c", TOLD, to, "53", "recverr"]);
        let mut batch = Batch::new(1, 2048);
        listener.receive(&mut batch).expect("one comes");
        let datagram = batch.iter().next().expect("there is one");
        listener.report(datagram.flow(), why).expect("we are root");
        let told = client.wait();
        assert_eq!(told.stdout.trim(), expected, "{why:?}: {told:?}");
    }
}

/// Asks again and again, twenty times more once it is told to end; what it got, in order.
const ASK_ON: &str = "
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

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid as i32).expect("not zero");
    kill_process(pid, Signal::KILL).expect("it is there");
}

#[test]
fn a_proxy_killed_amid_datagrams_is_absent_from_the_next_on() {
    netns::enter();
    for (on_absent, kind, last) in [
        ("block", "unconnected", "refused"),
        ("permit", "unconnected", "answered"),
        ("block", "connected", "refused"),
    ] {
        let origin = EchoOrigin::start("127.0.0.1:0");
        let port = origin.address.port().to_string();
        let command = ["python3", "-c", ASK_ON, &port, kind];
        let mut started = Run::new(&["--on-absent", on_absent], &command).start();
        wait::until("it is answered", || origin.datagrams() > 20);
        let proxy = started.processes("service-1")[0];
        kill(proxy);
        wait::until("the proxy is gone", || is_gone(proxy));
        started.tell("end");
        let ended = started.wait();
        let got: Vec<_> = ended.outcome.stdout.split_whitespace().collect();
        // What was with the proxy when it died is lost.
        let whole: Vec<_> = got.iter().filter(|one| **one != "lost").collect();
        let expected = ["answered", last];
        assert_eq!(got.last(), Some(&last), "{on_absent} {kind}: {ended:?}");
        assert!(
            expected.iter().eq(whole.iter().copied()) || last == "answered",
            "{ended:?}"
        );
        assert!(
            ended.outcome.stderr.contains("the proxy inspect has ended"),
            "{ended:?}"
        );
    }
}

/// The first proxy of a chain goes on where the second one was.
#[test]
fn a_proxy_killed_within_a_chain_is_passed_over_or_told_of() {
    netns::enter();
    for (on_absent, last) in [("block", "refused"), ("permit", "answered")] {
        let origin = EchoOrigin::start("127.0.0.1:0");
        let port = origin.address.port().to_string();
        let options = [&["--on-absent", on_absent], &CHAIN[..]].concat();
        let command = ["python3", "-c", ASK_ON, &port, "connected"];
        let mut started = Run::new(&options, &command).start();
        wait::until("it is answered", || origin.datagrams() > 20);
        let proxy = started.processes("service-2")[0];
        kill(proxy);
        wait::until("the proxy is gone", || is_gone(proxy));
        started.tell("end");
        let ended = started.wait();
        let got = ended.outcome.stdout.split_whitespace();
        assert_eq!(got.last(), Some(last), "{on_absent}: {ended:?}");
    }
}
