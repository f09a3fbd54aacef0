//! Serves one service: all its connections and all its datagrams.

use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, thread};

use sidetrack::{Error, Flow, Listener, Service};
use tokio::select;
use tokio::sync::oneshot;

use crate::connection::prepare;
use crate::connections::ConnectionLoop;
use crate::datagrams::{Counts, DatagramRelay, label};
use crate::line::FlowLine;
use crate::names::Names;
use crate::outcome::Outcome;
use crate::reactor::Stop;
use crate::relay::{descriptors, pipes_max};
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
    datagrams: DatagramRelay,
    settings: Settings,
    names: Arc<Mutex<Names>>,
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
        let names = Arc::new(Mutex::new(Names::new()));
        // The UDP listener comes first, so that a process that waits for the TCP listener finds both.
        let datagrams = DatagramRelay::bind(service, settings.clone(), Arc::clone(&names))?;
        let listener = Listener::bind(service)?;
        listener.sockets().for_each(prepare);
        Ok(Self {
            listener,
            datagrams,
            settings,
            names,
        })
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
        let stopper = self.datagrams.stopper();
        let shared = Arc::new(Shared {
            listener: self.listener,
            settings: self.settings,
            names: self.names,
            stop: Stop::new()?,
            lines,
        });
        let _stopped = StopOnDrop(Arc::clone(&shared));
        let datagrams = in_a_thread({
            let (relay, shared) = (self.datagrams, Arc::clone(&shared));
            move || relay.run(&shared.lines)
        });
        let connections = run_loops(&shared);
        tokio::pin!(datagrams, connections, stop);
        select! {
            grace = &mut stop => {
                shared.stop.stop(grace);
                connections.await?;
            }
            ended = &mut connections => ended?,
            failed = &mut datagrams => return failed,
        }
        drop(stopper);
        datagrams.await
    }
}

/// What all event loops share.
struct Shared<L> {
    listener: Listener,
    settings: Settings,
    names: Arc<Mutex<Names>>,
    stop: Stop,
    lines: L,
}

struct StopOnDrop<L>(Arc<Shared<L>>);

impl<L> Drop for StopOnDrop<L> {
    fn drop(&mut self) {
        self.0.stop.stop(Duration::ZERO);
    }
}

/// Runs the event loops of the connections until all have ended. An error of one loop stops the
/// others.
///
/// Returns the error of the first loop in order that has one.
async fn run_loops<L>(shared: &Arc<Shared<L>>) -> Result<(), Error>
where
    L: Fn(FlowLine) + Send + Sync + 'static,
{
    let count = thread::available_parallelism().map_or(1, NonZero::get);
    let count = count.min(LOOPS_MAX);
    let loops: Vec<_> = (0..count)
        .map(|_| {
            let shared = Arc::clone(shared);
            let loop_max = connections_max().div_ceil(count);
            in_a_thread(move || {
                let ended = shared.run_loop(loop_max);
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
    /// Runs one event loop, with at most `loop_max` connections, until it ends.
    ///
    /// When a connection has ended, the lock of `names` is taken once, for the name on its line.
    fn run_loop(&self, loop_max: usize) -> Result<(), Error> {
        let on_end = |flow: Flow, outcome: Outcome| {
            let mut line = FlowLine::new(&flow, outcome);
            line.name = label(flow.original_destination().ip(), &self.names);
            (self.lines)(line);
        };
        ConnectionLoop::new(
            &self.listener,
            &self.settings,
            &self.stop,
            loop_max,
            &on_end,
        )?
        .run()
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
