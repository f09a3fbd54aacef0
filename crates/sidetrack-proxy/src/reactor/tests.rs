use std::os::fd::{AsFd, OwnedFd};
use std::{iter, thread};

use rustix::event::{EventfdFlags, eventfd};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// A descriptor that is always readable.
fn readable() -> OwnedFd {
    eventfd(1, EventfdFlags::NONBLOCK).unwrap()
}

#[derive(Clone, Copy)]
struct TestSocket;

impl SocketId for TestSocket {
    fn number(self) -> u64 {
        0
    }

    fn from_number(_: u64) -> Self {
        Self
    }
}

#[derive(Clone, Copy)]
struct TestTimer;

impl Timer for TestTimer {
    const DURATIONS: &'static [Duration] = &[Duration::from_millis(20)];

    fn kind(&self) -> usize {
        0
    }
}

/// What a loop has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Listener,
    Socket,
    Timer,
    Check,
    EndAll,
}

/// A handler that does what the test wants, and counts.
struct TestHandler<F> {
    calls: Vec<Call>,
    /// Called at each call, with all calls so far.
    on_call: F,
    after_listener: AfterListener,
    has_room: bool,
    is_empty: bool,
}

impl<F> TestHandler<F> {
    fn new(on_call: F) -> Self {
        Self {
            calls: Vec::new(),
            on_call,
            after_listener: AfterListener::Continue,
            has_room: true,
            is_empty: true,
        }
    }

    fn count(&self, call: Call) -> usize {
        self.calls.iter().filter(|one| **one == call).count()
    }
}

impl<F: FnMut(&mut Handled<'_>)> TestHandler<F> {
    fn called(&mut self, call: Call) {
        self.calls.push(call);
        (self.on_call)(&mut Handled {
            calls: &self.calls,
            has_room: &mut self.has_room,
            is_empty: &mut self.is_empty,
        });
    }
}

/// What a test sees and changes at a call.
struct Handled<'a> {
    calls: &'a [Call],
    has_room: &'a mut bool,
    is_empty: &'a mut bool,
}

impl Handled<'_> {
    fn last(&self) -> Call {
        self.calls[self.calls.len() - 1]
    }

    fn count(&self, call: Call) -> usize {
        self.calls.iter().filter(|one| **one == call).count()
    }
}

type TestRegistry = Registry<TestSocket, TestTimer>;

impl<F: FnMut(&mut Handled<'_>)> EventHandler for TestHandler<F> {
    type Socket = TestSocket;
    type Timer = TestTimer;

    fn listener_ready(&mut self, _: usize, _: &mut TestRegistry) -> Result<AfterListener, Error> {
        self.called(Call::Listener);
        Ok(self.after_listener)
    }

    fn socket_ready(&mut self, _: TestSocket, _: EventFlags, _: &mut TestRegistry) {
        self.called(Call::Socket);
    }

    fn events_handled(&mut self, _: &mut TestRegistry) {}

    fn timer_expired(&mut self, _: TestTimer, _: &mut TestRegistry) {
        self.called(Call::Timer);
    }

    fn check(&mut self, _: Instant) {
        self.called(Call::Check);
    }

    fn has_room(&self) -> bool {
        self.has_room
    }

    fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn end_all(&mut self, _: Instant) {
        self.called(Call::EndAll);
    }
}

fn reactor<'a>(
    listener: Option<&'a OwnedFd>,
    stop: &'a Stop,
) -> Reactor<'a, TestSocket, TestTimer> {
    let sockets = listener.into_iter().map(AsFd::as_fd);
    Reactor::new("wait for tests", sockets, CHECK_INTERVAL, stop).unwrap()
}

#[test]
fn other_sockets_are_served_while_the_listener_pauses() {
    let (listener, socket, stop) = (readable(), readable(), Stop::new().unwrap());
    let mut reactor = reactor(Some(&listener), &stop);
    let registry = reactor.registry();
    registry.watch(&socket, TestSocket, EventFlags::IN).unwrap();
    let mut times = Vec::new();
    let mut handler = TestHandler::new(|handled: &mut Handled<'_>| {
        if handled.last() == Call::Listener {
            times.push((Instant::now(), handled.count(Call::Socket)));
        }
        if times.len() == 3 {
            stop.stop(Duration::ZERO);
        }
    });
    handler.after_listener = AfterListener::Pause;
    reactor.run(&mut handler).unwrap();
    for pair in times.windows(2) {
        let [(before, sockets_before), (after, sockets_after)] = [pair[0], pair[1]];
        assert!(after - before >= LISTENER_PAUSE);
        assert!(sockets_after > sockets_before + 2);
    }
}

