//! The committer's start: boot-time filters, loading the store, and reconciling the kernel with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use sidetrack_policy::set::Reach;
use sidetrack_policy::{Filter, Objects};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Committer, Handle, InForce, Wake, filter_names::FilterNames, tasks};
use crate::data_path::{self, DataPath, PinnedPolicy, PolicySource};
use crate::event::{EventKind, EventLog};
use crate::store::{Loaded, Store};
use crate::{Error, Mismatch, systemd};

/// The parameters of a committer.
pub struct Start {
    /// Path of the store's file. Without one, no object outlives the daemon.
    pub store: Option<PathBuf>,
    /// The kernel's boot id, which distinguishes this boot from others.
    pub boot_id: String,
    /// The log for events.
    pub log: EventLog,
    /// Interval of checking the executables and cgroups that the policy names.
    pub refresh: Duration,
    /// What to do if the pinned policy does not come from the store.
    pub on_mismatch: OnMismatch,
}

/// What to do if the pinned policy has filters, and does not come from the store: because the store was
/// lost, or replaced by another one or by an older copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// Do not start.
    #[default]
    Refuse,
    /// If the store is empty, leave the pinned policy in force.
    AdoptKernel,
    /// If the store is empty, put the empty policy in force.
    StartEmpty,
    /// If the store has objects, put them in force.
    StartStored,
}

impl Start {
    /// Starts the committer's thread and opens the data path in it. Returns once store and kernel
    /// agree.
    ///
    /// Errors: those of `open`, [`Error::Store`], [`Error::Mismatch`], [`Error::DataPath`]. After an error, what is
    /// pinned stays as it is.
    pub async fn spawn(
        self,
        open: impl FnOnce() -> Result<Box<dyn DataPath>, data_path::Error> + Send + 'static,
    ) -> Result<(Handle, thread::JoinHandle<()>), Error> {
        let (tasks, receiver) = tasks::queue();
        let wake = Wake::new()?;
        let wake_fd = Arc::clone(&wake.0);
        let (started, ready) = oneshot::channel();
        let refresh = self.refresh;
        let thread = thread::Builder::new().name("committer".into());
        let thread = thread.spawn(move || match self.begin(open) {
            Ok(mut committer) => {
                let _ = started.send(Ok(Arc::clone(&committer.in_force)));
                committer.run_loop(&receiver, &wake_fd, refresh);
            }
            Err(error) => drop(started.send(Err(error))),
        });
        let thread = thread.map_err(Error::Committer)?;
        let in_force = ready.await.map_err(|_| Error::Stopping)??;
        let handle = Handle {
            tasks,
            wake: Arc::new(wake),
            in_force,
        };
        Ok((handle, thread))
    }

    fn begin(
        self,
        open: impl FnOnce() -> Result<Box<dyn DataPath>, data_path::Error>,
    ) -> Result<Committer, Error> {
        // The store comes first: if it is locked or damaged, the kernel side stays untouched.
        let mut store = self.store.as_deref().map(Store::open).transpose()?;
        let mut data_path = open()?;
        let pinned = data_path.pinned()?;
        let loaded = match &mut store {
            Some(store) => load(store, &self.boot_id, &mut *data_path)?,
            None => Loaded::default(),
        };
        let adopted = match (&mut store, pinned) {
            (Some(store), Some(pinned)) => {
                adopt(store, loaded.is_empty, pinned, self.on_mismatch)?.then_some(pinned)
            }
            _ => None,
        };
        let mut warnings = loaded.warnings;
        warnings.extend(carried_over(&loaded.objects));
        if pinned.is_none() && loaded.is_empty {
            let store = store.as_mut();
            let is_lost = store.map_or(Ok(false), Store::is_for_adopted)?;
            warnings.extend(is_lost.then(|| ADOPTED_LOST.to_owned()));
        }
        let generation = match adopted {
            Some(pinned) => {
                warnings.push(note_adopted(pinned));
                pinned.generation
            }
            None => {
                let source = store.as_ref().map(Store::source).unwrap_or_default();
                let reconciled = data_path.reconcile(&loaded.objects.after_boot(), source)?;
                let notes = reconciled.notes.iter();
                notes.for_each(|note| self.log.push(EventKind::Mended, note));
                warnings.extend(reconciled.notes);
                reconciled.generation
            }
        };
        loaded.notes.iter().for_each(|note| info!("{note}"));
        warnings.iter().for_each(|note| warn!("{note}"));
        let notes = [loaded.notes, warnings].concat();
        Ok(Committer {
            data_path,
            store,
            in_force: Arc::new(Mutex::new(InForce {
                objects: loaded.objects,
                generation,
                since: SystemTime::now(),
                notes,
                adopted,
            })),
            log: self.log,
            filter_names: FilterNames::default(),
            ended_during_write: Vec::new(),
            undeleted: Vec::new(),
        })
    }
}

/// What a start says if it finds nothing of the policy that an earlier one adopted.
const ADOPTED_LOST: &str = "an earlier start adopted the policy that was in force in the kernel; it ended when the host \
     restarted or when it was removed, and its objects were never stored, so no filters are in force";

