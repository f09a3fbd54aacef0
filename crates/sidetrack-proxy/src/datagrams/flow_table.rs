//! The UDP flows of an event loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Counts;
use super::answers::AnswerQueue;
use super::inspection::InspectionContext;
use super::source::{ClientDatagram, DatagramSource};
use super::udp_flow::{FlowRegistry, FlowSocket, UdpFlow};
use crate::close_reason::CloseReason;
use crate::names::Names;
use crate::outcome::{Datagrams, Outcome};
use crate::settings::Settings;
use crate::upstream::DatagramUpstream;

/// The number of flows at a time; each takes a descriptor. If a new flow finds no place or no
/// descriptor, the flows that have been silent longest end, one in [`ROOM_SHARE`] of all, so that
/// not every new flow has to search for them.
pub const FLOWS_MAX: usize = 16_384;
/// See [`FLOWS_MAX`].
pub const ROOM_SHARE: usize = 64;

/// All flows, and the answers to their clients.
pub(super) struct FlowTable<'a, S: DatagramSource> {
    source: &'a S,
    settings: &'a Settings,
    names: &'a Mutex<Names>,
    /// Called once for each flow after it has ended.
    on_end: &'a dyn Fn(&S::Flow, Outcome, Datagrams),
    /// The flows, by their id.
    flows: HashMap<u64, UdpFlow<S::Flow>>,
    answers: AnswerQueue<S::Flow>,
    /// Its reference count is the number of pending flows, and one for the table; see
    /// [`PENDING_MAX`](super::PENDING_MAX).
    pending: Arc<()>,
    made_room: u64,
    unreported: u64,
}

impl<'a, S: DatagramSource> FlowTable<'a, S> {
    pub(super) fn new(
        source: &'a S,
        settings: &'a Settings,
        names: &'a Mutex<Names>,
        on_end: &'a dyn Fn(&S::Flow, Outcome, Datagrams),
    ) -> Self {
        Self {
            source,
            settings,
            names,
            on_end,
            flows: HashMap::new(),
            answers: AnswerQueue::default(),
            pending: Arc::default(),
            made_room: 0,
            unreported: 0,
        }
    }

    /// Relays consecutive datagrams of one flow.
    pub(super) fn relay_run(
        &mut self,
        flow: &Arc<S::Flow>,
        run: &[ClientDatagram<'_, S::Flow>],
        registry: &FlowRegistry,
    ) {
        let (id, now) = (flow.id(), registry.now());
        if !self.flows.contains_key(&id) && self.flows.len() >= FLOWS_MAX {
            self.make_room(now);
        }
        let rules = &self.settings.rules;
        let context = InspectionContext {
            rules,
            denial: self.settings.denial,
            quic: self.settings.quic,
            pending: &self.pending,
        };
        let udp_flow = self.flows.entry(id);
        let udp_flow = udp_flow.or_insert_with(|| UdpFlow::new(flow, rules, now));
        let allowed = udp_flow.inspect(run, now, &context, self.source);
        if allowed.is_empty() {
            return;
        }
        if !udp_flow.is_connected() && !udp_flow.connect(registry) {
            self.make_room(now); // does not end this flow: its last datagram came just now
            if let Some(udp_flow) = self.flows.get_mut(&id) {
                udp_flow.connect(registry);
            }
        }
        if let Some(udp_flow) = self.flows.get_mut(&id) {
            udp_flow.forward(&allowed, registry, self.source);
        }
    }

    /// Receives answers from a flow's origin. Epoll reports the socket again if more are left.
    pub(super) fn receive_from_origin(&mut self, socket: FlowSocket, registry: &FlowRegistry) {
        let FlowSocket(id) = socket;
        let reads = self.flows.get(&id).map_or(0, UdpFlow::reads);
        let mut count = 0;
        while count < reads {
            if self.answers.is_full() {
                self.send_answers();
            }
            let Some(udp_flow) = self.flows.get_mut(&id) else {
                return; // the flow has ended since the event was reported
            };
            let (answers, now) = (&mut self.answers, registry.now());
            if !udp_flow.receive_answer(answers, now, self.source, self.names) {
                break;
            }
            count += 1;
        }
        if let Some(udp_flow) = self.flows.get_mut(&id) {
            udp_flow.adapt_reads(count);
        }
    }

    /// Sends the answers that were received from origins, and counts in each flow what was sent and
    /// what was lost.
    pub(super) fn send_answers(&mut self) {
        let flows = &mut self.flows;
        self.answers.send(self.source, |id, length, sent| {
            if let Some(udp_flow) = flows.get_mut(&id) {
                udp_flow.count_answer(length, sent);
            }
        });
    }

    /// Ends the flows that have a reason to end.
    pub(super) fn sweep(&mut self, now: Instant) {
        let idle = self.settings.datagram_idle;
        let ended = |(id, udp_flow): (&u64, &UdpFlow<S::Flow>)| {
            Some((*id, udp_flow.close_reason(now, idle)?))
        };
        let ended: Vec<_> = self.flows.iter().filter_map(ended).collect();
        for (id, reason) in ended {
            self.end(id, reason);
        }
    }

    /// Ends all flows.
    pub(super) fn end_all(&mut self, now: Instant) {
        let all: Vec<_> = self.flows.keys().copied().collect();
        for id in all {
            let reason = self.flows[&id].close_reason(now, Duration::ZERO);
            let reason = reason.filter(|reason| *reason != CloseReason::Idle);
            self.end(id, reason.unwrap_or(CloseReason::Stopped));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            made_room: self.made_room,
            unreported: self.unreported,
            ..Counts::default()
        }
    }

    /// Ends the flows that have been silent longest, see [`FLOWS_MAX`].
    fn make_room(&mut self, now: Instant) {
        let mut silent: Vec<_> = (self.flows.iter())
            .map(|(id, udp_flow)| (udp_flow.last_datagram(), *id))
            .filter(|(last_datagram, _)| *last_datagram < now)
            .collect();
        let count = (self.flows.len() / ROOM_SHARE).max(1);
        if silent.len() > count {
            silent.select_nth_unstable(count);
            silent.truncate(count);
        }
        self.made_room += silent.len() as u64;
        for (_, id) in silent {
            self.end(id, CloseReason::MadeRoom);
        }
    }

    /// Removes the flow and passes on its outcome.
    fn end(&mut self, id: u64, reason: CloseReason) {
        if let Some(udp_flow) = self.flows.remove(&id) {
            self.source.forget(udp_flow.flow());
            self.unreported += udp_flow.unreported();
            let (flow, outcome, datagrams) = udp_flow.close(reason);
            (self.on_end)(&flow, outcome, datagrams);
        }
    }
}
