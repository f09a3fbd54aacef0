//! Attaches programs to cgroups, and holds the links.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, ProgramMut};

use super::Engine;
use super::program::{CgroupProgram, ProgramSet};
use crate::{Cgroup, Error, host};

/// The links of one set of programs at one cgroup.
pub(super) struct Attachment {
    pub(super) set: ProgramSet,
    pub(super) path: PathBuf,
    pub(super) links: Vec<Link>,
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
        let links = set.programs();
        let links = links.map(|program| self.attach_program(program, cgroup));
        let links = links.collect::<Result<_, Error>>()?;
        self.attachments.push(Attachment {
            set,
            path: cgroup.path().to_owned(),
            links,
        });
        Ok(())
    }

    pub(super) fn attach_program(
        &self,
        program: CgroupProgram,
        cgroup: &Cgroup,
    ) -> Result<Link, Error> {
        let mut link = self
            .program(program)
            .attach_cgroup(cgroup.as_fd().as_raw_fd())
            .map_err(Error::bpf("attach the programs to the cgroup"))?;
        if let Some(pins) = &self.pins {
            pins.pin_link(&mut link, cgroup.id(), program)?;
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

    /// Whether a cgroup is a home, or is below one.
    pub fn is_in_home(&self, cgroup: &Cgroup) -> bool {
        self.is_covered(ProgramSet::Service, cgroup)
    }

    /// Undoes [`Engine::attach_home`].
    ///
    /// No service may have a listener there, and no flow may be open: its end would not be noticed.
    pub fn detach_home(&mut self, home: &Path) {
        let scope = self.scope.clone();
        self.detach(|attachment| match attachment.set {
            ProgramSet::Service | ProgramSet::Hold => attachment.path == home,
            ProgramSet::Client | ProgramSet::Guard => {
                attachment.path == home && attachment.path != scope
            }
            ProgramSet::Bind | ProgramSet::Ingress | ProgramSet::Sender => false,
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

    pub(super) fn program(&self, program: CgroupProgram) -> &ProgramMut<'_> {
        program.loaded(&self.skeleton.progs)
    }

    fn program_ids(&self) -> Result<Vec<u32>, Error> {
        [CgroupProgram::Connect4, CgroupProgram::Connect6]
            .into_iter()
            .map(|program| {
                libbpf_rs::Program::id_from_fd(self.program(program).as_fd())
                    .map_err(Error::bpf("read a program's id"))
            })
            .collect()
    }
}
