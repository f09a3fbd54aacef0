//! Attaches programs to cgroups, and holds the links.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, ProgramMut};
use sidetrack_policy::LayerKind;

use super::Engine;
use crate::{Cgroup, Error, host};

/// A set of programs that are attached to a cgroup together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramSet {
    /// The client side, where programs run: connect, getpeername, sendmsg, recvmsg, sockops and the
    /// release of UDP sockets.
    Client,
    /// The service side, where proxies run: the socket options and the release of sockets.
    Service,
    /// The bind hooks, at the scope, while the policy has filters at a layer that needs them.
    Bind,
    /// The ingress hook, at the scope, while the policy has filters at a layer that needs it.
    Ingress,
}

/// The links of one set of programs at one cgroup.
pub(super) struct Attachment {
    pub(super) set: ProgramSet,
    pub(super) path: PathBuf,
    pub(super) links: Vec<Link>,
}

impl ProgramSet {
    pub(super) const ALL: [Self; 4] = [Self::Client, Self::Service, Self::Bind, Self::Ingress];

    /// The names of the programs in the object file.
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
            Self::Ingress => &["sidetrack_ingress"],
        }
    }

    /// The layers that need the programs; empty if they are attached regardless of the policy. The program
    /// that binds a UDP socket is the one that receives, so the layers for datagrams need the bind hooks.
    fn layers(self) -> &'static [LayerKind] {
        match self {
            Self::Bind => &[
                LayerKind::BindRedirect,
                LayerKind::AuthRecvAccept,
                LayerKind::FlowEstablished,
                LayerKind::EndpointClosure,
            ],
            Self::Ingress => &[LayerKind::AuthRecvAccept, LayerKind::FlowEstablished],
            Self::Client | Self::Service => &[],
        }
    }

    /// Whether one of these layers, a bit each, needs the programs.
    fn is_needed_by(self, layers: u32) -> bool {
        self.layers().iter().any(|&layer| layers & bits(layer) != 0)
    }
}

impl Attachment {
    /// Detaches the programs.
    fn remove(mut self) {
        for link in &mut self.links {
            let _ = link.detach(); // it fails if the cgroup is gone, and no program runs there
            if link.pin_path().is_some() {
                // If it cannot be unpinned it stays, and `doctor` finds it.
                let _ = link.unpin();
            }
        }
    }
}

impl Engine {
    pub(super) fn attach_client_side(&mut self, cgroup: &Cgroup) -> Result<(), Error> {
        if !self.is_covered(ProgramSet::Client, cgroup) {
            let own = self.program_ids()?;
            if host::other_engine_overlaps(cgroup, &own)? {
                return Err(Error::AlreadyAttached(cgroup.path().to_owned()));
            }
        }
        self.attach(ProgramSet::Client, cgroup)
    }

    /// Attaches a set of programs to a cgroup, unless they run there already.
    pub(super) fn attach(&mut self, set: ProgramSet, cgroup: &Cgroup) -> Result<(), Error> {
        if self.is_covered(set, cgroup) {
            return Ok(());
        }
        // A program that runs twice for a connection, once for each of two cgroups, would divert it twice.
        self.detach(|attachment| {
            attachment.set == set && attachment.path.starts_with(cgroup.path())
        });
        let links = set.programs().iter();
        let links = links.map(|name| self.attach_program(name, cgroup));
        let links = links.collect::<Result<_, Error>>()?;
        self.attachments.push(Attachment {
            set,
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

    /// Attaches the programs that these layers need, before the policy that has them is in force.
    pub(super) fn attach_layers(&mut self, layers: u32) -> Result<(), Error> {
        for set in ProgramSet::ALL {
            if set.is_needed_by(layers) {
                let scope = Cgroup::at(&self.scope)?;
                self.attach(set, &scope)?;
            }
        }
        Ok(())
    }

    /// Detaches the programs that these layers do not need, after the policy is in force.
    pub(super) fn detach_layers(&mut self, layers: u32) {
        self.detach(|attachment| {
            !attachment.set.layers().is_empty() && !attachment.set.is_needed_by(layers)
        });
    }

    /// The cgroups to which the client side is attached, and whether each is a home.
    pub fn cgroups(&self) -> Vec<(PathBuf, bool)> {
        let is_home = |path| {
            self.attachments
                .iter()
                .any(|attachment| attachment.set == ProgramSet::Service && &attachment.path == path)
        };
        self.attachments
            .iter()
            .filter(|attachment| attachment.set == ProgramSet::Client)
            .map(|attachment| (attachment.path.clone(), is_home(&attachment.path)))
            .collect()
    }

    /// The homes: cgroups in which, or below which, proxies can use the socket options.
    pub fn homes(&self) -> impl Iterator<Item = &Path> {
        let homes = self
            .attachments
            .iter()
            .filter(|attachment| attachment.set == ProgramSet::Service);
        homes.map(|attachment| attachment.path.as_path())
    }

    /// Undoes [`Engine::attach_home`].
    ///
    /// No service may have a listener there, and no flow may be open: its end would not be noticed.
    pub fn detach_home(&mut self, home: &Path) {
        let scope = self.scope.clone();
        self.detach(|attachment| match attachment.set {
            ProgramSet::Service => attachment.path == home,
            ProgramSet::Client => attachment.path == home && attachment.path != scope,
            ProgramSet::Bind | ProgramSet::Ingress => false,
        });
    }

    fn detach(&mut self, which: impl Fn(&Attachment) -> bool) {
        for gone in self
            .attachments
            .extract_if(.., |attachment| which(attachment))
        {
            gone.remove();
        }
    }

    fn is_covered(&self, set: ProgramSet, cgroup: &Cgroup) -> bool {
        self.attachments
            .iter()
            .any(|attachment| attachment.set == set && cgroup.path().starts_with(&attachment.path))
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
            other => unreachable!("no set of programs contains {other}"),
        }
    }

    fn program_ids(&self) -> Result<Vec<u32>, Error> {
        ["sidetrack_connect4", "sidetrack_connect6"]
            .into_iter()
            .map(|name| {
                libbpf_rs::Program::id_from_fd(self.program(name).as_fd())
                    .map_err(Error::bpf("read a program's id"))
            })
            .collect()
    }
}

/// The bits of a layer, for both families.
fn bits(layer: LayerKind) -> u32 {
    layer.both().map(|layer| 1 << layer.index()).iter().sum()
}
