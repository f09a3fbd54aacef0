//! Whether the traffic that was measured took the path of its contestant: the counters of the
//! redirector have to show exactly that.

use anyhow::{Result, ensure};
use sidetrack_engine::ConnectMode;
use sidetrack_engine::counter::Counter::{
    self, Completed, HandedOver, Linked, Pended, Queried, Redirected,
};

use super::contestant::Contestant;
use super::held;
use super::setup::RelaySetup;
use crate::netfilter;

impl RelaySetup {
    /// Fails unless the counters show exactly `made` connections on this path, and the origin
    /// accepted as many.
    pub(crate) fn check(&self, made: u64, accepted: u64) -> Result<()> {
        expect("the origin", accepted, made)?;
        if self.contestant.is_bystander() {
            return self.check_held();
        }
        if self.contestant == Contestant::HaproxyBehind {
            self.expect_counters(&[(Redirected, made), (HandedOver, made)])?;
            let queried = self.counter(Queried)?;
            ensure!(
                queried >= made,
                "HAProxy queried only {queried} of {made} connections"
            );
        } else if self.contestant.is_sidetrack() {
            let flows = made * u64::from(self.contestant.services());
            self.expect_counters(&[(Redirected, flows), (HandedOver, flows), (Linked, flows)])?;
            self.expect_counters(&match self.contestant.connect_mode() {
                ConnectMode::Accepted => [(Queried, flows), (Pended, 0)],
                ConnectMode::Pended => [(Completed, flows), (Pended, flows)],
            })?;
        } else if self.contestant.has_redirector() {
            expect("the rule's counter", netfilter::redirected()?, made)?;
        }
        Ok(())
    }

    /// Fails unless the counters show exactly `made` connects that the origin refused, on this path.
    pub(crate) fn check_refused(&self, made: u64) -> Result<()> {
        if self.engine.is_none() {
            return Ok(()); // nothing could divert them
        }
        let flows = made * u64::from(self.contestant.services());
        let (handed_over, pended) = match self.contestant.connect_mode() {
            ConnectMode::Accepted => (flows, 0),
            ConnectMode::Pended => (0, flows),
        };
        self.expect_counters(&[
            (Redirected, flows),
            (HandedOver, handed_over),
            (Pended, pended),
            (Completed, 0),
        ])
    }

    /// Fails unless the counters show exactly `made` UDP flows on this path.
    pub(crate) fn check_flows(&self, made: u64) -> Result<()> {
        let counted = match &self.engine {
            Some(_) => self.counter(Redirected)?,
            None if !self.contestant.has_redirector() => return Ok(()), // nothing could divert them
            None => netfilter::redirected()?,
        };
        expect("the redirector", counted, made)
    }

    /// Fails unless the proxies saw what they hold for others, and nothing else.
    fn check_held(&self) -> Result<()> {
        let pended = match self.contestant.connect_mode() {
            ConnectMode::Accepted => 0,
            ConnectMode::Pended => held::flows(),
        };
        self.expect_counters(&[
            (Redirected, held::flows()),
            (Pended, pended),
            (Completed, 0),
        ])
    }

    fn expect_counters(&self, expected: &[(Counter, u64)]) -> Result<()> {
        for (counter, value) in expected {
            expect(&format!("{counter:?}"), self.counter(*counter)?, *value)?;
        }
        Ok(())
    }

    fn counter(&self, counter: Counter) -> Result<u64> {
        match &self.engine {
            Some(engine) => Ok(engine.counters()?.value(counter)),
            None => Ok(0),
        }
    }
}

fn expect(what: &str, counted: u64, expected: u64) -> Result<()> {
    ensure!(
        counted == expected,
        "{what} says {counted}, not {expected}: this round measured something else"
    );
    Ok(())
}