/// Says which users' filters apply to the connections of all users only because an earlier version
/// stored them, one sentence for each user.
fn carried_over(objects: &Objects) -> Vec<String> {
    let mut filters: BTreeMap<u32, usize> = BTreeMap::new();
    for entry in objects.entries::<Filter>() {
        if entry.author.reach == Reach::Unrecorded {
            *filters.entry(entry.author.uid).or_default() += 1;
        }
    }
    let note = |(uid, count)| {
        let name = uzers::get_user_by_uid(uid);
        let name = name.map_or_else(String::new, |user| {
            format!(" ({})", user.name().to_string_lossy())
        });
        format!(
            "filters of user {uid}{name} apply to the connections of all users (number: {count}): an \
             earlier version stored them, in which access.write_group allowed that; when the user applies \
             or adds them again, they apply to its own connections only, or to all if it is a member of \
             access.host_group"
        )
    };
    filters.into_iter().map(note).collect()
}

/// Loads the store. If nothing was pinned, the store's boot-time filters are put in force first,
/// until it is loaded.
fn load(store: &mut Store, boot_id: &str, data_path: &mut dyn DataPath) -> Result<Loaded, Error> {
    if data_path.is_fresh() {
        // Whether providers' units are enabled is checked later: that takes time, during which these
        // filters are in force.
        let at_boot: Objects = store.load(boot_id, &|_| true)?.objects.at_boot();
        data_path.apply_boot_time(&at_boot)?;
    }
    store.begin_boot(boot_id)?;
    Ok(store.load(boot_id, &systemd::is_enabled)?)
}

/// Returns whether the pinned policy stays in force, and not the store's, because it was adopted by
/// this start or an earlier one.
///
/// Errors: [`Error::Mismatch`] if the pinned policy would be replaced by one that it does not come
/// from, and this start's options do not allow that.
fn adopt(
    store: &mut Store,
    is_empty: bool,
    pinned: PinnedPolicy,
    on_mismatch: OnMismatch,
) -> Result<bool, Error> {
    let PinnedPolicy {
        generation, source, ..
    } = pinned;
    let stored = store.source();
    // An earlier version of the daemon set no source.
    let is_unknown = source == PolicySource::default();
    let is_same = source.store == stored.store && source.commit <= stored.commit;
    if pinned.filters == 0 || is_same || (is_unknown && !is_empty) {
        return Ok(false);
    }
    if store.has_adopted(generation, source)? {
        // If it has objects, a daemon ended before the policy that was to replace the adopted one was in
        // force.
        return Ok(is_empty);
    }
    match on_mismatch {
        OnMismatch::AdoptKernel if is_empty => {
            store.adopt(generation, source)?;
            Ok(true)
        }
        OnMismatch::StartEmpty if is_empty => Ok(false),
        OnMismatch::StartStored if !is_empty => Ok(false),
        _ => Err(mismatch(store, is_empty, pinned).into()),
    }
}

fn mismatch(store: &Store, is_empty: bool, pinned: PinnedPolicy) -> Mismatch {
    let path = store.path().to_owned();
    match is_empty {
        true => Mismatch::Empty {
            store: path,
            pinned,
        },
        false => Mismatch::Other {
            store: path,
            pinned,
            is_older: pinned.source.store == store.source().store,
        },
    }
}

pub(super) fn note_adopted(pinned: PinnedPolicy) -> String {
    format!(
        "the policy in force is the kernel's, generation {} with {} filters, and not the store's, which is \
         empty; it stays in force until `sidetrack apply` by root replaces it as a whole",
        pinned.generation, pinned.filters
    )
}

#[cfg(test)]
mod tests {
    use sidetrack_policy::set::{Author, ObjectEntry};
    use sidetrack_policy::{Action, Identity, LayerKind, Uuid};

    use super::*;

    #[test]
    fn filters_of_an_earlier_version_are_carried_over_with_a_warning_for_each_user() {
        let mut objects = Objects::default();
        let layer = LayerKind::AuthConnect.both()[0];
        let authors = [
            (0, Reach::Host),
            (1000, Reach::Unrecorded),
            (1000, Reach::Unrecorded),
            (1001, Reach::OwnUser),
            (65_534, Reach::Unrecorded),
        ];
        for (key, (uid, reach)) in (1..).zip(authors) {
            let object = Filter {
                identity: Identity {
                    key: Uuid::from_u128(key),
                    ..Filter::new("f", layer, Action::Block).identity
                },
                ..Filter::new("f", layer, Action::Block)
            };
            let author = Author {
                uid,
                reach,
                ..Author::default()
            };
            objects.restore(ObjectEntry { object, author }).unwrap();
        }
        let notes = carried_over(&objects);
        assert_eq!(notes.len(), 2);
        assert!(notes[0].contains("user 1000") && notes[0].contains("(number: 2)"));
        assert!(notes[1].contains("user 65534 (nobody)") && notes[1].contains("host_group"));
    }
}
