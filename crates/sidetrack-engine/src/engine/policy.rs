//! Puts a policy into force: compiles it, writes the image into a new map, and replaces the old map by it.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use sidetrack_abi::kernel;
use sidetrack_policy::compile::{Image, PolicySource, compile};
use sidetrack_policy::rank::order;
use sidetrack_policy::{Code, Filter, Identity, Lifetime, Sublayer, Uuid};
use zerocopy::{FromBytes, IntoBytes};

use super::context::ContextNumbers;
use super::{Engine, update};
use crate::path::Paths;
use crate::{Error, ServiceSpec};

/// Number of lines that one call writes.
const BATCH_LINES: usize = 16_384;

/// What a commit put into force.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The generation of the policy.
    pub generation: u32,
    /// Number of filters, without disabled ones.
    pub filters: u32,
    /// Size of its image in the kernel, in bytes.
    pub bytes: usize,
    /// How long the compiler took.
    pub compiled_in: Duration,
    /// How long it took to write the image and replace the old one.
    pub written_in: Duration,
}

/// The policy that the kernel has in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyInForce {
    /// The generation of the policy.
    pub generation: u32,
    /// Number of filters, without disabled ones.
    pub filters: u32,
    /// The source that the engine which committed it had been given: see [`Engine::set_source`].
    pub source: PolicySource,
}

impl Engine {
    /// Sets the source of the policies that are committed from now on. The kernel keeps it with the
    /// policy, and [`Engine::policy_in_force`] returns it, also to a later engine.
    pub fn set_source(&mut self, source: PolicySource) {
        self.source = source;
    }

