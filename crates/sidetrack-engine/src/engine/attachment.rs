//! Which programs run at which cgroups, and the links that hold them there.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, ProgramMut};
use sidetrack_policy::LayerKind;

use super::Engine;
use crate::{Cgroup, Error, host};

/// Programs that are attached together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Where programs run: connect, getpeername, sendmsg, recvmsg, sockops, and their sockets' end.
    Client,
    /// Where proxies run: the options, and release.
    Service,
    /// At the scope, while the policy has filters at its layer.
    Bind,
    /// Likewise.
    Accept,
}

/// A cgroup's links.
pub(super) struct Attachment {
    pub(super) side: Side,
    pub(super) path: PathBuf,
    pub(super) links: Vec<Link>,
}

impl Side {
    pub(super) const ALL: [Self; 4] = [Self::Client, Self::Service, Self::Bind, Self::Accept];

    /// The names of its programs, in the object.
    pub(super) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Client => &[
                "sidetrack_connect4",
                "sidetrack_connect6",
                "sidetrack_getpeername4",
                "sidetrack_getpeername6",
                "sidetrack_sendmsg4",
                "sidetrack_sendmsg6",
                "sidetrack_recvmsg4",
                "sidetrack_recvmsg6",
                "sidetrack_client_release",
                "sidetrack_sockops",
            ],
            Self::Service => &[
                "sidetrack_getsockopt",
                "sidetrack_setsockopt",
                "sidetrack_service_release",
            ],
            Self::Bind => &["sidetrack_bind4", "sidetrack_bind6"],
            Self::Accept => &["sidetrack_ingress"],
        }
    }

    /// The layers for which alone it is attached; empty: it always is. Who binds a UDP socket is who
    /// receives, and so is asked about by the layers that a datagram meets.
    fn layers(self) -> &'static [LayerKind] {
        match self {
            Self::Bind => &[
                LayerKind::BindRedirect,
                LayerKind::AuthRecvAccept,
                LayerKind::FlowEstablished,
                LayerKind::EndpointClosure,
            ],
            Self::Accept => &[LayerKind::AuthRecvAccept, LayerKind::FlowEstablished],
            Self::Client | Self::Service => &[],
        }
    }

    fn is_for(self, layers: u32) -> bool {
        self.layers().iter().any(|&layer| layers & bits(layer) != 0)
    }
}

impl Attachment {
    /// Takes the programs off.
    fn remove(mut self) {
        for link in &mut self.links {
            if link.pin_path().is_some() {
                // If it cannot be unpinned it stays, and `doctor` finds it.
                let _ = link.unpin();
            }
        }
    }
}

impl Engine {
    pub(super) fn attach_client_side(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        if !self.is_covered(Side::Client, cgroup) {
            let own = self.program_ids()?;
            if host::engine_around(cgroup, &own)? {
                return Err(Error::AlreadyAttached(cgroup.path().to_owned()));
            }
        }
        self.attach(Side::Client, cgroup)
    }

    /// Attaches a side's programs to a cgroup, unless they run there already.
    pub(super) fn attach(&mut self, side: Side, cgroup: &Cgroup) -> Result<(), Error> {
        if self.is_covered(side, cgroup) {
            return Ok(());
        }
        // One program twice on a connection's way would divert it twice.
        self.detach(|at| at.side == side && at.path.starts_with(cgroup.path()));
        let links = side.programs().iter();
        let links = links.map(|name| self.attach_program(name, cgroup));
        let links = links.collect::<Result<_, Error>>()?;
        self.attachments.push(Attachment {
            side,
            path: cgroup.path().to_owned(),
            links,
        });
        Ok(())
    }

    pub(super) fn attach_program(&self, name: &str, cgroup: &Cgroup) -> Result<Link, Error> {
        let mut link = self
            .program(name)
            .attach_cgroup(cgroup.as_fd().as_raw_fd())
            .map_err(Error::bpf("attach the programs to the cgroup"))?;
        if let Some(pins) = &self.pins {
            pins.pin_link(&mut link, cgroup.id(), name)?;
        }
        Ok(link)
    }

