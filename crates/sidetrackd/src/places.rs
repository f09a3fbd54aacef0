//! Bounds that no user can use up. Each has a number of places: root may take all of them, all
//! other users together leave an eighth, and one of them takes at most an eighth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Each user other than root gets one part of this many of a bound's places, and one part is kept
/// for root.
pub const PARTS: usize = 8;

/// The places of one bound.
#[derive(Debug)]
pub struct Places {
    /// What takes a place, in the plural, as in "connections".
    what: &'static str,
    total: usize,
    taken: Mutex<Taken>,
}

/// How many places are taken.
#[derive(Debug, Default)]
struct Taken {
    root: usize,
    others: usize,
    /// Places of each user other than root. Users without places are left out.
    users: HashMap<u32, usize>,
}

/// Places of a user. They are free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    uid: u32,
    count: usize,
}

/// There is no place for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The user has its share.
    #[error("user {uid} has its share of {share} {what} already; one user can have no more")]
    Share {
        /// What takes a place.
        what: &'static str,
        /// The user.
        uid: u32,
        /// The user's share.
        share: usize,
    },
    /// All places are taken, except those that are kept for root.
    #[error("there are {taken} {what} already, and the limit is {total}; try again later")]
    Total {
        /// What takes a place.
        what: &'static str,
        /// Number of places that are taken.
        taken: usize,
        /// Number of places, including those that are kept for root.
        total: usize,
    },
}

impl Places {
    /// Creates a bound of this many places.
    pub fn new(what: &'static str, total: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            total,
            taken: Mutex::default(),
        })
    }

    /// Takes a place. Errors: [`Full`].
    pub fn take(self: &Arc<Self>, uid: u32) -> Result<Place, Full> {
        let mut place = Place {
            places: Arc::clone(self),
            uid,
            count: 0,
        };
        place.grow(1)?;
        Ok(place)
    }

    /// Number of places that one user other than root can have.
    pub fn share(&self) -> usize {
        (self.total / PARTS).max(1)
    }

    fn check(&self, taken: &Taken, uid: u32, count: usize) -> Result<(), Full> {
        let (what, total) = (self.what, self.total);
        let all = taken.root + taken.others;
        let full = Full::Total {
            what,
            taken: all,
            total,
        };
        if all + count > total {
            return Err(full);
        }
        if uid == 0 {
            return Ok(());
        }
        let share = self.share();
        if taken.users.get(&uid).unwrap_or(&0) + count > share {
            return Err(Full::Share { what, uid, share });
        }
        if taken.others + count > total - total / PARTS {
            return Err(full);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Takes more places for the same user. Errors: [`Full`]; then it has as many as before.
    pub fn grow(&mut self, count: usize) -> Result<(), Full> {
        let mut taken = self.places.lock();
        self.places.check(&taken, self.uid, count)?;
        match self.uid {
            0 => taken.root += count,
            uid => {
                taken.others += count;
                *taken.users.entry(uid).or_default() += count;
            }
        }
        self.count += count;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if self.uid == 0 {
            taken.root -= self.count;
            return;
        }
        taken.others -= self.count;
        if let Some(own) = taken.users.get_mut(&self.uid) {
            *own -= self.count;
            if *own == 0 {
                taken.users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_shares_and_root_has_a_reserve() {
        let places = Places::new("calls", 16);
        let take = |uid, count| -> Vec<Place> {
            let places = std::iter::repeat_with(|| places.take(uid).unwrap());
            places.take(count).collect()
        };
        let mut taken = take(1, 2);
        let share = places.take(1).unwrap_err();
        assert!(matches!(
            share,
            Full::Share {
                uid: 1,
                share: 2,
                ..
            }
        ));
        for uid in 2..=7 {
            taken.extend(take(uid, 2));
        }
        let total = places.take(8).unwrap_err();
        let expected = Full::Total {
            what: "calls",
            taken: 14,
            total: 16,
        };
        assert_eq!(total, expected);
        let reserve = take(0, 2);
        assert!(places.take(0).is_err());
        drop(reserve);
        // Root may have all places that are free.
        drop(taken);
        assert_eq!(take(0, 16).len(), 16);
        assert!(places.lock().users.is_empty());
    }

    #[test]
    fn a_place_grows_and_shrinks_as_a_whole() {
        let places = Places::new("bytes", 800);
        let mut place = places.take(1).unwrap();
        place.grow(99).unwrap();
        assert!(place.grow(1).is_err());
        place.grow(0).unwrap();
        drop(place);
        places.take(1).unwrap().grow(99).unwrap();
    }

    #[test]
    fn a_small_bound_has_a_place_for_each_user_and_no_reserve() {
        let places = Places::new("sessions", 2);
        let _first = places.take(1).unwrap();
        let _second = places.take(2).unwrap();
        assert!(places.take(0).is_err());
    }
}
