//! Dynamic sessions whose daemon has ended. Their objects are in force; their clients may come back.

use std::collections::HashMap;

use sidetrack_policy::set::Object;
use sidetrack_policy::{Code, Error, Filter, Objects, Provider, Service, Sublayer};

/// Sessions that wait: their numbers, and whose they are.
#[derive(Debug, Default)]
pub(super) struct ResumableSessions {
    users: HashMap<u64, u32>,
}

impl ResumableSessions {
    /// The sessions of all dynamic objects.
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

    /// One that its user resumes. Errors: FWP_E_SESSION_ABORTED.
    pub(super) fn resume(&mut self, session: u64, uid: u32) -> Result<(), Error> {
        if self.users.get(&session) == Some(&uid) {
            self.users.remove(&session);
            return Ok(());
        }
        // Another's session is as if it were not there.
        Err(Error::new(
            Code::SessionAborted,
            format!("no session {session} of user {uid} waits to be resumed; open a new one"),
        ))
    }

    pub(super) fn contains(&self, session: u64) -> bool {
        self.users.contains_key(&session)
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// Number and user of each.
    pub(super) fn all(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<_> = self.users.iter().map(|(id, uid)| (*id, *uid)).collect();
        all.sort_unstable();
        all
    }

    /// The same; then none waits any more.
    pub(super) fn take(&mut self) -> Vec<(u64, u32)> {
        let all = self.all();
        self.users.clear();
        all
    }
}