#[test]
fn without_room_the_listener_waits_until_there_is_some() {
    let (listener, socket, stop) = (readable(), readable(), Stop::new().unwrap());
    let mut reactor = reactor(Some(&listener), &stop);
    let registry = reactor.registry();
    registry.watch(&socket, TestSocket, EventFlags::IN).unwrap();
    let mut handler = TestHandler::new(|handled: &mut Handled<'_>| {
        match handled.count(Call::Listener) {
            1 => *handled.has_room = handled.count(Call::Socket) >= 100,
            2.. => stop.stop(Duration::ZERO),
            _ => {}
        };
    });
    (handler.after_listener, handler.has_room) = (AfterListener::WaitForRoom, false);
    reactor.run(&mut handler).unwrap();
    let mut calls = handler.calls.iter();
    calls.find(|call| **call == Call::Listener).unwrap();
    let sockets = calls.take_while(|call| **call == Call::Socket).count();
    assert!(sockets >= 99, "{sockets}"); // one may have come before the listener's first event
}

#[test]
fn a_stopped_loop_serves_its_sockets_until_it_is_empty() {
    let (listener, socket, stop) = (readable(), readable(), Stop::new().unwrap());
    let mut reactor = reactor(Some(&listener), &stop);
    let registry = reactor.registry();
    registry.watch(&socket, TestSocket, EventFlags::IN).unwrap();
    let mut sockets_at_end = None;
    let mut handler = TestHandler::new(|handled: &mut Handled<'_>| {
        let sockets = handled.count(Call::Socket);
        stop.stop(LONG);
        *handled.is_empty = sockets == 100;
        sockets_at_end = Some(sockets);
    });
    handler.is_empty = false;
    reactor.run(&mut handler).unwrap();
    assert_eq!(handler.count(Call::EndAll), 0);
    assert!(handler.count(Call::Listener) <= 2); // before the round in which it was stopped
    assert_eq!(sockets_at_end, Some(100));
}

#[test]
fn the_grace_period_ends_what_is_left() {
    let (listener, stop) = (readable(), Stop::new().unwrap());
    let mut reactor = reactor(Some(&listener), &stop);
    let mut handler = TestHandler::new(|handled: &mut Handled<'_>| {
        if handled.last() != Call::EndAll {
            stop.stop(Duration::from_millis(20));
        }
    });
    handler.is_empty = false;
    let begun = Instant::now();
    reactor.run(&mut handler).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert_eq!(handler.calls.last(), Some(&Call::EndAll));
    assert_eq!(handler.count(Call::EndAll), 1);
}

#[test]
fn a_loop_sleeps_until_it_is_stopped_by_another_thread() {
    let stop = Stop::new().unwrap();
    let mut reactor = reactor(None, &stop);
    let mut handler = TestHandler::new(|_: &mut Handled<'_>| {});
    thread::scope(|scope| {
        let looping = scope.spawn(move || {
            reactor.run(&mut handler).unwrap();
            handler.calls
        });
        stop.stop(LONG);
        assert_eq!(looping.join().unwrap(), []);
    });
}

#[test]
fn timers_expire_and_the_check_is_repeated_while_there_is_something() {
    let stop = Stop::new().unwrap();
    let mut reactor = reactor(None, &stop);
    let begun = Instant::now();
    iter::repeat_n(TestTimer, 2).for_each(|timer| reactor.registry().start_timer(timer));
    let mut handler = TestHandler::new(|handled: &mut Handled<'_>| {
        let checks = handled.count(Call::Check);
        *handled.is_empty = checks == 3;
        if checks == 3 && handled.count(Call::Timer) == 2 {
            stop.stop(LONG);
        }
    });
    handler.is_empty = false;
    reactor.run(&mut handler).unwrap();
    assert!(begun.elapsed() >= TestTimer::DURATIONS[0]);
    assert_eq!(handler.count(Call::Check), 3);
    assert_eq!(handler.count(Call::Timer), 2);
}
