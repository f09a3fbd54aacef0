//! Quotas that no user can use up. Root may have all of a quota; all other users together leave an
//! eighth, and one of them has at most an eighth.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Each user other than root has one part of this many of a quota, and one part is kept for root.
pub const PARTS: usize = 8;

/// A limited number of things, such as connections, that users share.
#[derive(Debug)]
pub struct Quota {
    /// The things, in the plural.
    what: &'static str,
    total: usize,
    taken: Mutex<Taken>,
}

/// How much of a quota is taken.
#[derive(Debug, Default)]
struct Taken {
    root: usize,
    others: usize,
    /// The number that each user other than root has. Users that have none are left out.
    users: HashMap<u32, usize>,
}

/// What a user has of a quota. It is given back when it is dropped.
#[derive(Debug)]
pub struct Portion {
    quota: Arc<Quota>,
    uid: u32,
    count: usize,
}

/// A user can have no more of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaExceeded {
    /// The user has its share.
    #[error("user {uid} has its share of {share} {what} already; one user can have no more")]
    Share {
        /// The things of the quota, in the plural.
        what: &'static str,
        /// The user.
        uid: u32,
        /// The user's share.
        share: usize,
    },
    /// Everything is taken, except for what is kept for root.
    #[error("there are {taken} {what} already, and the limit is {total}; try again later")]
    Total {
        /// The things of the quota, in the plural.
        what: &'static str,
        /// How many are taken.
        taken: usize,
        /// The quota, including what is kept for root.
        total: usize,
    },
}

impl Quota {
    /// Creates a quota of this many things.
    pub fn new(what: &'static str, total: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            total,
            taken: Mutex::default(),
        })
    }

    /// Takes one. Errors: [`QuotaExceeded`].
    pub fn take(self: &Arc<Self>, uid: u32) -> Result<Portion, QuotaExceeded> {
        let mut portion = Portion {
            quota: Arc::clone(self),
            uid,
            count: 0,
        };
        portion.grow(1)?;
        Ok(portion)
    }

    /// How many one user other than root can have.
    pub fn share(&self) -> usize {
        (self.total / PARTS).max(1)
    }

    fn check(&self, taken: &Taken, uid: u32, count: usize) -> Result<(), QuotaExceeded> {
        let (what, total) = (self.what, self.total);
        let all = taken.root + taken.others;
        let full = QuotaExceeded::Total {
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
            return Err(QuotaExceeded::Share { what, uid, share });
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

impl Portion {
    /// Takes more for the same user. Errors: [`QuotaExceeded`]; then it has as many as before.
    pub fn grow(&mut self, count: usize) -> Result<(), QuotaExceeded> {
        let mut taken = self.quota.lock();
        self.quota.check(&taken, self.uid, count)?;
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

impl Drop for Portion {
    fn drop(&mut self) {
        let mut taken = self.quota.lock();
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
        let quota = Quota::new("calls", 16);
        let take = |uid, count| -> Vec<Portion> {
            let quota = std::iter::repeat_with(|| quota.take(uid).unwrap());
            quota.take(count).collect()
        };
        let mut taken = take(1, 2);
        let share = quota.take(1).unwrap_err();
        assert!(matches!(
            share,
            QuotaExceeded::Share {
                uid: 1,
                share: 2,
                ..
            }
        ));
        for uid in 2..=7 {
            taken.extend(take(uid, 2));
        }
        let total = quota.take(8).unwrap_err();
        let expected = QuotaExceeded::Total {
            what: "calls",
            taken: 14,
            total: 16,
        };
        assert_eq!(total, expected);
        let reserve = take(0, 2);
        assert!(quota.take(0).is_err());
        drop(reserve);
        // Root may have all that is free.
        drop(taken);
        assert_eq!(take(0, 16).len(), 16);
        assert!(quota.lock().users.is_empty());
    }

    #[test]
    fn a_portion_grows_and_is_given_back_as_a_whole() {
        let quota = Quota::new("bytes", 800);
        let mut portion = quota.take(1).unwrap();
        portion.grow(99).unwrap();
        assert!(portion.grow(1).is_err());
        portion.grow(0).unwrap();
        drop(portion);
        quota.take(1).unwrap().grow(99).unwrap();
    }

    #[test]
    fn a_small_quota_has_one_for_each_user_and_no_reserve() {
        let quota = Quota::new("sessions", 2);
        let _first = quota.take(1).unwrap();
        let _second = quota.take(2).unwrap();
        assert!(quota.take(0).is_err());
    }
}
