//! All connections of a service, and all its datagrams.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{future, io, thread};

use sidetrack::{Error, Flow, Service};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection::{Settings, inspect_accepted, prepare_listener};
use crate::datagrams::{Counts, Relay, label};
use crate::line::FlowLine;
use crate::names::Names;
use crate::relay::{descriptors, pipes_max};

/// Connections handled at a time, if there are descriptors for so many, see `connections_max`; more wait
/// in the listeners' queues.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Descriptors kept for all but connections and their pipes.
const DESCRIPTORS_SPARE: usize = 256;
/// The pause before the next accept when one has failed for want of something, such as descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long stopped connections have to be written down, before they are dropped unwritten.
pub const STOPPED_WAIT: Duration = Duration::from_secs(5);

/// A service's listeners, ready to accept.
#[derive(Debug)]
pub struct Server {
    listener: sidetrack::tokio::Listener,
    datagrams: Relay,
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
    /// Listens; connections wait from now on. Must be called within a tokio runtime.
    ///
    /// Errors: as [`sidetrack::Listener::bind`] and [`sidetrack::DatagramListener::bind`].
    pub fn bind(service: &Service, settings: Settings) -> Result<Self, Error> {
        let names = Arc::new(Mutex::new(Names::new()));
        // First: who waits for the other one finds both.
        let datagrams = Relay::bind(service, settings.clone(), Arc::clone(&names))?;
        let listener = sidetrack::tokio::Listener::bind(service)?;
        listener.sockets().for_each(prepare_listener);
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
    /// `lines` is called from any of the runtime's threads and another one, and must not block. An error
    /// is returned only if accepting can never work again (the engine is gone); connections that are
    /// open then go on as tasks of the runtime. Dropping the future drops all connections, without
    /// lines.
    pub async fn run(
        self,
        stop: impl Future<Output = Duration>,
        lines: impl Fn(FlowLine) + Send + Sync + 'static,
    ) -> Result<Counts, Error> {
        let Self {
            listener,
            datagrams,
            settings,
            names,
        } = self;
        let shared = Arc::new((settings, lines));
        let stopper = datagrams.stopper();
        let relayed = relay_datagrams(datagrams, Arc::clone(&shared));
        tokio::pin!(relayed);
        let handle = move |(stream, flow): (TcpStream, Flow), stopped: Stopped| {
            let (shared, names) = (shared.clone(), names.clone());
            async move {
                let (settings, lines) = &*shared;
                let destination = flow.original_destination();
                let mut line = inspect_accepted(stream, flow, settings, stopped.wait()).await;
                line.name = label(destination.ip(), &names);
                lines(line);
            }
        };
        select! {
            accepted = accept_until(stop, connections_max(), || listener.accept(), handle) => accepted?,
            failed = &mut relayed => return failed,
        }
        drop(stopper);
        relayed.await
    }
}

/// In a thread of its own, as its loop waits by itself.
fn relay_datagrams(
    relay: Relay,
    shared: Arc<(Settings, impl Fn(FlowLine) + Send + Sync + 'static)>,
) -> impl Future<Output = Result<Counts, Error>> {
    let (done, ended) = oneshot::channel();
    thread::spawn(move || done.send(relay.run(&shared.1)));
    async { ended.await.expect("it does not panic") }
}

/// The loop of [`Server::run`], for any kind of connection.
async fn accept_until<C, A, H>(
    stop: impl Future<Output = Duration>,
    most: usize,
    accept: impl Fn() -> A,
    handle: impl Fn(C, Stopped) -> H,
) -> Result<(), Error>
where
    A: Future<Output = Result<C, Error>>,
    H: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(most));
    let (stopper, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    tokio::pin!(stop);
    let grace = loop {
        while tasks.try_join_next().is_some() {} // or the set grows for ever
        let next = async { (permits.clone().acquire_owned().await, accept().await) };
        let (permit, accepted) = select! {
            biased;
            grace = &mut stop => break grace,
            next = next => next,
        };
        match accepted {
            Ok(connection) => {
                // Boxed, or the task would hold it twice: where it was moved from, and where it runs.
                let task = Box::pin(handle(connection, Stopped(stopped.clone())));
                tasks.spawn(async move {
                    task.await;
                    drop(permit);
                });
            }
            Err(error) if is_final(&error) => {
                tasks.detach_all();
                return Err(error);
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    };
    finish(tasks, grace, &stopper).await;
    Ok(())
}

async fn finish(mut tasks: JoinSet<()>, grace: Duration, stopper: &watch::Sender<bool>) {
    let all_ended = async |tasks: &mut JoinSet<()>| while tasks.join_next().await.is_some() {};
    if timeout(grace, all_ended(&mut tasks)).await.is_err() {
        stopper.send_replace(true);
        let _ = timeout(STOPPED_WAIT, all_ended(&mut tasks)).await;
    }
}

/// Each connection takes two descriptors for its sockets; what is left is for pipes, of which there are few:
/// see [`crate::relay::pipes_max`].
fn connections_max() -> usize {
    let descriptors = descriptors();
    let pipes = 2 * pipes_max(descriptors);
    (descriptors.saturating_sub(pipes + DESCRIPTORS_SPARE) / 2).clamp(1, CONNECTIONS_MAX)
}

/// Tells a connection when to stop.
#[derive(Clone)]
struct Stopped(watch::Receiver<bool>);

impl Stopped {
    /// Never ends if there is nobody left to stop it.
    async fn wait(mut self) {
        if self.0.wait_for(|stopped| *stopped).await.is_err() {
            future::pending().await
        }
    }
}

/// Whether accepting will fail for ever. Unknown errors of the system are taken to pass: the pause
/// keeps them from spinning, and they may be one connection's own.
fn is_final(error: &Error) -> bool {
    match error {
        Error::System { source, .. } => source.kind() == io::ErrorKind::InvalidInput,
        Error::NoContext => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
