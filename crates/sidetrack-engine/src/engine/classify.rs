//! Classifies made-up connections with the kernel's own matcher.

use libbpf_rs::ProgramInput;
use sidetrack_abi::kernel;
use sidetrack_policy::field_values::FieldValues;
use sidetrack_policy::reference::ServiceStates;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Engine;
use crate::Error;

/// The result of a classification. Ranks are those of [`sidetrack_policy::rank::order`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Generation of the policy that was used.
    pub generation: u32,
    /// The verdict is a block.
    pub blocked: bool,
    /// The verdict is hard: lower sublayers cannot change it.
    pub hard: bool,
    /// A veto overruled a hard permit.
    pub vetoed: bool,
    /// Blocked because the service of a redirect is absent.
    pub absent: bool,
    /// Rank of the filter that decided; `None` if none matched.
    pub decided_by: Option<u32>,
    /// Rank of the filter that redirects; `None` if none does.
    pub redirect: Option<u32>,
}

impl Engine {
    /// Classifies field values by the policy in force.
    ///
    /// With `states`, exactly the services that it names are absent. Without, those that have no
    /// listener are.
    ///
    /// Errors: [`Error::Bpf`]; [`Error::System`] if there is no policy, the search takes too many steps, or no scratch
    /// buffer was free.
    pub fn classify(
        &self,
        field_values: &FieldValues,
        states: Option<&ServiceStates>,
    ) -> Result<Classification, Error> {
        let mut request = kernel::ClassifyRequest::new_zeroed();
        request.layer = field_values.layer.index() as u32;
        request.values = field_values.values();
        if let Some(states) = states {
            request.legacy_min_rank = match states.own_traffic {
                true => kernel::NO_RANK, // all redirects are skipped
                false => states.legacy_min_rank,
            };
            request.seen = bits(&states.seen);
            request.absent = bits(&states.absent);
            request.absent_given = 1;
        }
        if field_values.program.elevated {
            request.flags |= kernel::CLASSIFY_ELEVATED;
        }
        let mut bytes = request.as_bytes().to_vec();
        self.skeleton
            .progs
            .sidetrack_classify
            .test_run(ProgramInput {
                context_in: Some(&mut bytes),
                ..ProgramInput::default()
            })
            .map_err(Error::bpf("classify in the kernel"))?;
        let result = kernel::ClassifyRequest::read_from_bytes(&bytes)
            .expect("the program does not change the length");
        if result.completed == 0 {
            return Err(Error::system("classify in the kernel")(
                std::io::Error::other(
                    "there is no policy, the search takes too many steps, or no scratch buffer was free",
                ),
            ));
        }
        let rank = |rank| (rank != kernel::NO_RANK).then_some(rank);
        Ok(Classification {
            generation: result.generation,
            blocked: result.blocked != 0,
            hard: result.hard != 0,
            vetoed: result.vetoed != 0,
            absent: result.absent_blocked != 0,
            decided_by: rank(result.decided_by),
            redirect: rank(result.redirect),
        })
    }
}

/// A set of numbers below 256, with a bit for each.
fn bits(numbers: &[u16]) -> [u64; 4] {
    let mut bits = [0; 4];
    for &number in numbers {
        bits[usize::from(number) / 64 % 4] |= 1 << (number % 64);
    }
    bits
}
