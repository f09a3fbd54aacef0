//! Finds filters by their run-time ids, which events and flows have.

use std::collections::HashMap;

use sidetrack_policy::{Filter, Objects, Uuid};

/// A map from filter ids to keys. It is built on the first use after a commit.
#[derive(Default)]
pub(super) struct FilterNames {
    keys: Option<HashMap<u64, Uuid>>,
}

impl FilterNames {
    /// Returns the filter that has this id. The id 0 stands for no filter.
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

    /// Drops the map, because other objects are in force.
    pub(super) fn clear(&mut self) {
        self.keys = None;
    }
}
