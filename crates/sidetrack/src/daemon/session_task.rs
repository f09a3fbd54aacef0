//! The task that keeps a registration's session: it opens the session, and resumes or reopens it
//! after the daemon was restarted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tokio::select;
use ::tokio::sync::oneshot;
use ::tokio::time::sleep;
use sidetrack_api::client::{self, Error as ApiError};
use sidetrack_api::{Client, Session, pended, v1};
use sidetrack_policy::Code;

use super::descriptors::with_descriptors;
use super::objects::Objects;
use super::{RegistrationStatus, lock};
use crate::{Error, Service};

/// First delay between two attempts to reach the daemon. It doubles with each attempt.
const WAIT_MIN: Duration = Duration::from_millis(20);
/// Longest delay between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The caller's function that opens the listeners.
pub(super) type Listen = Box<dyn FnMut(&Service) -> Result<(), Error> + Send>;

/// Everything that is needed to open the session, also after a restart of the daemon.
pub(super) struct SessionTask {
    /// Name of the session.
    pub(super) session: String,
    /// Path of the daemon's socket, if not the standard one.
    pub(super) socket: Option<PathBuf>,
    pub(super) objects: Objects,
    pub(super) listen: Listen,
    pub(super) status: Arc<Mutex<RegistrationStatus>>,
    /// The credentials that `listen` was last called with.
    pub(super) credentials: Option<Vec<u8>>,
    /// Id of the session to resume; 0 if there is none.
    pub(super) resume_id: u64,
}

impl SessionTask {
    /// Opens the session and passes the result to `opened`. If that succeeded, keeps the session
    /// until `stopped` resolves.
    pub(super) async fn run(
        mut self,
        opened: impl FnOnce(Result<(), Error>),
        mut stopped: oneshot::Receiver<()>,
    ) {
        let first = select! {
            first = self.open_and_register() => first,
            _ = &mut stopped => return,
        };
        let mut connection = match first {
            Ok(connection) => connection,
            Err(error) => return opened(Err(error)),
        };
        opened(Ok(()));
        loop {
            select! {
                () = wait_for_end(&mut connection.1) => {}
                _ = &mut stopped => return,
            }
            drop(connection);
            lock(&self.status).trouble = Some("the connection to the daemon has ended".into());
            connection = select! {
                again = self.reopen() => again,
                _ = &mut stopped => return,
            };
        }
    }

    /// Opens the session again, as often as needed.
    async fn reopen(&mut self) -> (Client, Session) {
        let mut wait = WAIT_MIN;
        loop {
            match self.open_and_register().await {
                Ok(connection) => return connection,
                Err(error) => lock(&self.status).trouble = Some(error.to_string()),
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Opens or resumes the session, and adds what is missing in it.
    async fn open_and_register(&mut self) -> Result<(Client, Session), Error> {
        let mut client = client::connect(self.socket.as_deref()).await?;
        let session = self.open_session(&mut client).await?;
        let id = session.id();
        self.resume_id = id;
        let registered = self.objects.register(&mut client, id).await?;
        if self.credentials.as_ref() != Some(&registered.credentials) {
            self.listen(&registered.credentials).await?;
            self.credentials = Some(registered.credentials);
        }
        let objects = &self.objects;
        objects
            .add_filters(&mut client, id, &registered.key)
            .await?;
        lock(&self.status).trouble = None;
        Ok((client, session))
    }

    /// Resumes the session, or opens a new one if there is none to resume.
    async fn open_session(&mut self, client: &mut Client) -> Result<Session, ApiError> {
        let options = |resume_session_id| v1::SessionOptions {
            name: self.session.clone(),
            dynamic: true,
            resume_session_id,
            ..v1::SessionOptions::default()
        };
        if self.resume_id != 0 {
            match Session::open(client, options(self.resume_id)).await {
                Err(ApiError::Policy(refusal)) if refusal.code == Code::SessionAborted => {}
                other => return other,
            }
        }
        Session::open(client, options(0)).await
    }

    /// Calls the caller's function with new credentials, and with the descriptors by which the service
    /// holds connects, if it pends them.
    async fn listen(&mut self, credentials: &[u8]) -> Result<(), Error> {
        let bad = Error::BadCredentials("the daemon's answer");
        let service = Service::from_bytes(credentials).ok_or(bad)?;
        let socket = self.socket.clone().unwrap_or_else(client::default_socket);
        let service = with_descriptors(service, &pended::socket(&socket)).await?;
        (self.listen)(&service)?;
        lock(&self.status).service = Some(service);
        Ok(())
    }
}

/// Waits until the session ends, which it does with its connection. Its events are ignored.
async fn wait_for_end(session: &mut Session) {
    while let Ok(Some(_)) = session.event().await {}
}
