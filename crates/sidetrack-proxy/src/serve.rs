//! Serves one service: all its connections and all its datagrams.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{future, thread};

use sidetrack::{DatagramListener, Error, Flow, Listener, Service, WhyAccepted};
use tokio::select;
use tokio::sync::oneshot;

use crate::connection::prepare;
use crate::connections::{ConnectionLoop, PendedLoops};
use crate::datagrams::{Counts, DatagramLoop};
use crate::line::FlowLine;
use crate::names::Names;
use crate::outcome::{Datagrams, Outcome};
use crate::reactor::Stop;
use crate::relay::{descriptors, pipes_max};
use crate::seen::Seen;
use crate::settings::Settings;

/// The number of connections that a server handles at a time, if the limit of descriptors allows as
/// many. The loops share it evenly, each share rounded up. Further connections wait in the
/// listeners' backlog.
pub const CONNECTIONS_MAX: usize = 16_384;
/// The largest number of event loops that share the connections, each with its thread. A server has
/// one for each processor, up to this number.
pub const LOOPS_MAX: usize = 16;
/// The number of descriptors that are kept for everything but connections and their pipes.
const DESCRIPTORS_SPARE: usize = 256;

/// The listeners of a service, for TCP and UDP, ready to [`run`](Server::run).
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    datagram_listener: DatagramListener,
    settings: Settings,
}

/// Serves `service` without end, and passes each flow line to `lines`. Use [`Server`] to be able to
/// stop.
///
/// Returns only with an error: those of [`Server::bind`] and [`Server::run`].
pub async fn serve(
    service: &Service,
    settings: Settings,
    lines: impl Fn(FlowLine) + Send + Sync + 'static,
) -> Result<(), Error> {
    let server = Server::bind(service, settings)?;
    server.run(future::pending(), lines).await.map(|_| ())
}

impl Server {
    /// Makes the listeners. From now on connections are accepted by the kernel and wait for
    /// [`run`](Self::run).
    ///
    /// Errors: those of [`sidetrack::Listener::bind`] and [`sidetrack::DatagramListener::bind`].
    pub fn bind(service: &Service, settings: Settings) -> Result<Self, Error> {
        // The UDP listener comes first, so that a process that waits for the TCP listener finds both.
        let datagram_listener = DatagramListener::bind(service)?;
        let listener = Listener::bind(service)?;
        listener.sockets().for_each(prepare);
        Ok(Self {
            listener,
            datagram_listener,
            settings,
        })
    }

    /// Why clients are accepted first, although the service asks for pended connects; `None` if that
    /// is not so.
    pub fn why_accepted(&self) -> Option<WhyAccepted> {
        self.listener.why_accepted()
    }

    /// Serves until `stop` resolves to a grace period. Then no connection is accepted any more, and
    /// open connections have this long to end; those that are left are closed, and their lines say
    /// "stopped". UDP flows are ended after the connections, since they have no end that could be
    /// waited for.
    ///
    /// Returns what no flow line reports. `lines` is called from the event loops' threads and must
    /// not block.
    ///
    /// Errors: one after which accepting cannot work again, such as [`Error::NoEngine`], and
    /// [`Error::System`] if the kernel refuses what an event loop needs. After an error, or if the
    /// future is dropped, open connections are closed at once.
    pub async fn run(
        self,
        stop: impl Future<Output = Duration>,
        lines: impl Fn(FlowLine) + Send + Sync + 'static,
    ) -> Result<Counts, Error> {
        let loops = thread::available_parallelism().map_or(1, NonZero::get);
        let loops = loops.min(LOOPS_MAX);
        let pended = self.listener.is_pended();
        let shared = Arc::new(Shared {
            pended: pended.then(|| PendedLoops::new(loops)).transpose()?,
            listener: self.listener,
            datagram_listener: self.datagram_listener,
            settings: self.settings,
            names: Mutex::new(Names::new()),
            stop: Stop::new()?,
            datagram_stop: Stop::new()?,
            lines,
        });
        let _stopped = StopOnDrop(Arc::clone(&shared));
        let datagrams = in_a_thread({
            let shared = Arc::clone(&shared);
            move || shared.run_datagram_loop()
        });
        let connections = run_loops(&shared, loops);
        tokio::pin!(datagrams, connections, stop);
        select! {
            grace = &mut stop => {
                shared.stop.stop(grace);
                connections.await?;
            }
            ended = &mut connections => ended?,
            failed = &mut datagrams => return failed,
        }
        shared.datagram_stop.stop(Duration::ZERO);
        datagrams.await
    }
}

