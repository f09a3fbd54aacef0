//! All connections of a service, and all its datagrams.

use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, thread};

use sidetrack::{Error, Flow, Listener, Service};
use tokio::select;
use tokio::sync::oneshot;

use crate::connection::{Outcome, prepare};
use crate::connections::{ConnectionLoop, Stop};
use crate::datagrams::{Counts, DatagramRelay, label};
use crate::line::FlowLine;
use crate::names::Names;
use crate::relay::{descriptors, pipes_max};
use crate::settings::Settings;

/// Connections handled at a time, if there are descriptors for so many, see `connections_max`; more wait
/// in the listeners' queues.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Loops, each a thread, that share them; one for each processor, if those are fewer.
pub const LOOPS_MAX: usize = 16;
/// Descriptors kept for all but connections and their pipes.
const DESCRIPTORS_SPARE: usize = 256;

/// A service's listeners, ready to accept.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    datagrams: DatagramRelay,
    settings: Settings,
    names: Arc<Mutex<Names>>,
}

/// Accepts the connections of `service` for ever, and hands over each one's line when it has ended.
///
/// Returns only an error that is final, see [`Server::run`]; [`Server`] can also be stopped.
pub async fn serve(
    service: &Service,
    settings: Settings,
    lines: impl Fn(FlowLine) + Send + Sync + 'static,
) -> Result<(), Error> {
    let server = Server::bind(service, settings)?;
    server.run(future::pending(), lines).await.map(|_| ())
}

impl Server {
    /// Listens; connections wait from now on.
    ///
    /// Errors: as [`sidetrack::Listener::bind`] and [`sidetrack::DatagramListener::bind`].
    pub fn bind(service: &Service, settings: Settings) -> Result<Self, Error> {
        let names = Arc::new(Mutex::new(Names::new()));
        // First: who waits for the other one finds both.
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

    /// Accepts until `stop` gives a grace period: then no more, and those open have that long to
    /// end by themselves; the rest is ended, with lines that say "stopped".
    ///
    /// Flows of datagrams have no end by themselves: they are ended after that.
    ///
    /// `lines` is called from the threads that carry the connections, and must not block. An error is
    /// returned only if accepting can never work again (the engine is gone). After it, and if the future is
    /// dropped, connections that are open are ended as by a stop without grace.
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

/// What the loops have in common.
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

/// Ends when all loops have ended, the first error being the end of all.
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
    /// One loop, until its end.
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

/// In a thread of its own, for what waits by itself.
fn in_a_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let (done, ended) = oneshot::channel();
    thread::spawn(move || done.send(run()));
    async { ended.await.expect("it does not panic") }
}

/// Each connection takes two descriptors for its sockets; what is left is for pipes, of which there are few:
/// see [`crate::relay::pipes_max`].
fn connections_max() -> usize {
    let descriptors = descriptors();
    let pipes = 2 * pipes_max(descriptors);
    (descriptors.saturating_sub(pipes + DESCRIPTORS_SPARE) / 2).clamp(1, CONNECTIONS_MAX)
}