    /// Puts filters into force atomically: each connection is classified by the old policy or by the new one.
    ///
    /// Each filter must have passed [`Filter::check`], and its service must be one of the engine's, by key.
    /// Errors leave the old policy in force: [`Error::Policy`], [`Error::TooManyContexts`], [`Error::Bpf`].
    pub fn commit<'a>(
        &mut self,
        filters: impl IntoIterator<Item = &'a Filter>,
        sublayers: impl IntoIterator<Item = &'a Sublayer>,
    ) -> Result<Committed, Error> {
        let started = Instant::now();
        let generation = self.generation.wrapping_add(1).max(1);
        let (mut image, contexts) = self.compile(generation, filters, sublayers)?;
        image.set_source(self.source);
        let compiled_in = started.elapsed();
        self.install(&image)?;
        self.contexts.set_in_force(contexts);
        self.generation = generation;
        Ok(Committed {
            generation,
            filters: image.filters(),
            bytes: image.lines().len() * kernel::LINE_SIZE,
            compiled_in,
            written_in: started.elapsed() - compiled_in,
        })
    }

    /// Whether the policy in force consists of these filters, whatever its source: compiles them and
    /// compares all lines.
    ///
    /// Errors: as [`Engine::commit`].
    pub fn agrees<'a>(
        &mut self,
        filters: impl IntoIterator<Item = &'a Filter>,
        sublayers: impl IntoIterator<Item = &'a Sublayer>,
    ) -> Result<bool, Error> {
        let (mut image, contexts) = self.compile(self.generation, filters, sublayers)?;
        let Some(map) = self.policy_map()? else {
            return Ok(false);
        };
        let Some(in_force) = describe(&map)? else {
            return Ok(false);
        };
        image.set_source(in_force.source);
        if map.max_entries() as usize != image.lines().len() {
            return Ok(false);
        }
        let mut lines = map
            .lookup_batch(BATCH_LINES as u32, MapFlags::ANY, MapFlags::ANY)
            .map_err(Error::bpf("read the policy in force"))?;
        let agrees = lines.all(|(number, line)| {
            let number = u32::read_from_bytes(&number).unwrap_or(u32::MAX);
            image
                .lines()
                .get(number as usize)
                .is_some_and(|compiled| compiled[..] == line[..])
        });
        if agrees {
            self.contexts.set_in_force(contexts);
        }
        Ok(agrees)
    }

    /// Size of the policy in force in the kernel, in bytes; 0 if there is none.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn policy_bytes(&self) -> Result<usize, Error> {
        let map = self.policy_map()?;
        Ok(map.map_or(0, |map| map.max_entries() as usize * kernel::LINE_SIZE))
    }

    /// The policy in force; `None` if there is none.
    ///
    /// Errors: [`Error::Bpf`].
    pub fn policy_in_force(&self) -> Result<Option<PolicyInForce>, Error> {
        match self.policy_map()? {
            Some(map) => describe(&map),
            None => Ok(None),
        }
    }

    /// The map of the policy in force; `None` if there is none.
    fn policy_map(&self) -> Result<Option<MapHandle>, Error> {
        let id = self
            .skeleton
            .maps
            .sidetrack_policies
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(Error::bpf("read the policy in force"))?;
        id.and_then(|id| u32::read_from_bytes(&id).ok())
            .map(|id| MapHandle::from_map_id(id).map_err(Error::bpf("read the policy in force")))
            .transpose()
    }

    fn compile<'a>(
        &mut self,
        generation: u32,
        filters: impl IntoIterator<Item = &'a Filter>,
        sublayers: impl IntoIterator<Item = &'a Sublayer>,
    ) -> Result<(Image, ContextNumbers), Error> {
        let services = self.services.iter();
        let services = services.filter(|(number, _)| !self.retired.contains(number));
        let services: Vec<_> = services.map(to_policy_service).collect();
        let services = services.iter().map(|(number, service)| (*number, service));
        // Collected, so that the borrows need not live as long as 'a.
        let filters: Vec<&Filter> = filters.into_iter().collect();
        let sublayers: Vec<&Sublayer> = sublayers.into_iter().collect();
        let rules = order(filters, sublayers, services)?;
        if rules.len() > kernel::FILTERS_MAX {
            return Err(Error::Policy(sidetrack_policy::Error::new(
                Code::OutOfBounds,
                format!(
                    "a policy can have at most {} filters; this one has {}",
                    kernel::FILTERS_MAX,
                    rules.len()
                ),
            )));
        }
        let (contexts, maps) = (&mut self.contexts, &self.skeleton.maps);
        let mut numbers = ContextNumbers::new();
        let mut failure = None;
        let image = compile(
            generation,
            &rules,
            &Paths::new()?,
            &mut |bytes, restricted| {
                let number = contexts.number(
                    (bytes, restricted),
                    &mut numbers,
                    &maps.sidetrack_contexts,
                    &maps.sidetrack_flows,
                );
                number.map_err(|error| {
                    let policy_error =
                        sidetrack_policy::Error::new(Code::OutOfBounds, error.to_string());
                    failure = Some(error);
                    policy_error
                })
            },
        );
        match (image, failure) {
            (Ok(image), _) => Ok((image, numbers)),
            (Err(_), Some(failure)) => Err(failure),
            (Err(error), None) => Err(Error::Policy(error)),
        }
    }

    fn install(&mut self, image: &Image) -> Result<(), Error> {
        self.attach_layers(image.layers())?;
        let inner = new_policy_map(image.lines().len() as u32)?;
        let numbers: Vec<u32> = (0..image.lines().len() as u32).collect();
        for (numbers, lines) in numbers
            .chunks(BATCH_LINES)
            .zip(image.lines().chunks(BATCH_LINES))
        {
            inner
                .update_batch(
                    numbers.as_bytes(),
                    lines.as_bytes(),
                    numbers.len() as u32,
                    MapFlags::ANY,
                    MapFlags::ANY,
                )
                .map_err(Error::bpf("write the policy"))?;
        }
        let inner = inner.as_fd().as_raw_fd();
        update(
            &self.skeleton.maps.sidetrack_policies,
            &0_u32,
            inner.as_bytes(),
            "put the policy into force",
        )?;
        self.detach_layers(image.layers());
        Ok(())
    }
}

/// A service in the form that the compiler needs.
fn to_policy_service((number, spec): (&u32, &ServiceSpec)) -> (u16, sidetrack_policy::Service) {
    let service = sidetrack_policy::Service {
        identity: Identity {
            key: spec.key,
            name: spec.name.clone(),
            description: String::new(),
        },
        lifetime: Lifetime::Static,
        provider: None,
        records: spec.records,
        records_bound: spec.records_bound,
        connect: spec.connect,
        on_absent: spec.on_absent,
        context: spec.context.clone(),
    };
    (*number as u16, service)
}

/// Reads the first line of a policy.
fn describe(map: &MapHandle) -> Result<Option<PolicyInForce>, Error> {
    let head = map
        .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
        .map_err(Error::bpf("read the policy in force"))?;
    let head = head.and_then(|head| kernel::Policy::read_from_bytes(&head).ok());
    Ok(head.map(|head| PolicyInForce {
        generation: head.generation,
        filters: head.filters,
        source: PolicySource {
            store: Uuid::from_bytes(head.store),
            commit: head.commit,
        },
    }))
}

fn new_policy_map(lines: u32) -> Result<MapHandle, Error> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_INNER_MAP,
        ..Default::default()
    };
    MapHandle::create(
        MapType::Array,
        Some("sidetrack_policy"),
        size_of::<u32>() as u32,
        kernel::LINE_SIZE as u32,
        lines,
        &options,
    )
    .map_err(Error::bpf("create the map of the policy"))
}
