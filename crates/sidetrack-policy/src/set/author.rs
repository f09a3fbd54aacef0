//! The authors of objects, and whose connections their filters apply to.

use std::sync::Arc;

/// The session and user that make a change.
///
/// The default is root, in a session that is not dynamic, for objects that are added one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// Id of the session, if it is dynamic; its objects are deleted when it ends.
    pub session: Option<u64>,
    /// Id of the user; 0 is root.
    pub uid: u32,
    /// Name of the owner, if the change applies a policy; none if objects are added one by one.
    pub owner: Option<Arc<str>>,
    /// Whose connections the author's filters apply to.
    pub reach: Reach,
}

/// Whose connections the filters of an author apply to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Those of all users. The author is root or a member of `access.host_group`.
    #[default]
    Host,
    /// Those of the author's own user. The author is *restricted*.
    OwnUser,
    /// Those of all users, because the object was stored by a version that did not record the
    /// reach. It is recorded when the author adds the object again.
    Unrecorded,
}

impl Author {
    /// True if the author is root, which may change the objects of all users.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// True if the author's filters apply to its own connections only.
    pub fn is_restricted(&self) -> bool {
        self.reach == Reach::OwnUser
    }

    /// The user to whose connections the author's filters are restricted, if they are.
    pub(super) fn only_user(&self) -> Option<u32> {
        self.is_restricted().then_some(self.uid)
    }

    /// True if this author's objects may refer to those of the other one: they are of the same user
    /// or of root, or neither author is restricted.
    pub(super) fn may_refer_to(&self, other: &Self) -> bool {
        let unrestricted = !self.is_restricted() && !other.is_restricted();
        self.uid == other.uid || other.is_root() || unrestricted
    }
}
