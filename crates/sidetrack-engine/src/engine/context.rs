//! Numbers of fixed contexts. The kernel keeps the bytes of a context in a map; filters and flows contain
//! its number only.

use std::collections::{BTreeSet, HashMap};

use libbpf_rs::{MapCore, MapFlags};
use sidetrack_abi::kernel;
use sidetrack_policy::Code;
use zerocopy::{FromBytes, IntoBytes};

use super::flow::has_sockets;
use super::update;
use crate::Error;

/// Number of entries that one call reads.
const BATCH: u32 = 4096;
/// Filters that are restricted to one user share the numbers up to this one, so they leave the others to
/// root, also while open flows use earlier contexts.
const RESTRICTED_MAX: usize = kernel::CONTEXTS_MAX / 2;

/// The contexts that have a number. Equal bytes have the same number. A number is reused only if no other is
/// free, and neither the policy in force nor a flow with sockets uses it.
#[derive(Default)]
pub(super) struct Contexts {
    numbers: HashMap<Vec<u8>, u32>,
    in_force: BTreeSet<u32>,
}

/// The numbers of the contexts of a policy.
pub(super) type ContextNumbers = BTreeSet<u32>;

impl Contexts {
    /// Reads the contexts that an earlier engine left. It is unknown which of them are in force, so all count
    /// as such.
    pub(super) fn resume(&mut self, contexts: &impl MapCore) -> Result<(), Error> {
        for key in contexts.keys() {
            let value = contexts
                .lookup(&key, MapFlags::ANY)
                .map_err(Error::bpf("read a redirect context"))?;
            let number = u32::read_from_bytes(&key).unwrap_or(0);
            if let Some(value) = value.and_then(|v| kernel::Context::read_from_bytes(&v).ok()) {
                let length = (value.length as usize).min(value.bytes.len());
                self.numbers.insert(value.bytes[..length].to_vec(), number);
                self.in_force.insert(number);
            }
        }
        Ok(())
    }

    /// Number of contexts.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The policy in force is now one with these numbers.
    pub(super) fn set_in_force(&mut self, numbers: ContextNumbers) {
        self.in_force = numbers;
    }

    /// Returns the number of a context, and adds it to `used`: the numbers of the policy being compiled. The
    /// flag says whether a filter that is restricted to one user sets it.
    ///
    /// Errors: [`Error::TooManyContexts`]; [`Error::Policy`], if the context is too long; [`Error::Bpf`].
    pub(super) fn number(
        &mut self,
        (bytes, restricted): (&[u8], bool),
        used: &mut ContextNumbers,
        contexts: &impl MapCore,
        flows: &impl MapCore,
    ) -> Result<u32, Error> {
        if let Some(&number) = self.numbers.get(bytes) {
            used.insert(number);
            return Ok(number);
        }
        if bytes.len() > kernel::CONTEXT_SIZE_MAX {
            let message = format!("a redirect context of {} bytes is too long", bytes.len());
            return Err(sidetrack_policy::Error::new(Code::OutOfBounds, message).into());
        }
        let number = match self.unused(restricted) {
            Some(number) => number,
            None => {
                self.release(used, contexts, flows)?;
                self.unused(restricted).ok_or(Error::TooManyContexts)?
            }
        };
        let mut value = kernel::Context {
            length: bytes.len() as u32,
            bytes: [0; kernel::CONTEXT_SIZE_MAX],
        };
        value.bytes[..bytes.len()].copy_from_slice(bytes);
        update(
            contexts,
            &number,
            value.as_bytes(),
            "add a redirect context",
        )?;
        self.numbers.insert(bytes.to_vec(), number);
        used.insert(number);
        Ok(number)
    }

    /// Returns a number that is not used. Restricted filters have the lower ones, and the others take these
    /// last.
    fn unused(&self, restricted: bool) -> Option<u32> {
        let taken: ContextNumbers = self.numbers.values().copied().collect();
        let is_free = |number: &u32| !taken.contains(number);
        match restricted {
            true => (1..=RESTRICTED_MAX as u32).find(is_free),
            false => (1..=kernel::CONTEXTS_MAX as u32).rev().find(is_free),
        }
    }

    /// Frees the numbers that neither a policy nor a flow with sockets uses.
    fn release(
        &mut self,
        used: &ContextNumbers,
        contexts: &impl MapCore,
        flows: &impl MapCore,
    ) -> Result<(), Error> {
        let mut in_use: ContextNumbers = used.union(&self.in_force).copied().collect();
        let entries = flows
            .lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY)
            .map_err(Error::bpf("read the flows"))?;
        in_use.extend(
            entries
                .filter_map(|(_, bytes)| kernel::FlowEntry::read_from_bytes(&bytes).ok())
                .filter(has_sockets)
                .map(|entry| entry.flow.context_id),
        );
        let idle = |_: &Vec<u8>, number: &mut u32| !in_use.contains(number);
        for (_, number) in self.numbers.extract_if(idle) {
            contexts
                .delete(number.as_bytes())
                .map_err(Error::bpf("delete a redirect context"))?;
        }
        Ok(())
    }
}
