//! Dynamic sessions of a previous daemon. Their objects are in force, and their clients may resume
//! them.

use std::collections::HashMap;

use sidetrack_policy::set::Object;
use sidetrack_policy::{Code, Error, Filter, Objects, Provider, Service, Sublayer};

/// The sessions that wait for their clients.
#[derive(Debug, Default)]
pub(super) struct ResumableSessions {
    /// User id of the owner of each session, by session id.
    users: HashMap<u64, u32>,
}

impl ResumableSessions {
    /// Collects the sessions of all dynamic objects.
    pub(super) fn from_objects(objects: &Objects) -> Self {
        let mut sessions = Self::default();
        sessions.add::<Provider>(objects);
        sessions.add::<Sublayer>(objects);
        sessions.add::<Service>(objects);
        sessions.add::<Filter>(objects);
        sessions
    }

    fn add<T: Object>(&mut self, objects: &Objects) {
        let authors = objects.entries::<T>().map(|entry| &entry.author);
        let each = authors.filter_map(|author| Some((author.session?, author.uid)));
        self.users.extend(each);
    }

    /// Removes a session that its user resumes. Errors: FWP_E_SESSION_ABORTED.
    pub(super) fn resume(&mut self, session: u64, uid: u32) -> Result<(), Error> {
        if self.users.get(&session) == Some(&uid) {
            self.users.remove(&session);
            return Ok(());
        }
        // The answer for another user's session is the same as for one that does not exist.
        Err(Error::new(
            Code::SessionAborted,
            format!("user {uid} has no session {session} that can be resumed; open a new one"),
        ))
    }

    pub(super) fn contains(&self, session: u64) -> bool {
        self.users.contains_key(&session)
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Returns session id and user id of each, in the order of session ids.
    pub(super) fn all(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<_> = self.users.iter().map(|(id, uid)| (*id, *uid)).collect();
        all.sort_unstable();
        all
    }

    /// Removes all sessions, and returns them as [`Self::all`] does.
    pub(super) fn take(&mut self) -> Vec<(u64, u32)> {
        let all = self.all();
        self.users.clear();
        all
    }
}
