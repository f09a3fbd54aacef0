//! One redirected connection, from accept to its flow line.
//!
//! ```text
//!  rules.before ──denied──────────────▶ refuse ──▶ end
//!       │ ├─allowed──────────────┐        ▲
//!       │ └─depends on the host  │        │
//!       ▼                        ▼        │
//!     sniff ─decided─▶ rules ─▶ connect   │     (the opening is read on meanwhile)
//!       └─silent for SNIFF_WAIT─▶│        │
//!                                ▼        │
//!                  origin→client: pump    │
//!                  client→origin: opening, rules if still open ─denied
//!                                 then pump
//! ```
//!
//! What the client sends is held back until no rule can refuse it any more; what the origin sends
//! is not. So protocols in which the server speaks first work, and nobody evades a rule by waiting.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use sidetrack::Flow;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::timeout;

use crate::datagrams::{DATAGRAM_IDLE, Quic};
use crate::dns::Denial;
use crate::end::How;
use crate::line::FlowLine;
use crate::relay::{Ended, Peer, Progress, end_well, half_close, pump, reset_on_close, write_all};
use crate::rules::{Rules, Verdict};
use crate::sniff::Seen;

mod opening;
mod refusal;

use opening::Opening;

pub use refusal::{REFUSAL_SIZE_MAX, REFUSAL_WAIT};

/// How long a client may be silent before the origin is connected to all the same, as its server
/// may be the one to speak first.
pub const SNIFF_WAIT: Duration = Duration::from_millis(200);
/// The idle time-out unless told otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How connections are treated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Which may go on.
    pub rules: Rules,
    /// A connection over which no byte goes for so long is ended.
    pub idle_timeout: Duration,
    /// A flow of datagrams that is silent for so long is ended.
    pub datagram_idle: Duration,
    /// How a DNS query for a denied name is answered.
    pub denial: Denial,
    /// What QUIC may do.
    pub quic: Quic,
}

/// What became of one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// What the client began with.
    pub seen: Seen,
    /// What the rules said. Of a connection that ended before: what they say of what was seen.
    pub verdict: Verdict,
    /// How long it took to connect to the origin; `None` if it was not tried or did not succeed.
    pub connect_time: Option<Duration>,
    /// The counts, and how it ended.
    pub ended: Ended,
}

/// Handles an accepted connection until its end, and tells of it.
///
/// Never fails: what goes wrong is said in the line's `ended`. Dropping it resets both connections.
pub async fn inspect(stream: TcpStream, flow: Flow, settings: &Settings) -> FlowLine {
    prepare(&stream);
    inspect_accepted(stream, flow, settings, std::future::pending()).await
}

/// As [`inspect`], of what a prepared listener has accepted; ends with "stopped" when `stopped` does.
pub(crate) async fn inspect_accepted(
    stream: TcpStream,
    flow: Flow,
    settings: &Settings,
    stopped: impl Future<Output = ()>,
) -> FlowLine {
    let destination = flow.original_destination();
    // On the heap, and only until it is connected: a future is as large as all that it may hold, once more
    // for each function that it is handed to, for as long as the connection lives.
    let connect = Box::pin(flow.connect_async());
    let stopped = Box::pin(stopped);
    let carried = carry_prepared(stream, destination, connect, settings, stopped).await;
    FlowLine::new(&flow, carried)
}

/// The part of [`inspect`] that knows nothing of the kernel side: decides by `destination` and what
/// the client sends, and polls `connect` only if the connection may go on.
pub async fn carry(
    client: TcpStream,
    destination: SocketAddr,
    connect: impl Future<Output = Result<TcpStream, sidetrack::Error>>,
    settings: &Settings,
    stopped: impl Future<Output = ()>,
) -> Carried {
    prepare(&client);
    carry_prepared(client, destination, connect, settings, stopped).await
}

async fn carry_prepared(
    client: TcpStream,
    destination: SocketAddr,
    connect: impl Future<Output = Result<TcpStream, sidetrack::Error>>,
    settings: &Settings,
    stopped: impl Future<Output = ()>,
) -> Carried {
    let progress = Progress::default();
    let mut course = Course {
        client: &client,
        destination,
        rules: &settings.rules,
        progress: &progress,
        opening: Opening::default(),
        verdict: None,
        connect_time: None,
    };
    let how = select! {
        biased;
        how = course.run(connect) => how,
        () = progress.idle(settings.idle_timeout) => How::Idle,
        () = stopped => How::Stopped,
    };
    let seen = course.opening.into_seen();
    Carried {
        verdict: course
            .verdict
            .unwrap_or_else(|| settings.rules.decide(destination, seen.host())),
        connect_time: course.connect_time,
        ended: progress.ended(how),
        seen,
    }
}

