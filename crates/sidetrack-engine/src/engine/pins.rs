//! Pins the data path in a bpf file system, so that it outlives its process.
//!
//! ```text
//! PINS/identity              the engine: its id, the key of its tokens, its scope and its limits
//! PINS/maps/NAME             each map whose contents must be kept
//! PINS/links/CGROUP-PROGRAM  each link, by the cgroup's id and the name of the program
//! ```
//!
//! The next engine resumes: it uses the pinned maps and links, and replaces the program of each link by its
//! own. So a later version takes over without a gap.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, Skel};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapType};
use sidetrack_abi::kernel;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::attachment::Attachment;
use super::program::{CgroupProgram, ProgramSet};
use super::{Config, Engine};
use crate::skeleton::{OpenSidetrackSkel, SidetrackSkel};
use crate::{Cgroup, Error, ServiceSpec, cgroup, network};

/// Version of what is pinned. An engine does not resume another version.
const LAYOUT_VERSION: u32 = 5;
/// The type of a bpf file system: BPF_FS_MAGIC in linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where a bpf file system is usually mounted.
const BPF_FS: &str = "/sys/fs/bpf";

/// A folder with pins.
pub(super) struct Pins {
    folder: PathBuf,
}

/// The properties of an engine that its successor must keep.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct EngineIdentity {
    pub(super) engine_id: u64,
    pub(super) token_key: [u64; 2],
    pub(super) scope_id: u64,
    pub(super) grace_ns: u64,
    pub(super) idle_ns: u64,
    pub(super) scope_level: u32,
    pub(super) flows_max: u32,
    layout: u32,
    abi: u32,
}

impl EngineIdentity {
    pub(super) fn new(scope: &Cgroup, config: &Config) -> Result<Self, Error> {
        Ok(Self {
            engine_id: u64::from_ne_bytes(random()?),
            token_key: [u64::from_ne_bytes(random()?), u64::from_ne_bytes(random()?)],
            scope_id: scope.id(),
            grace_ns: config.grace.as_nanos().try_into().unwrap_or(u64::MAX),
            idle_ns: config.idle.as_nanos().try_into().unwrap_or(u64::MAX),
            scope_level: scope.level()?,
            flows_max: config.flows_max.max(1),
            layout: LAYOUT_VERSION,
            abi: kernel::ABI_VERSION,
        })
    }
}

impl Pins {
    /// Opens a folder on a bpf file system, and makes it if it is missing.
    pub(super) fn at(folder: PathBuf) -> Result<Self, Error> {
        check_pins(&folder)?;
        for part in ["", "maps", "links"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(Error::system("make the folder of the pins"))?;
        }
        let kind = rustix::fs::statfs(&folder)
            .map_err(|error| Error::system("inspect the folder of the pins")(error.into()))?;
        if kind.f_type as u64 != BPF_FS_MAGIC {
            return Err(Error::Pins {
                path: folder,
                why:
                    "it is not on a bpf file system; mount one with `mount -t bpf bpf /sys/fs/bpf`"
                        .to_owned(),
            });
        }
        Ok(Self { folder })
    }

    /// The engine of this scope that left pins here; `None` if there are none, or if it ended before all
    /// were made.
    pub(super) fn identity_of(&self, scope: &Cgroup) -> Result<Option<EngineIdentity>, Error> {
        let found = self.identity()?;
        match &found {
            Some(identity) if identity.scope_id != scope.id() => Err(Error::Pins {
                path: self.folder.clone(),
                why: format!(
                    "the scope of what is pinned there is another cgroup than {}; configure that cgroup, or \
                     remove the pins with `sidetrack uninstall`",
                    scope.path().display()
                ),
            }),
            _ => Ok(found),
        }
    }

