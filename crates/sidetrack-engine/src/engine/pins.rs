//! The data path pinned to a bpf file system, so that it outlives its process.
//!
//! ```text
//! PINS/identity              who the engine is: its id, the tokens' key, its scope, its limits
//! PINS/maps/NAME             every map that keeps something
//! PINS/links/CGROUP-PROGRAM  every link, by the cgroup's number
//! ```
//!
//! The next engine takes maps and links up, and puts its own programs in the place of those at work,
//! one after another: so a later version takes over without a gap.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, Skel};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, MapType};
use sidetrack_abi::kernel;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::attachment::{Attachment, Side};
use super::{Config, Engine};
use crate::skeleton::{OpenSidetrackSkel, SidetrackSkel};
use crate::{Cgroup, Error, ServiceSpec, cgroup, network};

/// Of what is pinned: another version's is not taken up.
const LAYOUT_VERSION: u32 = 4;
/// linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// A folder of pins.
pub(super) struct Pins {
    folder: PathBuf,
}

/// What an engine is, for the one that comes after it.
#[derive(Clone, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct Identity {
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

impl Identity {
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

    /// Checks that it judges this scope.
    pub(super) fn of_scope(self, scope: &Cgroup) -> Result<Self, Error> {
        if self.scope_id == scope.id() {
            return Ok(self);
        }
        Err(Error::Pins {
            path: scope.path().to_owned(),
            why: "it judges another cgroup; remove it first, or keep the scope".to_owned(),
        })
    }
}

impl Pins {
    /// A folder, made if it is missing, on a bpf file system.
    pub(super) fn at(folder: PathBuf) -> Result<Self, Error> {
        for part in ["", "maps", "links"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(Error::system("make the folder of the pins"))?;
        }
        let kind = rustix::fs::statfs(&folder)
            .map_err(|error| Error::system("look at the folder of the pins")(error.into()))?;
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

    /// Who the engine was that left pins here; none if nobody did, or not to its end.
    pub(super) fn identity(&self) -> Result<Option<Identity>, Error> {
        let path = self.folder.join("identity");
        if !path.exists() {
            remove_files(&self.folder)?; // of an engine that ended while it pinned
            return Ok(None);
        }
        let map = MapHandle::from_pinned_path(&path).map_err(Error::bpf("open the pins"))?;
        let bytes = map
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("open the pins"))?;
        let found = bytes.and_then(|bytes| Identity::read_from_bytes(&bytes).ok());
        match found {
            Some(found) if found.layout == LAYOUT_VERSION && found.abi == kernel::ABI_VERSION => {
                Ok(Some(found))
            }
            _ => Err(Error::Pins {
                path: self.folder.clone(),
                why: "it is of another version; `sidetrack uninstall` removes it".to_owned(),
            }),
        }
    }

