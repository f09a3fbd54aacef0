//! The lines of an image.

use sidetrack_abi::kernel;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::Layer;
use crate::object::Uuid;
use crate::test::{Test, TestKind};

/// One line, of [`kernel::LINE_SIZE`] bytes.
pub(crate) type Line = [u8; kernel::LINE_SIZE];

/// A policy as the kernel reads it: the lines of the kernel's map, from line 0 on.
#[derive(Clone, Debug)]
pub struct Image {
    lines: Vec<Line>,
    head: kernel::Policy,
}

/// Where a policy comes from: a commit to a store of the daemon. The default stands for no store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicySource {
    /// Id of the store.
    pub store: Uuid,
    /// Number of the commit; each commit to the store increments it.
    pub commit: u64,
}

impl Image {
    /// An image with empty lines for the head, the layers, the services' places and the filters.
    pub(crate) fn new(generation: u32, filters: usize) -> Self {
        let first = kernel::FILTER_LINE as usize;
        Self {
            lines: vec![[0; kernel::LINE_SIZE]; first + filters],
            head: kernel::Policy {
                generation,
                filters: filters as u32,
                ..kernel::Policy::new_zeroed()
            },
        }
    }

    /// All lines, in order.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Number of filters.
    pub fn filters(&self) -> u32 {
        self.head.filters
    }

    /// Set of the layers with filters: bit n is set if layer n has any.
    pub fn layers(&self) -> u32 {
        self.head.layers
    }

    /// Sets the source of the policy, which is in the head and which the kernel does not use.
    pub fn set_source(&mut self, source: PolicySource) {
        self.head.store = source.store.into_bytes();
        self.head.commit = source.commit;
        let head = self.head.clone();
        self.put(0, &head);
    }

    pub(crate) fn set_filter(&mut self, rank: usize, filter: &kernel::Filter) {
        self.put(kernel::FILTER_LINE + rank as u32, filter);
    }

    pub(crate) fn set_layer(&mut self, layer: Layer, value: &kernel::Layer) {
        self.head.layers |= 1 << layer.index();
        self.put(kernel::LAYER_LINE + layer.index() as u32, value);
    }

    /// Sets a service's place at the connect redirect layer of a family: 1 + the rank of its last
    /// filter.
    pub(crate) fn set_place(&mut self, v6: bool, service: u16, place: u32) {
        let index = usize::from(v6) * kernel::SERVICES_MAX + usize::from(service);
        let per_line = kernel::LINE_SIZE / size_of::<u32>();
        let line = kernel::PLACE_LINE as usize + index / per_line;
        let at = index % per_line * size_of::<u32>();
        self.lines[line][at..at + size_of::<u32>()].copy_from_slice(&place.to_ne_bytes());
    }

    /// Adds a filter's conditions. The one that is tested first is stored in the filter's own line,
    /// each of the others in a line of the image.
    pub(crate) fn set_conditions(
        &mut self,
        filter: &mut kernel::Filter,
        tests: &[(bool, Test)],
        first_tested: Option<usize>,
    ) {
        let first = self.lines.len() as u32;
        for (index, (last, test)) in tests.iter().enumerate() {
            let condition = lower_test(*last, test);
            if first_tested == Some(index) {
                filter.has_first = 1;
                filter.field = condition.field;
                filter.kind = condition.kind;
                filter.negate = condition.negate;
                filter.low = condition.low;
                filter.high = condition.high;
                continue;
            }
            self.add(&condition);
            filter.condition_count += 1;
        }
        if filter.condition_count > 0 {
            filter.conditions = first;
        }
    }

    /// Adds a line and returns its number.
    pub(crate) fn add<T: IntoBytes + Immutable>(&mut self, value: &T) -> u32 {
        let number = self.reserve(1);
        self.put(number, value);
        number
    }

    /// Adds empty lines and returns the number of the first.
    pub(crate) fn reserve(&mut self, lines: usize) -> u32 {
        let number = self.lines.len() as u32;
        self.lines
            .resize(self.lines.len() + lines, [0; kernel::LINE_SIZE]);
        number
    }

    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, number: u32, value: &T) {
        self.lines[number as usize].copy_from_slice(value.as_bytes());
    }

    pub(crate) fn get<T: FromBytes + KnownLayout + Immutable>(&self, number: u32) -> T {
        T::read_from_bytes(&self.lines[number as usize]).expect("a line is as long as its types")
    }

    pub(crate) fn finish(mut self) -> Self {
        self.head.lines = self.lines.len() as u32;
        let head = self.head.clone();
        self.put(0, &head);
        self
    }
}

fn lower_test(last: bool, test: &Test) -> kernel::Condition {
    let (kind, low, high) = match test.kind {
        TestKind::Masked { value, mask } => (kernel::TEST_MASKED, value, mask),
        TestKind::Between { low, high } => (kernel::TEST_BETWEEN, low, high),
    };
    kernel::Condition {
        low: halves(low),
        high: halves(high),
        field: test.field,
        kind,
        negate: u8::from(test.negate),
        last_of_field: u8::from(last),
        ..kernel::Condition::new_zeroed()
    }
}

/// A number as two halves, the upper 64 bits first.
pub(crate) fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}