    fn identity(&self) -> Result<Option<EngineIdentity>, Error> {
        let path = self.folder.join("identity");
        if !path.exists() {
            remove_files(&self.folder)?; // left by an engine that ended while it made pins
            return Ok(None);
        }
        let map = MapHandle::from_pinned_path(&path).map_err(Error::bpf("open the pins"))?;
        let bytes = map
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("open the pins"))?;
        let found = bytes.and_then(|bytes| EngineIdentity::read_from_bytes(&bytes).ok());
        match found {
            Some(found) if found.layout == LAYOUT_VERSION && found.abi == kernel::ABI_VERSION => {
                Ok(Some(found))
            }
            _ => Err(Error::Pins {
                path: self.folder.clone(),
                why:
                    "another version of Sidetrack made them; remove them with `sidetrack uninstall`"
                        .to_owned(),
            }),
        }
    }

    /// Makes the skeleton use the pinned maps instead of new ones.
    pub(super) fn reuse_maps(&self, skeleton: &mut OpenSidetrackSkel<'_>) -> Result<(), Error> {
        for mut map in skeleton.open_object_mut().maps_mut() {
            if !is_pinned(&map.name().to_string_lossy()) {
                continue;
            }
            let path = self.map_path(&map.name().to_string_lossy());
            let wanted = (map.map_type(), map.key_size(), map.value_size());
            let reused = map.reuse_pinned_map(&path);
            if reused.is_err() || wanted != (map.map_type(), map.key_size(), map.value_size()) {
                return Err(Error::Pins {
                    path,
                    why: "this map has another form in this version; remove the pins with `sidetrack uninstall`"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Pins all maps, and after them the engine's identity, without which no engine resumes.
    pub(super) fn pin_maps(
        &self,
        skeleton: &mut SidetrackSkel<'_>,
        identity: &EngineIdentity,
    ) -> Result<(), Error> {
        for mut map in skeleton.object_mut().maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if !is_pinned(&name) {
                continue;
            }
            map.pin(self.map_path(&name))
                .map_err(Error::bpf("pin the maps"))?;
        }
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let mut map = MapHandle::create(
            MapType::Array,
            Some("sidetrack_self"),
            size_of::<u32>() as u32,
            size_of::<EngineIdentity>() as u32,
            1,
            &options,
        )
        .map_err(Error::bpf("pin the identity of the engine"))?;
        map.update(&0_u32.to_ne_bytes(), identity.as_bytes(), MapFlags::ANY)
            .and_then(|()| map.pin(self.folder.join("identity")))
            .map_err(Error::bpf("pin the identity of the engine"))
    }

    pub(super) fn pin_link(
        &self,
        link: &mut Link,
        cgroup: u64,
        program: CgroupProgram,
    ) -> Result<(), Error> {
        let path = self
            .folder
            .join("links")
            .join(format!("{cgroup}-{}", program.name()));
        // A pin of the same name was left by a removed cgroup whose id was reused.
        let _ = fs::remove_file(&path);
        link.pin(path).map_err(Error::bpf("pin a link"))
    }

    fn map_path(&self, name: &str) -> PathBuf {
        // A bpf file system allows no dots.
        self.folder.join("maps").join(name.replace('.', "_"))
    }

    /// The pinned links: the cgroup's id, the program's name and the path of the pin.
    fn links(&self) -> Result<Vec<(u64, String, PathBuf)>, Error> {
        let entries = fs::read_dir(self.folder.join("links"))
            .map_err(Error::system("read the pinned links"))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (cgroup, program) = name.split_once('-')?;
                Some((cgroup.parse().ok()?, program.to_owned(), entry.path()))
            })
            .collect())
    }
}

/// Whether a data path is pinned in a folder, with or without an engine at work.
pub fn pins_at(folder: &Path) -> bool {
    folder.join("identity").exists()
}

/// Checks that a folder for pins can be made: a bpf file system refuses names with a dot. Folders that
/// exist are not checked, since one above the mount point may have any name.
///
/// Errors: [`Error::Pins`].
pub fn check_pins(folder: &Path) -> Result<(), Error> {
    let Some(parent) = folder.ancestors().find(|path| path.exists()) else {
        return Ok(());
    };
    // At its usual place, a bpf file system may be mounted later.
    let is_bpf = parent.starts_with(BPF_FS)
        || rustix::fs::statfs(parent).is_ok_and(|kind| kind.f_type as u64 == BPF_FS_MAGIC);
    let has_dot = |name: &OsStr| name.as_encoded_bytes().contains(&b'.');
    let missing = folder.strip_prefix(parent).unwrap_or(folder);
    match missing.iter().find(|name| is_bpf && has_dot(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Pins {
            path: folder.to_owned(),
            why: format!(
                "a bpf file system allows no dot in a name, and {} has one; choose another path",
                name.display()
            ),
        }),
    }
}

/// The kernel's ids of the programs that a pinned data path has attached.
///
/// Errors: [`Error::System`], [`Error::Bpf`].
pub fn pinned_programs(folder: &Path) -> Result<Vec<u32>, Error> {
    let pins = Pins {
        folder: folder.to_owned(),
    };
    let programs = pins.links()?.into_iter().map(|(_, _, path)| {
        let link = Link::open(&path).map_err(Error::bpf("open a pinned link"))?;
        let info = link.info().map_err(Error::bpf("read a pinned link"))?;
        Ok(info.prog_id)
    });
    programs.collect()
}

