//! The bodies of requests and answers, with their bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::activity::ActiveCall;
use crate::fair::FairLockGuard;
use crate::quota::Portion;

/// How long the message of a call may take to arrive, once the call is admitted.
pub const ARRIVAL_MAX: Duration = Duration::from_secs(10);

/// What the bytes of a request take of their quota. The call and its body share it.
pub(super) type RequestBytes = Arc<Mutex<Portion>>;

/// The body of a request. Its bytes are limited, and it must arrive in time.
pub(super) struct RequestBody {
    pub(super) body: hyper::body::Incoming,
    /// Completes when the message should have arrived.
    pub(super) deadline: Option<Pin<Box<Sleep>>>,
    /// Where its bytes are counted, unless they have another bound.
    pub(super) bytes: Option<RequestBytes>,
}

/// What a call in progress takes.
pub(super) struct CallInProgress {
    pub(super) active: ActiveCall,
    /// What it takes of the quota of calls, or of streams.
    pub(super) portion: Option<Portion>,
    pub(super) guard: Option<FairLockGuard>,
    pub(super) bytes: Option<RequestBytes>,
    /// Whether the connection is closed if its client does not read the answer.
    pub(super) must_be_read: bool,
}

/// The body of an answer. The call is in progress until it is dropped.
pub(super) struct AnswerBody {
    body: Body,
    call: CallInProgress,
}

impl AnswerBody {
    pub(super) fn new(body: Body, call: CallInProgress) -> Self {
        // The client may allow no byte of it to be sent, and then it is never polled.
        if call.must_be_read {
            call.active.waits_for_client();
        }
        Self { body, call }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            let text = format!(
                "the call's message did not arrive within {} s",
                ARRIVAL_MAX.as_secs()
            );
            return Poll::Ready(Some(Err(Status::deadline_exceeded(text))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|frame| frame.map_err(|error| Status::from_error(error.into())));
        Poll::Ready(match (frame, &self.bytes) {
            (Some(Ok(frame)), Some(bytes)) => Some(counted(frame, bytes)),
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Takes the bytes of a frame from their quota. Errors: RESOURCE_EXHAUSTED.
fn counted(frame: Frame<Bytes>, bytes: &RequestBytes) -> Result<Frame<Bytes>, Status> {
    let size = frame.data_ref().map_or(0, Bytes::len);
    let mut portion = bytes.lock().unwrap_or_else(PoisonError::into_inner);
    let grown = portion.grow(size);
    grown.map_err(|full| Status::resource_exhausted(full.to_string()))?;
    Ok(frame)
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // It is polled only when the client has read what it returned before.
        if self.call.must_be_read {
            self.call.active.is_read();
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.call.must_be_read && frame.is_some() {
            self.call.active.waits_for_client();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Instant;

    use hyper::body::Body as _;

    use super::super::activity::{Activity, Overdue, UNREAD_MAX};
    use super::*;

    #[test]
    fn an_answer_must_be_read_from_its_beginning_to_its_end() {
        for must_be_read in [true, false] {
            let activity = Activity::new(true);
            let call = CallInProgress {
                active: activity.begin(),
                portion: None,
                guard: None,
                bytes: None,
                must_be_read,
            };
            let mut answer = AnswerBody::new(Body::new("an answer".to_owned()), call);
            let later = Instant::now() + UNREAD_MAX + Duration::from_secs(1);
            let unread = must_be_read.then_some(Overdue::Unread);
            assert_eq!(activity.overdue_at(later), unread);
            let mut poll = || {
                let mut context = Context::from_waker(Waker::noop());
                let frame = Pin::new(&mut answer).poll_frame(&mut context);
                matches!(frame, Poll::Ready(Some(Ok(_))))
            };
            assert!(poll());
            assert_eq!(activity.overdue_at(later), unread);
            assert!(!poll());
            assert_eq!(activity.overdue_at(later), None);
        }
    }
}
