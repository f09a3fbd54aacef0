//! A vendor's service, registered with `sidetrackd` (feature `daemon`).
//!
//! ```no_run
//! use sidetrack::Listener;
//! use sidetrack::daemon::Registration;
//!
//! # fn main() -> Result<(), sidetrack::Error> {
//! // The operator's policy has the service "inspect", and redirects to it.
//! let registration = Registration::of("inspect").open(|service| {
//!     let listener = Listener::bind(service)?;
//!     std::thread::spawn(move || while let Ok(_connection) = listener.accept() { /* … */ });
//!     Ok(())
//! })?;
//! # drop(registration);
//! # Ok(())
//! # }
//! ```
//!
//! Or the vendor brings objects of its own, see [`Builder`]: they are dynamic, and go when the
//! registration does, or when the process dies.

mod attachment;
mod objects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use ::tokio::sync::oneshot;
pub use sidetrack_api::v1;

use self::attachment::Attachment;
use self::objects::Objects;
use crate::{Error, Service};

/// A session with the daemon, and in it the right to listen for one service. It lasts until it is dropped.
///
/// A thread keeps it. When the daemon is restarted, the registration resumes its session, with its
/// objects; connections are redirected all the while. If the session's time to be resumed has passed, the
/// objects are added again, under the same keys.
pub struct Registration {
    shared: Arc<Mutex<Shared>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a registration is to bring. All objects are contract messages ([`v1`]).
///
/// What they leave empty is filled in: keys; the provider, by this one's; a filter's sublayer, by this
/// one's; a redirecting filter's service, by the registration's. Objects that are not given must not be
/// needed, or be in the operator's policy.
#[derive(Debug)]
pub struct Builder {
    session: String,
    socket: Option<PathBuf>,
    objects: Objects,
}

/// How it is.
#[derive(Debug, Default)]
struct Shared {
    service: Option<Service>,
    trouble: Option<String>,
}

impl Registration {
    /// Begins one for the service of this name.
    pub fn of(service: impl Into<String>) -> Builder {
        let name = service.into();
        Builder {
            session: name.clone(),
            socket: None,
            objects: Objects::new(name),
        }
    }

    /// The service as the kernel has it now.
    pub fn service(&self) -> Option<Service> {
        lock(&self.shared).service.clone()
    }

    /// Why there is no session with the daemon now; it is tried again until there is. None: all is well.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.shared).trouble.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, the session has ended all the same.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        lock(&self.shared).fmt(f)
    }
}

impl Builder {
    /// The session's name, for people: at most 256 bytes. Otherwise it is the service's.
    pub fn session(mut self, name: impl Into<String>) -> Self {
        self.session = name.into();
        self
    }

    /// Where the daemon listens. Otherwise: SIDETRACK_SOCKET's value, or the usual place.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The vendor.
    pub fn provider(mut self, provider: v1::Provider) -> Self {
        self.objects.provider = Some(provider);
        self
    }

    /// The sublayer of the vendor's filters. Otherwise they are in the universal one.
    pub fn sublayer(mut self, sublayer: v1::Sublayer) -> Self {
        self.objects.sublayer = Some(sublayer);
        self
    }

    /// The service itself. Its name is the registration's, whatever the message says.
    pub fn service(mut self, service: v1::Service) -> Self {
        self.objects.service = Some(service);
        self
    }

    /// One more filter. They come into force together.
    pub fn filter(mut self, filter: v1::Filter) -> Self {
        self.objects.filters.push(filter);
        self
    }

    /// Opens the session, adds the objects, and returns when the filters are in force.
    ///
    /// `listen` is to make the listeners, and must not block: its thread keeps the session. It is called
    /// before the filters come into force, and again, with another service, should the kernel have lost
    /// the one before: when the pinned data path was removed, or the service was deleted.
    ///
    /// Errors: `listen`'s; [`Error::Daemon`], [`Error::System`]. Then nothing of it is left.
    pub fn open(
        self,
        listen: impl FnMut(&Service) -> Result<(), Error> + Send + 'static,
    ) -> Result<Registration, Error> {
        let (sender, opened) = mpsc::channel();
        let registration = self.start(listen, move |result| drop(sender.send(result)))?;
        opened.recv().unwrap_or_else(|_| Err(panicked()))?;
        Ok(registration)
    }

    /// As [`Self::open`], for async programs of any runtime.
    ///
    /// `listen` is called in a thread of its own. Cancel safe: when it is dropped, nothing is left.
    pub async fn open_async(
        self,
        listen: impl FnMut(&Service) -> Result<(), Error> + Send + 'static,
    ) -> Result<Registration, Error> {
        let (sender, opened) = oneshot::channel();
        let registration = self.start(listen, move |result| drop(sender.send(result)))?;
        opened.await.unwrap_or_else(|_| Err(panicked()))?;
        Ok(registration)
    }

    fn start(
        mut self,
        listen: impl FnMut(&Service) -> Result<(), Error> + Send + 'static,
        opened: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<Registration, Error> {
        self.objects.settle();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let attachment = Attachment {
            session: self.session,
            socket: self.socket,
            objects: self.objects,
            listen: Box::new(listen),
            shared: Arc::clone(&shared),
            known: None,
            resume: 0,
        };
        let runtime = ::tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("start the registration's runtime"))?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("sidetrack".into())
            .spawn(move || runtime.block_on(attachment.keep(opened, stopped)))
            .map_err(Error::system("start the registration's thread"))?;
        Ok(Registration {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panicked() -> Error {
    let source = std::io::Error::other("its thread panicked");
    Error::system("open the registration")(source)
}