struct Course<'a> {
    client: &'a TcpStream,
    destination: SocketAddr,
    rules: &'a Rules,
    progress: &'a Progress,
    opening: Opening,
    /// `None` as long as it depends on what the client will send.
    verdict: Option<Verdict>,
    connect_time: Option<Duration>,
}

impl Course<'_> {
    async fn run(
        &mut self,
        connect: impl Future<Output = Result<TcpStream, sidetrack::Error>>,
    ) -> How {
        match self.try_run(connect).await {
            Ok(()) => return How::Closed,
            Err(how) if how != How::Denied => return how,
            Err(_) => {}
        }
        // Here, and not where it was decided: now nothing else writes to the client any more.
        if self.progress.down() == 0 {
            Box::pin(refusal::refuse(
                self.client,
                self.opening.seen(),
                self.rule(),
            ))
            .await;
        } // else it would be taken for more of the origin's bytes
        How::Denied
    }

    fn rule(&self) -> &str {
        let rule = self
            .verdict
            .as_ref()
            .and_then(|verdict| verdict.rule.as_deref());
        rule.unwrap_or_default()
    }

    async fn try_run(
        &mut self,
        connect: impl Future<Output = Result<TcpStream, sidetrack::Error>>,
    ) -> Result<(), How> {
        self.verdict = self.rules.before(self.destination);
        match &self.verdict {
            Some(verdict) if verdict.is_deny() => {
                // Only to refuse it in its own language.
                let reading = self.opening.read_on(self.client, self.progress);
                let _ = timeout(SNIFF_WAIT, reading).await;
                return Err(How::Denied);
            }
            Some(_) => {}
            None => {
                let first = self.opening.read_some(self.client, self.progress);
                if let Ok(first) = timeout(SNIFF_WAIT, first).await {
                    first?;
                    self.opening.read_on(self.client, self.progress).await?;
                    self.settle()?;
                }
            }
        }
        let origin = self.connect(connect).await?;
        self.relay(&origin).await?;
        end_well(self.client);
        end_well(&origin);
        Ok(())
    }

    /// Decides by what was seen.
    fn settle(&mut self) -> Result<(), How> {
        let host = self.opening.host();
        let verdict = self.rules.decide(self.destination, host);
        let denied = verdict.is_deny();
        self.verdict = Some(verdict);
        if denied { Err(How::Denied) } else { Ok(()) }
    }

    /// Connects, reading the opening meanwhile.
    async fn connect(
        &mut self,
        connect: impl Future<Output = Result<TcpStream, sidetrack::Error>>,
    ) -> Result<TcpStream, How> {
        let begun = Instant::now();
        tokio::pin!(connect);
        let connected = select! {
            biased;
            connected = &mut connect => connected,
            read = self.opening.read_on(self.client, self.progress) => {
                read?;
                connect.await
            }
        };
        let origin = connected.map_err(|error| How::of_connect(&error))?;
        self.connect_time = Some(begun.elapsed());
        prepare(&origin);
        Ok(origin)
    }

    async fn relay(&mut self, origin: &TcpStream) -> Result<(), How> {
        let (client, progress) = (self.client, self.progress);
        let origin = Peer::origin(origin);
        let down = pump(origin, Peer::client(client), &progress.down, &progress.ends);
        tokio::try_join!(self.up(origin), down)?;
        Ok(())
    }

    async fn up(&mut self, origin: Peer<'_>) -> Result<(), How> {
        if self.verdict.is_none() {
            self.opening.read_on(self.client, self.progress).await?;
            self.settle()?;
        }
        let count = &self.progress.up;
        loop {
            write_all(origin, &self.opening.take(), count).await?;
            if self.opening.is_over() {
                return half_close(origin, &self.progress.ends);
            }
            if self.opening.is_decided() {
                let client = Peer::client(self.client);
                return pump(client, origin, count, &self.progress.ends).await;
            }
            self.opening.read_some(self.client, self.progress).await?;
        }
    }
}

fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true); // fails only on a connection that is gone
    reset_on_close(stream);
}

/// What it accepts is prepared as well: sockets inherit both options from their listener.
pub(crate) fn prepare_listener(listener: BorrowedFd<'_>) {
    let listener = SockRef::from(&listener);
    let _ = listener.set_tcp_nodelay(true); // neither can fail on a TCP socket
    let _ = listener.set_linger(Some(Duration::ZERO));
}

impl Default for Settings {
    /// No rules, [`IDLE_TIMEOUT`], [`DATAGRAM_IDLE`].
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            idle_timeout: IDLE_TIMEOUT,
            datagram_idle: DATAGRAM_IDLE,
            denial: Denial::NoSuchName,
            quic: Quic::Allow,
        }
    }
}
