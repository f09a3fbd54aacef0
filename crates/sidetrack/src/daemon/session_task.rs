//! The session itself: opened, kept, and opened or resumed again when the daemon comes back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::tokio::select;
use ::tokio::sync::oneshot;
use ::tokio::time::sleep;
use sidetrack_api::client::{self, Error as Refusal};
use sidetrack_api::{Client, Session, v1};
use sidetrack_policy::Code;

use super::objects::Objects;
use super::{Shared, lock};
use crate::{Error, Service};

/// Between two tries: from this, doubled each time, to that.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Makes the listeners.
pub(super) type Listen = Box<dyn FnMut(&Service) -> Result<(), Error> + Send>;

/// All that is needed to attach to a daemon, again and again.
pub(super) struct Attachment {
    pub(super) session: String,
    pub(super) socket: Option<PathBuf>,
    pub(super) objects: Objects,
    pub(super) listen: Listen,
    pub(super) shared: Arc<Mutex<Shared>>,
    /// What `listen` was called with last.
    pub(super) known: Option<Vec<u8>>,
    /// The session to resume; 0: none.
    pub(super) resume: u64,
}

impl Attachment {
    /// Attaches, tells how that went, and if well, stays attached until it is stopped.
    pub(super) async fn keep(
        mut self,
        opened: impl FnOnce(Result<(), Error>),
        mut stopped: oneshot::Receiver<()>,
    ) {
        let first = select! {
            first = self.attach() => first,
            _ = &mut stopped => return,
        };
        let mut attached = match first {
            Ok(attached) => attached,
            Err(error) => return opened(Err(error)),
        };
        opened(Ok(()));
        loop {
            select! {
                () = end_of(&mut attached.1) => {}
                _ = &mut stopped => return,
            }
            drop(attached);
            lock(&self.shared).trouble = Some("the daemon has gone".into());
            attached = select! {
                again = self.attach_again() => again,
                _ = &mut stopped => return,
            };
        }
    }

    async fn attach_again(&mut self) -> (Client, Session) {
        let mut wait = WAIT_MIN;
        loop {
            match self.attach().await {
                Ok(attached) => return attached,
                Err(error) => lock(&self.shared).trouble = Some(error.to_string()),
            }
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    async fn attach(&mut self) -> Result<(Client, Session), Error> {
        let mut client = client::connect(self.socket.as_deref()).await?;
        let session = self.open_session(&mut client).await?;
        let id = session.id();
        self.resume = id;
        let registered = self.objects.register(&mut client, id).await?;
        if self.known.as_ref() != Some(&registered.credentials) {
            self.listen(&registered.credentials)?;
            self.known = Some(registered.credentials);
        }
        let objects = &self.objects;
        objects
            .add_filters(&mut client, id, &registered.key)
            .await?;
        lock(&self.shared).trouble = None;
        Ok((client, session))
    }

    /// Resumes the session, or opens another if there is none to resume.
    async fn open_session(&mut self, client: &mut Client) -> Result<Session, Refusal> {
        let options = |resume_session_id| v1::SessionOptions {
            name: self.session.clone(),
            dynamic: true,
            resume_session_id,
            ..v1::SessionOptions::default()
        };
        if self.resume != 0 {
            match Session::open(client, options(self.resume)).await {
                Err(Refusal::Policy(refusal)) if refusal.code == Code::SessionAborted => {}
                other => return other,
            }
        }
        Session::open(client, options(0)).await
    }

    fn listen(&mut self, credentials: &[u8]) -> Result<(), Error> {
        let bad = Error::BadCredentials("the daemon's answer");
        let service = Service::from_bytes(credentials).ok_or(bad)?;
        (self.listen)(&service)?;
        lock(&self.shared).service = Some(service);
        Ok(())
    }
}

/// Whatever it is told before, it ends with the connection.
async fn end_of(session: &mut Session) {
    while let Ok(Some(_)) = session.event().await {}
}
