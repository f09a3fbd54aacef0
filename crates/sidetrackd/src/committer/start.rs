//! The start: boot-time filters, the store, and agreement with what is pinned.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use sidetrack_api::v1;
use sidetrack_policy::Objects;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{Committer, Handle, InForce, TASKS_MAX, Task, Wake, filter_names::FilterNames};
use crate::data_path::DataPath;
use crate::event::EventLog;
use crate::store::{Loaded, Store};
use crate::{Error, systemd};

/// What a committer begins with.
pub struct Start {
    /// The store's file; none: nothing survives.
    pub store: Option<PathBuf>,
    /// Tells this running time of the machine from others.
    pub boot_id: String,
    /// Where events go.
    pub log: EventLog,
    /// How often the data path looks after executables and cgroups.
    pub refresh: Duration,
}

impl Start {
    /// Starts the thread, opens the data path in it, and returns when store and kernel agree.
    ///
    /// Errors: `open`'s; [`Error::Store`], [`Error::DataPath`]. What is pinned stays as it is then.
    pub async fn spawn(
        self,
        open: impl FnOnce() -> Result<Box<dyn DataPath>, Error> + Send + 'static,
    ) -> Result<(Handle, thread::JoinHandle<()>), Error> {
        let (tasks, mut receiver) = mpsc::channel::<Task>(TASKS_MAX);
        let wake = Wake::new()?;
        let wake_fd = Arc::clone(&wake.0);
        let (started, ready) = oneshot::channel();
        let refresh = self.refresh;
        let thread = thread::Builder::new().name("committer".into());
        let thread = thread.spawn(move || match open().and_then(|path| self.begin(path)) {
            Ok(mut committer) => {
                let _ = started.send(Ok(Arc::clone(&committer.in_force)));
                committer.run_loop(&mut receiver, &wake_fd, refresh);
            }
            Err(error) => drop(started.send(Err(error))),
        });
        let thread = thread.map_err(|error| Error::DataPath(error.to_string()))?;
        let in_force = ready.await.map_err(|_| Error::Stopping)??;
        let handle = Handle {
            tasks,
            wake,
            in_force,
        };
        Ok((handle, thread))
    }

    fn begin(self, mut data_path: Box<dyn DataPath>) -> Result<Committer, Error> {
        let store = self.store.as_deref().map(Store::open).transpose()?;
        let loaded = match &store {
            Some(store) => load(store, &self.boot_id, &mut *data_path)?,
            None => Loaded::default(),
        };
        let reconciled = data_path.reconcile(&loaded.objects.after_boot())?;
        let mut notes = loaded.notes;
        notes.iter().for_each(|note| info!("{note}"));
        for note in reconciled.notes {
            warn!("{note}");
            self.log.push_message(v1::EventKind::Mended, &note);
            notes.push(note);
        }
        Ok(Committer {
            data_path,
            store,
            in_force: Arc::new(Mutex::new(InForce {
                objects: loaded.objects,
                generation: reconciled.generation,
                since: SystemTime::now(),
                notes,
            })),
            log: self.log,
            filter_names: FilterNames::default(),
            ended_during_write: Vec::new(),
            undeleted: Vec::new(),
        })
    }
}

/// Loads the store. While it is loaded on a machine that has just started, boot-time filters hold.
fn load(store: &Store, boot_id: &str, data_path: &mut dyn DataPath) -> Result<Loaded, Error> {
    if data_path.is_fresh() {
        // Units are asked about later: it takes time, and boot-time filters hold meanwhile.
        let at_boot: Objects = store.load(boot_id, &|_| true)?.objects.at_boot();
        data_path.apply_boot_time(&at_boot)?;
    }
    store.begin_boot(boot_id)?;
    store.load(boot_id, &systemd::is_enabled)
}
