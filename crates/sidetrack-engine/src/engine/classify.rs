//! The kernel asked by hand: what the policy in force says to a connection that is made up.

use libbpf_rs::ProgramInput;
use sidetrack_abi::kernel;
use sidetrack_policy::field_values::FieldValues;
use sidetrack_policy::reference::Situation;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Engine;
use crate::Error;

/// What the kernel answers: ranks are those of [`sidetrack_policy::rule::order`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// Of the policy that answered.
    pub generation: u32,
    /// Not permitted.
    pub blocked: bool,
    /// Lower sublayers could not change it.
    pub hard: bool,
    /// A hard permit was overruled.
    pub vetoed: bool,
    /// Blocked because the service is absent.
    pub absent: bool,
    /// Who decided; none: nothing matched.
    pub decided_by: Option<u32>,
    /// Who redirects.
    pub redirect: Option<u32>,
}

impl Engine {
    /// Asks the kernel's own matcher. With a situation, the services in it are absent and no others;
    /// without one, those that have no listener are.
    ///
    /// Errors: [`Error::Bpf`]; there must be a policy.
    pub fn classify(
        &self,
        field_values: &FieldValues,
        situation: Option<&Situation>,
    ) -> Result<Classification, Error> {
        let mut request = kernel::ClassifyRequest::new_zeroed();
        request.layer = field_values.layer.index() as u32;
        request.values = field_values.values();
        if let Some(situation) = situation {
            request.legacy_min_rank = situation.legacy_min_rank;
            request.seen = bits(&situation.seen);
            request.absent = bits(&situation.absent);
            request.absent_given = 1;
        }
        let mut bytes = request.as_bytes().to_vec();
        self.skeleton
            .progs
            .sidetrack_classify
            .test_run(ProgramInput {
                context_in: Some(&mut bytes),
                ..ProgramInput::default()
            })
            .map_err(Error::bpf("ask the kernel's matcher"))?;
        let answer =
            kernel::ClassifyRequest::read_from_bytes(&bytes).expect("it is as long as it was");
        if answer.completed == 0 {
            return Err(Error::system("ask the kernel's matcher")(
                std::io::Error::other("there is no policy, or it takes too many steps"),
            ));
        }
        let rank = |rank| (rank != kernel::NO_RANK).then_some(rank);
        Ok(Classification {
            generation: answer.generation,
            blocked: answer.blocked != 0,
            hard: answer.hard != 0,
            vetoed: answer.vetoed != 0,
            absent: answer.absent_blocked != 0,
            decided_by: rank(answer.decided_by),
            redirect: rank(answer.redirect),
        })
    }
}

/// A set of numbers below 256, one bit each.
fn bits(numbers: &[u16]) -> [u64; 4] {
    let mut bits = [0; 4];
    for &number in numbers {
        bits[usize::from(number) / 64 % 4] |= 1 << (number % 64);
    }
    bits
}
