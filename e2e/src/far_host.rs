//! A second host: a network namespace, joined to the test's by a pair of veth devices.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};

use crate::{netns, sys};

/// A second host. Its namespace exists as long as this value, or a program in it.
pub struct FarHost {
    namespace: File,
}

impl FarHost {
    /// The addresses of the device on the test's side.
    pub const NEAR: [&str; 2] = ["10.9.0.1", "fd09::1"];
    /// The addresses of the device on the far side.
    pub const FAR: [&str; 2] = ["10.9.0.2", "fd09::2"];

    /// Makes the host. The test is in a network namespace that it has entered before.
    pub fn start() -> Self {
        let (made, namespace) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        thread::spawn(move || {
            sys::unshare_network().expect("the test runs as root");
            let namespace = File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
            made.send((namespace, gettid())).expect("the test waits");
            let _ = released.recv(); // until the device is there
        });
        let (namespace, thread) = namespace.recv().expect("the namespace is made");
        let thread = thread.as_raw_nonzero();
        netns::ip(&format!(
            "link add near type veth peer name far netns {thread}"
        ));
        drop(release);
        set_up("near", Self::NEAR);
        let far = Self { namespace };
        far.inside(|| {
            netns::ip("link set lo up");
            set_up("far", Self::FAR);
        });
        far
    }

    /// Calls the function on the far host: sockets that it makes, and threads and programs that it
    /// starts, are there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.namespace);
                act()
            });
            thread.join().expect("the function does not panic")
        })
    }
}

fn set_up(device: &str, [v4, v6]: [&str; 2]) {
    netns::ip(&format!("addr add {v4}/24 dev {device}"));
    // Without detection of duplicates the address can be used immediately.
    netns::ip(&format!("addr add {v6}/64 dev {device} nodad"));
    netns::ip(&format!("link set {device} up"));
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("the test runs as root");
}
