//! Numbers of fixed contexts: the kernel keeps their bytes apart from filters and flows.

use std::collections::{BTreeSet, HashMap};

use libbpf_rs::{MapCore, MapFlags};
use sidetrack_abi::kernel;
use zerocopy::{FromBytes, IntoBytes};

use super::flow::has_sockets;
use super::update;
use crate::Error;

/// Entries that one call reads.
const BATCH: u32 = 4096;

/// The contexts that have a number. The same bytes have one number. It is given to others only when
/// there is no other left, and neither the policy in force nor a flow with sockets has it.
#[derive(Default)]
pub(super) struct Contexts {
    numbers: HashMap<Vec<u8>, u32>,
    in_force: BTreeSet<u32>,
}

/// The numbers that a policy has.
pub(super) type Numbers = BTreeSet<u32>;

impl Contexts {
    /// What an earlier engine has left. Which of it is in force is not known, so all of it is.
    pub(super) fn take_up(&mut self, contexts: &impl MapCore) -> Result<(), Error> {
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

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// A policy with these numbers is in force from now on, alone.
    pub(super) fn are_in_force(&mut self, numbers: Numbers) {
        self.in_force = numbers;
    }

    /// The number of these bytes, for a policy that already has the numbers `used`.
    ///
    /// Errors: [`Error::TooManyContexts`], [`Error::Bpf`].
    pub(super) fn number(
        &mut self,
        bytes: &[u8],
        used: &mut Numbers,
        contexts: &impl MapCore,
        flows: &impl MapCore,
    ) -> Result<u32, Error> {
        if let Some(&number) = self.numbers.get(bytes) {
            used.insert(number);
            return Ok(number);
        }
        if self.numbers.len() >= kernel::CONTEXTS_MAX {
            self.release(used, contexts, flows)?;
        }
        let taken: Numbers = self.numbers.values().copied().collect();
        let number = (1..=kernel::CONTEXTS_MAX as u32)
            .find(|number| !taken.contains(number))
            .ok_or(Error::TooManyContexts)?;
        let mut value = kernel::Context {
            length: bytes.len() as u32,
            bytes: [0; kernel::CONTEXT_SIZE_MAX],
        };
        value.bytes[..bytes.len()].copy_from_slice(bytes);
        update(
            contexts,
            &number,
            value.as_bytes(),
            "keep a redirect context",
        )?;
        self.numbers.insert(bytes.to_vec(), number);
        used.insert(number);
        Ok(number)
    }

    /// Takes the numbers back that nobody will ask for again.
    fn release(
        &mut self,
        used: &Numbers,
        contexts: &impl MapCore,
        flows: &impl MapCore,
    ) -> Result<(), Error> {
        let mut asked_for: Numbers = used.union(&self.in_force).copied().collect();
        let entries = flows
            .lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY)
            .map_err(Error::bpf("read the flows"))?;
        asked_for.extend(
            entries
                .filter_map(|(_, bytes)| kernel::FlowEntry::read_from_bytes(&bytes).ok())
                .filter(has_sockets)
                .map(|entry| entry.flow.context_id),
        );
        let idle = |_: &Vec<u8>, number: &mut u32| !asked_for.contains(number);
        for (_, number) in self.numbers.extract_if(idle) {
            contexts
                .delete(number.as_bytes())
                .map_err(Error::bpf("forget a redirect context"))?;
        }
        Ok(())
    }
}
