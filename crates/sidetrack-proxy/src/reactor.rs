//! The event loop of one thread: the same for TCP's connections and for UDP's flows.
//!
//! ```text
//!   epoll ─┬─ listener ── listener_ready ── goes on, pauses, or waits for room
//!          ├─ sockets ─── socket_ready
//!          ├─ timers ──── timer_expired, check
//!          └─ stop ────── nothing more from the listener; the loop ends when the handler is
//!                         empty, or after the grace period
//! ```
//!
//! What a loop carries is its `EventHandler`. The handler's type is known to the compiler, so an
//! event costs no dynamic call.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use sidetrack::Error;

mod busy_poll;
mod listener;
mod registry;
mod stop;
mod timer;
mod token;

use busy_poll::Poller;
use listener::WatchedListener;
use timer::PeriodicCheck;
use token::{Token, stop_data};

pub use busy_poll::BUSY_POLL_TIME;
pub use listener::LISTENER_PAUSE;
pub use stop::Stop;

pub(crate) use listener::AfterListener;
pub(crate) use registry::{Arm, Registry};
pub(crate) use timer::{NoTimer, Timer};
pub(crate) use token::SocketId;

/// What an event loop carries.
///
/// In each round of the loop, the functions are called in this order: `round_begun`, `listener_ready` and
/// `socket_ready` for each event, `events_handled`, `timer_expired` for each expired timer, `check`
/// if it is due, `round_ended`.
pub(crate) trait EventHandler {
    /// Identifies the sockets that the handler adds to the [`Registry`].
    type Socket: SocketId;
    /// The timers that the handler starts.
    type Timer: Timer;

    /// Called when the loop has waited, before all others.
    fn round_begun(&mut self) {}

    /// Takes what waits at the listener's socket with this index. Called again if more is waiting.
    ///
    /// An error ends the loop.
    fn listener_ready(
        &mut self,
        socket: usize,
        registry: &mut Registry<Self::Socket, Self::Timer>,
    ) -> Result<AfterListener, Error>;

    /// Acts on an event of a socket. The socket may have been closed since the event was reported.
    fn socket_ready(
        &mut self,
        socket: Self::Socket,
        events: EventFlags,
        registry: &mut Registry<Self::Socket, Self::Timer>,
    );

    /// Called after the events of a round.
    fn events_handled(&mut self, registry: &mut Registry<Self::Socket, Self::Timer>);

    /// Acts on a timer that has expired.
    fn timer_expired(
        &mut self,
        timer: Self::Timer,
        registry: &mut Registry<Self::Socket, Self::Timer>,
    );

    /// Looks for what has ended without an event. Called once in each interval of the loop while
    /// the handler is not empty.
    fn check(&mut self, now: Instant);

    /// Called at the end of a round.
    fn round_ended(&mut self) {}

    /// Whether something can go on without an event, so that the next round must not wait.
    fn has_ready(&self) -> bool {
        false
    }

    /// Whether the listener can be heard again after [`AfterListener::WaitForRoom`].
    fn has_room(&self) -> bool {
        true
    }

    /// Whether nothing is carried, so that a stopped loop can end.
    fn is_empty(&self) -> bool;

    /// Ends everything, as the loop was stopped and the grace period is over.
    fn end_all(&mut self, now: Instant);
}

/// The event loop of one thread, see the module's description.
pub(crate) struct Reactor<'a, S, T> {
    registry: Registry<S, T>,
    listener: WatchedListener<'a>,
    stop: &'a Stop,
    check: PeriodicCheck,
    ending: Ending,
    /// What the loop does, for errors: to be read after "cannot".
    what: &'static str,
}

/// When the loop ends.
#[derive(Clone, Copy)]
enum Ending {
    /// Not before the loop is stopped.
    NotYet,
    /// When the handler is empty.
    Empty,
    /// When the handler is empty, or at this time.
    EmptyOrAt(Instant),
}

impl<'a, S: SocketId, T: Timer> Reactor<'a, S, T> {
    /// Makes a loop that waits for `listener`, until it is stopped by `stop`. It calls
    /// [`EventHandler::check`] once in each `check_interval`. `what` is what the loop does, for its
    /// errors, such as "wait for connections".
    ///
    /// Errors: [`Error::System`], if the kernel refuses what an event loop needs.
    pub(crate) fn new(
        what: &'static str,
        listener: impl Iterator<Item = BorrowedFd<'a>>,
        check_interval: Duration,
        stop: &'a Stop,
    ) -> Result<Self, Error> {
        let wait_error = |error| wait_error(what, error);
        let registry = Registry::new().map_err(wait_error)?;
        let epoll = registry.epoll();
        epoll::add(epoll, stop.event(), stop_data(), EventFlags::IN).map_err(wait_error)?;
        Ok(Self {
            listener: WatchedListener::new(listener, epoll).map_err(wait_error)?,
            registry,
            stop,
            check: PeriodicCheck::new(check_interval),
            ending: Ending::NotYet,
            what,
        })
    }