/// What all event loops share.
struct Shared<L> {
    listener: Listener,
    /// `None` if the listener accepts first.
    pended: Option<PendedLoops<Flow>>,
    datagram_listener: DatagramListener,
    settings: Settings,
    names: Mutex<Names>,
    /// Stops the loops of the connections.
    stop: Stop,
    /// Stops the loop of the datagrams.
    datagram_stop: Stop,
    lines: L,
}

/// Stops all event loops when it is dropped.
struct StopOnDrop<L>(Arc<Shared<L>>);

impl<L> Drop for StopOnDrop<L> {
    fn drop(&mut self) {
        self.0.stop.stop(Duration::ZERO);
        self.0.datagram_stop.stop(Duration::ZERO);
    }
}

/// Runs this number of event loops for connections until all have ended. An error of one loop stops the
/// others.
///
/// Returns the error of the first loop in order that has one.
async fn run_loops<L>(shared: &Arc<Shared<L>>, count: usize) -> Result<(), Error>
where
    L: Fn(FlowLine) + Send + Sync + 'static,
{
    let loops: Vec<_> = (0..count)
        .map(|index| {
            let shared = Arc::clone(shared);
            let loop_max = connections_max().div_ceil(count);
            in_a_thread(move || {
                let ended = shared.run_connection_loop(index, loop_max);
                shared.stop.stop(Duration::ZERO); // no effect if it was stopped before; an error ends all loops
                ended
            })
        })
        .collect();
    let mut done = Ok(());
    for one in loops {
        done = done.and(one.await);
    }
    done
}

impl<L: Fn(FlowLine)> Shared<L> {
    /// Runs the event loop with this index for connections, at most `loop_max` of them, until it
    /// ends.
    ///
    /// When a connection has ended, the lock of `names` is taken once, for the name on its line.
    fn run_connection_loop(&self, index: usize, loop_max: usize) -> Result<(), Error> {
        let on_end = |flow: Flow, outcome: Outcome| {
            (self.lines)(FlowLine {
                name: self.name(&flow),
                ..FlowLine::new(&flow, outcome)
            });
        };
        ConnectionLoop::new(
            &self.listener,
            &self.settings,
            &self.stop,
            loop_max,
            self.pended.as_ref().map(|loops| (loops, index)),
            &on_end,
        )?
        .run()
    }

    /// Runs the event loop for datagrams until it ends.
    fn run_datagram_loop(&self) -> Result<Counts, Error> {
        let on_end = |flow: &Flow, outcome: Outcome, datagrams: Datagrams| {
            let name = match outcome.seen {
                Seen::Dns { .. } => None, // the name of the name server is of no interest
                _ => self.name(flow),
            };
            (self.lines)(FlowLine {
                name,
                datagrams: Some(datagrams),
                ..FlowLine::new(flow, outcome)
            });
        };
        let counts = DatagramLoop::new(
            &self.datagram_listener,
            &self.settings,
            &self.names,
            &self.datagram_stop,
            &on_end,
        )?
        .run()?;
        Ok(Counts {
            refused: self.datagram_listener.refused(),
            overflowed: self.datagram_listener.overflowed(),
            ..counts
        })
    }

    /// The name for which DNS last returned the address of the flow's destination.
    fn name(&self, flow: &Flow) -> Option<String> {
        let address = flow.original_destination().ip();
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.label(address, Instant::now()).map(str::to_owned)
    }
}

/// Runs a blocking function in a new thread. The future resolves to its result.
fn in_a_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let (done, ended) = oneshot::channel();
    thread::spawn(move || done.send(run()));
    async { ended.await.expect("the thread does not panic") }
}

/// The number of connections for which the process has descriptors, [`CONNECTIONS_MAX`] at most:
/// two for each connection's sockets, after those of the pipes ([`crate::relay::pipes_max`]) and
/// [`DESCRIPTORS_SPARE`].
fn connections_max() -> usize {
    let descriptors = descriptors();
    let pipes = 2 * pipes_max(descriptors);
    (descriptors.saturating_sub(pipes + DESCRIPTORS_SPARE) / 2).clamp(1, CONNECTIONS_MAX)
}
