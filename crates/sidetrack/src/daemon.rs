//! Registration of a service with the daemon `sidetrackd` (feature `daemon`).
//!
//! A proxy that is not started by `sidetrack run` gets its credentials from the daemon. In the
//! simplest case the operator's policy already has the service and the filters that redirect to it:
//!
//! ```no_run
//! use sidetrack::Listener;
//! use sidetrack::daemon::Registration;
//!
//! # fn main() -> Result<(), sidetrack::Error> {
//! // The operator's policy has the service "inspect" and filters that redirect to it.
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
//! A vendor can also add its own provider, sublayer, service and filters, see [`Builder`]. These
//! objects are dynamic: they are removed when the registration is dropped, or when the process ends
//! for any reason. `examples/vendor.rs` is a complete product. docs/proxies.md, With the daemon,
//! and docs/daemon.md describe the protocol.

mod descriptors;
mod objects;
mod session_task;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use ::tokio::sync::oneshot;
pub use sidetrack_api::v1;

use self::objects::Objects;
use self::session_task::SessionTask;
use crate::{Error, Service};

/// A session with the daemon that registers one service. The session ends when this value is
/// dropped.
///
/// A thread keeps the session open. If the daemon is restarted, the thread resumes the session with
/// all its objects; connections are redirected in the meantime. If it is too late to resume the
/// session (`session_grace_seconds` of the daemon's configuration), the thread opens a new one and
/// adds the objects again under the same keys.
pub struct Registration {
    status: Arc<Mutex<RegistrationStatus>>,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Options of a registration, and the objects that it adds. All objects are messages of the
/// daemon's API ([`v1`]).
///
/// Fields that an object leaves empty are filled in:
///
/// - a key: with a random UUID,
/// - a provider: with the provider of this registration,
/// - the sublayer of a filter: with the sublayer of this registration,
/// - the service of a redirecting filter: with the service of this registration.
///
/// If the registration has no such object, the field stays empty. Objects that are referred to and
/// not added here must be in the operator's policy.
#[derive(Debug)]
pub struct Builder {
    session: String,
    socket: Option<PathBuf>,
    objects: Objects,
}

/// The state of a registration, shared with its thread.
#[derive(Debug, Default)]
struct RegistrationStatus {
    /// The service that `listen` was last called with.
    service: Option<Service>,
    /// Why there is no session; `None` if there is one.
    trouble: Option<String>,
}

impl Registration {
    /// Starts to build a registration for the service with this name.
    pub fn of(service: impl Into<String>) -> Builder {
        let name = service.into();
        Builder {
            session: name.clone(),
            socket: None,
            objects: Objects::new(name),
        }
    }

    /// The credentials of the service that are in force now.
    pub fn service(&self) -> Option<Service> {
        lock(&self.status).service.clone()
    }

    /// The reason why there is no session with the daemon at the moment, as text for people. `None`
    /// if there is a session. The thread retries until there is one.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.status).trouble.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, its end has ended the session as well.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        lock(&self.status).fmt(f)
    }
}

impl Builder {
    /// Sets the name of the session, for people: at most 256 bytes. The default is the name of the
    /// service.
    pub fn session(mut self, name: impl Into<String>) -> Self {
        self.session = name.into();
        self
    }

    /// Sets the path of the daemon's socket. The default is the value of the environment variable
    /// SIDETRACK_SOCKET, or else the daemon's standard path.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Adds the provider: the vendor or product to which the objects belong.
    pub fn provider(mut self, provider: v1::Provider) -> Self {
        self.objects.provider = Some(provider);
        self
    }

    /// Adds the sublayer for the filters. Without it, filters are added to the universal sublayer.
    pub fn sublayer(mut self, sublayer: v1::Sublayer) -> Self {
        self.objects.sublayer = Some(sublayer);
        self
    }

    /// Adds the service. Its name is the name of the registration, whatever the message has.
    pub fn service(mut self, service: v1::Service) -> Self {
        self.objects.service = Some(service);
        self
    }

    /// Adds a filter. May be called several times; all filters come into force in one commit.
    pub fn filter(mut self, filter: v1::Filter) -> Self {
        self.objects.filters.push(filter);
        self
    }

    /// Opens the session and adds the objects. Returns when the filters are in force.
    ///
    /// `listen` must open the listeners of the service ([`Listener::bind`](crate::Listener::bind)).
    /// It is called before the filters come into force, so that no connection finds the service
    /// absent. It is called again, with other credentials, if the kernel side has lost the service:
    /// the pinned data path was removed, or the service was deleted. It runs on the thread that
    /// keeps the session, so it must not block.
    ///
    /// # Errors
    ///
    /// After an error, no session and no object is left.
    ///
    /// - [`Error::Daemon`] if the daemon cannot be reached or refused a request.
    /// - [`Error::System`] if the thread cannot be started.
    /// - The error that `listen` returned.
    pub fn open(
        self,
        listen: impl FnMut(&Service) -> Result<(), Error> + Send + 'static,
    ) -> Result<Registration, Error> {
        let (sender, opened) = mpsc::channel();
        let registration = self.start(listen, move |result| drop(sender.send(result)))?;
        opened.recv().unwrap_or_else(|_| Err(panicked()))?;
        Ok(registration)
    }

    /// As [`open`](Self::open), for async programs of any runtime.
    ///
    /// `listen` is called on a separate thread. Cancel safe: if the future is dropped, the session
    /// ends and no object is left.
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
        self.objects.fill_in_defaults();
        let status = Arc::new(Mutex::new(RegistrationStatus::default()));
        let session_task = SessionTask {
            session: self.session,
            socket: self.socket,
            objects: self.objects,
            listen: Box::new(listen),
            status: Arc::clone(&status),
            credentials: None,
            resume_id: 0,
        };
        let runtime = ::tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::system("start the registration's runtime"))?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("sidetrack".into())
            .spawn(move || runtime.block_on(session_task.run(opened, stopped)))
            .map_err(Error::system("start the registration's thread"))?;
        Ok(Registration {
            status,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

fn lock(status: &Mutex<RegistrationStatus>) -> MutexGuard<'_, RegistrationStatus> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panicked() -> Error {
    let source = std::io::Error::other("the registration's thread panicked");
    Error::system("open the registration")(source)
}