    /// Makes the loop end when its handler is empty, even if it is not stopped.
    pub(crate) fn end_when_empty(&mut self) {
        self.ending = Ending::Empty;
    }

    /// To add sockets and start timers before the loop runs.
    pub(crate) fn registry(&mut self) -> &mut Registry<S, T> {
        &mut self.registry
    }

    /// Runs until the loop was stopped and `handler` is empty.
    ///
    /// Errors: those of [`EventHandler::listener_ready`]; [`Error::System`], if waiting fails.
    pub(crate) fn run<H>(&mut self, handler: &mut H) -> Result<(), Error>
    where
        H: EventHandler<Socket = S, Timer = T>,
    {
        let mut poller = Poller::new();
        loop {
            let deadline = self.deadline(handler);
            let woken = poller.wait(self.registry.epoll(), deadline);
            let woken = woken.map_err(|error| wait_error(self.what, error))?;
            self.registry.set_now(woken.time);
            handler.round_begun();
            for event in woken.events {
                match Token::decode(event.data) {
                    Token::Stop => self.begin_stop()?,
                    Token::Listener(socket) => self.serve_listener(socket, handler)?,
                    Token::Socket(socket) => {
                        handler.socket_ready(socket, event.flags, &mut self.registry);
                    }
                }
            }
            handler.events_handled(&mut self.registry);
            let now = Instant::now();
            self.run_timers(now, handler);
            handler.round_ended();
            if handler.has_room() {
                self.listener.resume_if_full(self.registry.epoll());
            }
            if self.has_ended(now, handler) {
                return Ok(());
            }
        }
    }

    /// When the loop has something to do without an event; `None` if it has nothing.
    fn deadline(&self, handler: &impl EventHandler) -> Option<Instant> {
        if handler.has_ready() {
            return Some(self.registry.now()); // this has passed
        }
        let end = match self.ending {
            Ending::EmptyOrAt(deadline) => Some(deadline),
            Ending::NotYet | Ending::Empty => None,
        };
        let times = [
            self.registry.next_timer(),
            self.check.next(),
            self.listener.paused_until(),
            end,
        ];
        times.into_iter().flatten().min()
    }

    fn serve_listener<H>(&mut self, socket: usize, handler: &mut H) -> Result<(), Error>
    where
        H: EventHandler<Socket = S, Timer = T>,
    {
        // An earlier event of the same round may have closed it.
        if self.listener.is_open() {
            let after = handler.listener_ready(socket, &mut self.registry)?;
            self.listener.act_on(after, self.registry.epoll());
        }
        Ok(())
    }

    /// Does what is due at `now`: timers, the check, and listening after a pause.
    fn run_timers<H>(&mut self, now: Instant, handler: &mut H)
    where
        H: EventHandler<Socket = S, Timer = T>,
    {
        while let Some(timer) = self.registry.pop_expired(now) {
            handler.timer_expired(timer, &mut self.registry);
        }
        if self.check.is_due(now, !handler.is_empty()) {
            handler.check(now);
        }
        self.listener.resume_if_due(now, self.registry.epoll());
    }

    fn begin_stop(&mut self) -> Result<(), Error> {
        // The event stays readable, since other loops may wait for it too.
        let removed = epoll::delete(self.registry.epoll(), self.stop.event());
        removed.map_err(|error| wait_error(self.what, error))?;
        self.listener.close(self.registry.epoll());
        self.ending = Ending::EmptyOrAt(self.stop.deadline());
        Ok(())
    }

    /// Whether the loop has ended. Ends what is left if the grace period is over.
    fn has_ended(&self, now: Instant, handler: &mut impl EventHandler) -> bool {
        match self.ending {
            Ending::NotYet => false,
            _ if handler.is_empty() => true,
            Ending::EmptyOrAt(deadline) if now >= deadline => {
                handler.end_all(now);
                true
            }
            Ending::Empty | Ending::EmptyOrAt(_) => false,
        }
    }
}

fn wait_error(what: &'static str, source: Errno) -> Error {
    Error::System {
        what,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