    /// Makes the skeleton take the pinned maps instead of new ones.
    pub(super) fn reuse_maps(&self, skeleton: &mut OpenSidetrackSkel<'_>) -> Result<(), Error> {
        for mut map in skeleton.open_object_mut().maps_mut() {
            if !is_kept(&map.name().to_string_lossy()) {
                continue;
            }
            let path = self.map_path(&map.name().to_string_lossy());
            let wanted = (map.map_type(), map.key_size(), map.value_size());
            let reused = map.reuse_pinned_map(&path);
            if reused.is_err() || wanted != (map.map_type(), map.key_size(), map.value_size()) {
                return Err(Error::Pins {
                    path,
                    why: "the map is not as this version has it; `sidetrack uninstall` removes it"
                        .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Pins all maps, and at last who the engine is: without that nothing is taken up.
    pub(super) fn pin_maps(
        &self,
        skeleton: &mut SidetrackSkel<'_>,
        identity: &Identity,
    ) -> Result<(), Error> {
        for mut map in skeleton.object_mut().maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if !is_kept(&name) {
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
            size_of::<Identity>() as u32,
            1,
            &options,
        )
        .map_err(Error::bpf("pin who the engine is"))?;
        map.update(&0_u32.to_ne_bytes(), identity.as_bytes(), MapFlags::ANY)
            .and_then(|()| map.pin(self.folder.join("identity")))
            .map_err(Error::bpf("pin who the engine is"))
    }

    pub(super) fn pin_link(
        &self,
        link: &mut Link,
        cgroup: u64,
        program: &str,
    ) -> Result<(), Error> {
        let path = self
            .folder
            .join("links")
            .join(format!("{cgroup}-{program}"));
        // Of a cgroup that was removed, and whose number was given anew.
        let _ = fs::remove_file(&path);
        link.pin(path).map_err(Error::bpf("pin a link"))
    }

    fn map_path(&self, name: &str) -> PathBuf {
        // A bpf file system allows no dots.
        self.folder.join("maps").join(name.replace('.', "_"))
    }

    /// The pinned links: cgroup, program, where.
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

/// Whether a data path is pinned at a folder, at work or between two engines.
pub fn pins_at(folder: &Path) -> bool {
    folder.join("identity").exists()
}

/// The programs that a pinned data path has attached, by their numbers.
///
/// Errors: [`Error::System`], [`Error::Bpf`].
pub fn pinned_programs(folder: &Path) -> Result<Vec<u32>, Error> {
    let pins = Pins {
        folder: folder.to_owned(),
    };
    let programs = pins.links()?.into_iter().map(|(_, _, path)| {
        let link = Link::open(&path).map_err(Error::bpf("open a pinned link"))?;
        let about = link.info().map_err(Error::bpf("ask about a pinned link"))?;
        Ok(about.prog_id)
    });
    programs.collect()
}

/// Removes a pinned data path: programs run until their links are gone, then all of it goes, and its
/// folder.
///
/// Errors: [`Error::System`]. A folder that is not there is as good as removed.
pub fn remove_pins(folder: &Path) -> Result<(), Error> {
    let pins = Pins {
        folder: folder.to_owned(),
    };
    if let Ok(Some(identity)) = pins.identity() {
        network::remove_pinned(identity.engine_id)
            .map_err(Error::system("take back the addresses for datagrams"))?;
    }
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

fn remove_files(folder: &Path) -> Result<(), Error> {
    for part in ["links", "maps", ""] {
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
    Ok(())
}

impl Engine {
    /// Takes up what is pinned: the links, each with this engine's program from now on; the services,
    /// the contexts, the generation.
    pub(super) fn take_up(&mut self) -> Result<(), Error> {
        self.take_up_links()?;
        self.take_up_services()?;
        self.collect_owners()?; // of an engine that ended while it took a service away
        self.contexts
            .take_up(&self.skeleton.maps.sidetrack_contexts)?;
        self.generation = self.generation_in_force()?;
        Ok(())
    }

    fn take_up_links(&mut self) -> Result<(), Error> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let cgroups = cgroup::by_id()?;
        let mut found: BTreeMap<PathBuf, BTreeMap<String, Link>> = BTreeMap::new();
        for (cgroup, name, path) in pins.links()? {
            let is_ours = Side::ALL
                .into_iter()
                .any(|side| side.programs().contains(&name.as_str()));
            let (true, Some(at)) = (is_ours, cgroups.get(&cgroup)) else {
                // The cgroup is gone, and its programs with it.
                fs::remove_file(&path).map_err(Error::system("remove a stale link"))?;
                continue;
            };
            let mut link = Link::open(&path).map_err(Error::bpf("take up a link"))?;
            link.update_prog(self.program(&name))
                .map_err(Error::bpf("put a program in its predecessor's place"))?;
            found.entry(at.clone()).or_default().insert(name, link);
        }
        for (path, mut links) in found {
            for side in Side::ALL {
                self.take_up_side(side, &path, &mut links)?;
            }
        }
        Ok(())
    }

    /// Takes up a side at a cgroup, if it is there. An engine that was killed while it attached it left
    /// a part: the rest is attached now.
    fn take_up_side(
        &mut self,
        side: Side,
        path: &Path,
        found: &mut BTreeMap<String, Link>,
    ) -> Result<(), Error> {
        if !side.programs().iter().any(|name| found.contains_key(*name)) {
            return Ok(());
        }
        let cgroup = Cgroup::at(path)?;
        let links = side
            .programs()
            .iter()
            .map(|name| match found.remove(*name) {
                Some(link) => Ok(link),
                None => self.attach_program(name, &cgroup),
            });
        let links = links.collect::<Result<_, Error>>()?;
        self.attachments.push(Attachment {
            side,
            path: path.to_owned(),
            links,
        });
        Ok(())
    }

    fn take_up_services(&mut self) -> Result<(), Error> {
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

    /// The generation of the policy that the kernel judges by; 0 if there is none.
    fn generation_in_force(&self) -> Result<u32, Error> {
        let Some(map) = self.policy_in_force()? else {
            return Ok(0);
        };
        let head = map
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read the policy in force"))?;
        let head = head.and_then(|head| kernel::Policy::read_from_bytes(&head).ok());
        Ok(head.map_or(0, |head| head.generation))
    }
}

/// Not the constants, which each engine writes anew, nor the desks, on which nothing lies between two
/// hooks: they change from version to version.
fn is_kept(map: &str) -> bool {
    !map.ends_with("rodata") && map != "sidetrack_scratch_buffers"
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::system("get random bytes")(error.into()))?;
    Ok(bytes)
}
