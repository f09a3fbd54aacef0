//! Dynamic sessions of a previous daemon. Their objects are in force, and their clients may resume
//! them.

use std::collections::HashMap;
use std::sync::Arc;

use sidetrack_policy::set::Object;
use sidetrack_policy::{Code, Error as Refusal, Filter, Objects, Provider, Service, Sublayer};

use crate::Error;
use crate::quota::{Portion, Quota};

/// The sessions that wait for their clients.
#[derive(Debug, Default)]
pub(super) struct ResumableSessions {
    /// The owner of each session, by session id.
    owners: HashMap<u64, Owner>,
}

/// The user that a session belongs to.
#[derive(Debug)]
struct Owner {
    uid: u32,
    /// What the session takes of the quota; none if its user can have no more, because the
    /// configuration has changed.
    portion: Option<Portion>,
}

impl ResumableSessions {
    /// Collects the sessions of all dynamic objects. Each counts towards the quota of its user.
    pub(super) fn from_objects(objects: &Objects, quota: &Arc<Quota>) -> Self {
        let mut sessions = Self::default();
        sessions.add::<Provider>(objects, quota);
        sessions.add::<Sublayer>(objects, quota);
        sessions.add::<Service>(objects, quota);
        sessions.add::<Filter>(objects, quota);
        sessions
    }

    fn add<T: Object>(&mut self, objects: &Objects, quota: &Arc<Quota>) {
        let authors = objects.entries::<T>().map(|entry| &entry.author);
        for (session, uid) in authors.filter_map(|author| Some((author.session?, author.uid))) {
            let owner = || Owner {
                uid,
                portion: quota.take(uid).ok(),
            };
            self.owners.entry(session).or_insert_with(owner);
        }
    }

    /// Removes a session that its user resumes, and returns its portion. Errors:
    /// FWP_E_SESSION_ABORTED, [`Error::QuotaExceeded`].
    pub(super) fn resume(
        &mut self,
        session: u64,
        uid: u32,
        quota: &Arc<Quota>,
    ) -> Result<Portion, Error> {
        if let Some(owner) = self.owners.get_mut(&session)
            && owner.uid == uid
        {
            let portion = owner.portion.take();
            let portion = portion.map_or_else(|| quota.take(uid), Ok)?;
            self.owners.remove(&session);
            return Ok(portion);
        }
        // The answer for another user's session is the same as for one that does not exist.
        let text =
            format!("user {uid} has no session {session} that can be resumed; open a new one");
        Err(Refusal::new(Code::SessionAborted, text).into())
    }

    pub(super) fn contains(&self, session: u64) -> bool {
        self.owners.contains_key(&session)
    }

    /// Returns session id and user id of each, in the order of session ids.
    pub(super) fn all(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<_> = self
            .owners
            .iter()
            .map(|(id, owner)| (*id, owner.uid))
            .collect();
        all.sort_unstable();
        all
    }

    /// Removes all sessions, and returns them as [`Self::all`] does.
    pub(super) fn take(&mut self) -> Vec<(u64, u32)> {
        let all = self.all();
        self.owners.clear();
        all
    }
}
