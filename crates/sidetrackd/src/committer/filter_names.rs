//! Filters by their number at run time, for events and flows.

use std::collections::HashMap;

use sidetrack_policy::{Filter, Objects, Uuid};

/// Made when it is first needed after a commit.
#[derive(Default)]
pub(super) struct FilterNames {
    keys: Option<HashMap<u64, Uuid>>,
}

impl FilterNames {
    pub(super) fn find<'a>(&mut self, objects: &'a Objects, id: u64) -> Option<&'a Filter> {
        if id == 0 {
            return None;
        }
        let keys = self.keys.get_or_insert_with(|| {
            let filters = objects.all::<Filter>();
            filters
                .map(|filter| (filter.id, filter.identity.key))
                .collect()
        });
        objects.get(*keys.get(&id)?).ok()
    }

    /// Other objects are in force.
    pub(super) fn clear(&mut self) {
        self.keys = None;
    }
}
