//! Departures: processes that leave a cgroup, in which they were inspected, for another one.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{OpenObject, RingBuffer};
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sidetrack_abi::address;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::skeleton::departure::{DepartureSkel, DepartureSkelBuilder};
use crate::{Cgroup, Error, namespace, sys};

/// A process that has left a watched cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Its process id; 0 if it is not in the PID namespace of the watch.
    pub pid: u32,
    /// Its task name.
    pub comm: String,
    /// The id of the cgroup for which it left: see [`crate::cgroup::by_id`].
    pub cgroup_id: u64,
}

/// Notices processes that leave a cgroup, until it is dropped.
pub struct DepartureWatch {
    ring: RingBuffer<'static>,
    /// The links detach the programs when they are dropped.
    skeleton: DepartureSkel<'static>,
    departures: Rc<RefCell<Vec<KernelDeparture>>>,
}

/// `struct sidetrack_departure` of `bpf/departure.h`.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct KernelDeparture {
    cgroup_id: u64,
    started: u64,
    pid: u32,
    killed: u32,
    comm: [u8; 16],
}

const _: () = assert!(size_of::<KernelDeparture>() == 40); // as bpf/departure.h says

impl DepartureWatch {
    /// Watches a cgroup with all cgroups below it. Only processes that enter it from now on, and their
    /// children, are noticed when they leave.
    ///
    /// With `strict`, a process that leaves is killed. From Linux 6.13 on the kernel does so before the process
    /// runs again, and also if it moved itself; otherwise, [`DepartureWatch::departures`] does.
    ///
    /// Errors: [`Error::Kernel`], and those of [`Cgroup::level`].
    pub fn start(cgroup: &Cgroup, strict: bool) -> Result<Self, Error> {
        libbpf_rs::set_print(None);
        // As in `Engine::open`, libbpf-rs needs storage of the size of a pointer that outlives the skeleton.
        let storage: &'static mut MaybeUninit<OpenObject> =
            Box::leak(Box::new(MaybeUninit::uninit()));
        let mut skeleton = DepartureSkelBuilder::default()
            .open(storage)
            .map_err(Error::Kernel)?;
        let constants = skeleton.maps.rodata_data.as_deref_mut();
        let constants = constants.expect("the object has constants");
        let pid_namespace = namespace::own_pid_namespace()?;
        constants.watched_id = cgroup.id();
        constants.watched_level = cgroup.level()?;
        constants.pid_level = pid_namespace.level;
        constants.pid_inode = pid_namespace.inode;
        constants.strict = strict.into();
        let mut skeleton = skeleton.load().map_err(Error::Kernel)?;
        let departures = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&departures);
        let mut builder = libbpf_rs::RingBufferBuilder::new();
        let added = builder.add(&skeleton.maps.sidetrack_departures, move |bytes| {
            let departure = KernelDeparture::read_from_prefix(bytes);
            sink.borrow_mut()
                .extend(departure.ok().map(|(departure, _)| departure));
            0
        });
        added.map_err(Error::bpf("open the ring of departures"))?;
        let ring = builder
            .build()
            .map_err(Error::bpf("open the ring of departures"))?;
        skeleton.attach().map_err(Error::Kernel)?;
        Ok(Self {
            ring,
            skeleton,
            departures,
        })
    }

    /// The departures since the last call. If the watch is strict, each process has been killed.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn departures(&self) -> Result<Vec<Departure>, Error> {
        self.ring
            .poll(Duration::ZERO)
            .map_err(Error::bpf("read the ring of departures"))?;
        let departures = self.departures.take();
        if self.is_strict() {
            departures.iter().for_each(KernelDeparture::kill);
        }
        let describe = |departure: KernelDeparture| Departure {
            pid: departure.pid,
            comm: String::from_utf8_lossy(address::text(&departure.comm)).into_owned(),
            cgroup_id: departure.cgroup_id,
        };
        Ok(departures.into_iter().map(describe).collect())
    }

    /// The number of processes that may have left without being noticed, because the kernel had no memory, or
    /// because [`DepartureWatch::departures`] was not called for too long.
    pub fn missed(&self) -> u64 {
        let state = self.skeleton.maps.bss_data.as_deref();
        state.map_or(0, |state| state.departures_missed)
    }

    fn is_strict(&self) -> bool {
        let constants = self.skeleton.maps.rodata_data;
        constants.is_some_and(|constants| constants.strict != 0)
    }
}

impl AsFd for DepartureWatch {
    /// The descriptor is readable when there are departures.
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow_fd(&self.ring)
    }
}

impl KernelDeparture {
    /// Kills the process, if the kernel side could not.
    fn kill(&self) {
        let Some(pid) = Pid::from_raw(self.pid as i32).filter(|_| self.killed == 0) else {
            return;
        };
        // The descriptor stays with the process. So if it is still the one that left, no other one is killed.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        let stat = Process::new(self.pid as i32).and_then(|process| process.stat());
        if stat.is_ok_and(|stat| stat.starttime == self.started) {
            let _ = pidfd_send_signal(process, Signal::KILL); // it fails if the process has just ended
        }
    }
}