    /// Attaches what the layers in force need, before the policy that has them.
    pub(super) fn attach_layers(&mut self, layers: u32) -> Result<(), Error> {
        for side in Side::ALL {
            if side.is_for(layers) {
                let scope = Cgroup::at(&self.scope)?;
                self.attach(side, &scope)?;
            }
        }
        Ok(())
    }

    /// Takes off what they do not need any more, after it.
    pub(super) fn detach_layers(&mut self, layers: u32) {
        self.detach(|at| !at.side.layers().is_empty() && !at.side.is_for(layers));
    }

    /// Where the engine is attached: each cgroup, and whether proxies can be there.
    pub fn cgroups(&self) -> Vec<(PathBuf, bool)> {
        let is_home = |path| {
            self.attachments
                .iter()
                .any(|at| at.side == Side::Service && &at.path == path)
        };
        self.attachments
            .iter()
            .filter(|at| at.side == Side::Client)
            .map(|at| (at.path.clone(), is_home(&at.path)))
            .collect()
    }

    /// The cgroups in which proxies can be, with all below each.
    pub fn homes(&self) -> impl Iterator<Item = &Path> {
        let homes = self
            .attachments
            .iter()
            .filter(|at| at.side == Side::Service);
        homes.map(|at| at.path.as_path())
    }

    /// Undoes [`Engine::attach_home`].
    ///
    /// No service may have a listener there, and no flow may be live: its end would be missed.
    pub fn detach_home(&mut self, home: &Path) {
        let scope = self.scope.clone();
        self.detach(|at| match at.side {
            Side::Service => at.path == home,
            Side::Client => at.path == home && at.path != scope,
            Side::Bind | Side::Accept => false,
        });
    }

    fn detach(&mut self, which: impl Fn(&Attachment) -> bool) {
        for gone in self.attachments.extract_if(.., |at| which(at)) {
            gone.remove();
        }
    }

    fn is_covered(&self, side: Side, cgroup: &Cgroup) -> bool {
        self.attachments
            .iter()
            .any(|at| at.side == side && cgroup.path().starts_with(&at.path))
    }

    pub(super) fn program(&self, name: &str) -> &ProgramMut<'_> {
        let programs = &self.skeleton.progs;
        match name {
            "sidetrack_connect4" => &programs.sidetrack_connect4,
            "sidetrack_connect6" => &programs.sidetrack_connect6,
            "sidetrack_getpeername4" => &programs.sidetrack_getpeername4,
            "sidetrack_getpeername6" => &programs.sidetrack_getpeername6,
            "sidetrack_sendmsg4" => &programs.sidetrack_sendmsg4,
            "sidetrack_sendmsg6" => &programs.sidetrack_sendmsg6,
            "sidetrack_recvmsg4" => &programs.sidetrack_recvmsg4,
            "sidetrack_recvmsg6" => &programs.sidetrack_recvmsg6,
            "sidetrack_client_release" => &programs.sidetrack_client_release,
            "sidetrack_sockops" => &programs.sidetrack_sockops,
            "sidetrack_getsockopt" => &programs.sidetrack_getsockopt,
            "sidetrack_setsockopt" => &programs.sidetrack_setsockopt,
            "sidetrack_service_release" => &programs.sidetrack_service_release,
            "sidetrack_bind4" => &programs.sidetrack_bind4,
            "sidetrack_bind6" => &programs.sidetrack_bind6,
            "sidetrack_ingress" => &programs.sidetrack_ingress,
            other => unreachable!("no side has a program {other}"),
        }
    }

    fn program_ids(&self) -> Result<Vec<u32>, Error> {
        ["sidetrack_connect4", "sidetrack_connect6"]
            .into_iter()
            .map(|name| {
                libbpf_rs::Program::id_from_fd(self.program(name).as_fd())
                    .map_err(Error::bpf("read a program's number"))
            })
            .collect()
    }
}

/// The bits of both families' layers.
fn bits(layer: LayerKind) -> u32 {
    layer.both().map(|layer| 1 << layer.index()).iter().sum()
}