/// Removes a pinned data path and its folder. When it returns, no program of the data path runs any more.
///
/// Errors: [`Error::System`]. It is not an error if the folder does not exist.
pub fn remove_pins(folder: &Path) -> Result<(), Error> {
    let pins = Pins {
        folder: folder.to_owned(),
    };
    if let Ok(Some(identity)) = pins.identity() {
        network::remove_pinned(identity.engine_id)
            .map_err(Error::system("remove the IPv6 addresses for datagrams"))?;
    }
    detach_links(folder);
    remove_files(folder)?;
    for part in ["links", "maps", ""] {
        match fs::remove_dir(folder.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::system("remove the folder of the pins")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Detaches the programs. The kernel releases a link that is only unpinned some time later, and until then its
/// program still runs.
fn detach_links(folder: &Path) {
    let entries = fs::read_dir(folder.join("links")).into_iter().flatten();
    for entry in entries.flatten() {
        if let Ok(link) = Link::open(entry.path()) {
            let _ = link.detach(); // it fails if the cgroup is gone, and no program runs there
        }
    }
}

/// Removes the links, the maps and the identity. Other files in the folder are not ours.
fn remove_files(folder: &Path) -> Result<(), Error> {
    for part in ["links", "maps"] {
        let path = folder.join(part);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(Error::system("read the pins"))?,
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                fs::remove_file(entry.path()).map_err(Error::system("remove a pin"))?;
            }
        }
    }
    match fs::remove_file(folder.join("identity")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system("remove a pin")(error))
        }
        _ => Ok(()),
    }
}

impl Engine {
    /// Resumes from the pins: takes over the links, each with this engine's program from now on, and reads
    /// services, contexts and generation.
    pub(super) fn resume(&mut self) -> Result<(), Error> {
        self.resume_links()?;
        self.resume_services()?;
        self.collect_owners()?; // left by an engine that ended while it removed a service
        self.contexts
            .resume(&self.skeleton.maps.sidetrack_contexts)?;
        self.reset_left()?;
        self.generation = self
            .policy_in_force()?
            .map_or(0, |policy| policy.generation);
        Ok(())
    }

    fn resume_links(&mut self) -> Result<(), Error> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let cgroups = cgroup::by_id()?;
        let mut found: BTreeMap<PathBuf, BTreeMap<CgroupProgram, Link>> = BTreeMap::new();
        for (cgroup, name, path) in pins.links()? {
            let program = CgroupProgram::of_name(&name);
            if program == Some(CgroupProgram::Sender)
                && !cgroups.contains_key(&cgroup)
                && self.has_pended_listeners()?
            {
                continue; // the cgroup is gone, but its senders still send
            }
            let (Some(program), Some(at)) = (program, cgroups.get(&cgroup)) else {
                // The cgroup is gone, so no program runs by this link; or this version has no such program.
                fs::remove_file(&path).map_err(Error::system("remove a stale link"))?;
                continue;
            };
            let mut link = Link::open(&path).map_err(Error::bpf("open a pinned link"))?;
            link.update_prog(self.program(program))
                .map_err(Error::bpf("replace the program of a pinned link"))?;
            found.entry(at.clone()).or_default().insert(program, link);
        }
        for (path, mut links) in found {
            for set in ProgramSet::ALL {
                self.resume_set(set, &path, &mut links)?;
            }
        }
        Ok(())
    }

    /// Resets what services held whose proxies ended while no engine ran.
    fn reset_left(&self) -> Result<(), Error> {
        for &number in self.services.keys() {
            if self
                .read_service(number)?
                .is_some_and(|value| value.pended_listeners == 0)
            {
                self.reset_held(number, u64::MAX)?;
            }
        }
        Ok(())
    }

    /// Whether any service has listeners that pend connects, and so a proxy that may have senders.
    fn has_pended_listeners(&self) -> Result<bool, Error> {
        for number in 1..kernel::SERVICES_MAX as u32 {
            if self
                .read_service(number)?
                .is_some_and(|value| value.pended_listeners > 0)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Resumes a set of programs at a cgroup, if it is attached there. If an engine was killed while it
    /// attached the set, some links are missing, and are made now.
    fn resume_set(
        &mut self,
        set: ProgramSet,
        path: &Path,
        found: &mut BTreeMap<CgroupProgram, Link>,
    ) -> Result<(), Error> {
        if !set.programs().any(|program| found.contains_key(&program)) {
            return Ok(());
        }
        let cgroup = Cgroup::at(path)?;
        let links = set.programs().map(|program| match found.remove(&program) {
            Some(link) => Ok(link),
            None => self.attach_program(program, &cgroup),
        });
        let links = links.collect::<Result<_, Error>>()?;
        self.attachments.push(Attachment {
            set,
            path: path.to_owned(),
            links,
        });
        Ok(())
    }

    fn resume_services(&mut self) -> Result<(), Error> {
        for number in 1..kernel::SERVICES_MAX as u32 {
            if let Some(value) = self.read_service(number)?
                && value.name[0] != 0
            {
                self.services
                    .insert(number, ServiceSpec::from_kernel(&value));
                self.last_number = number;
            }
        }
        Ok(())
    }
}

/// Whether a map is pinned. The constants are not, since each engine writes its own; nor are the scratch
/// buffers, which hold nothing between two runs of a program and change from version to version.
fn is_pinned(map: &str) -> bool {
    !map.ends_with("rodata") && map != "sidetrack_scratch_buffers"
}

/// Random bytes from the kernel.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::system("get random bytes")(error.into()))?;
    Ok(bytes)
}
