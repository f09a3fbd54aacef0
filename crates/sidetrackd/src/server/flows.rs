//! The list of flows. The flows of each message are read from the data path when the client reads
//! the message, so that a client that does not read costs no memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use sidetrack_api::v1;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

use super::{Api, Error, message};

/// Maximum number of flows in one message.
const FLOWS_PER_MESSAGE_MAX: usize = 256;

type Page = Pin<Box<dyn Future<Output = Result<Vec<v1::Flow>, Error>> + Send>>;

/// The flows, in the order of their ids.
pub struct FlowPages {
    api: Api,
    uid: u32,
    closed: bool,
    ids: std::vec::IntoIter<u64>,
    /// The message that is being read.
    page: Option<Page>,
}

impl Api {
    /// Lists the flows that are open and, if `closed` is set, those that are closed.
    pub(super) async fn flows(&self, uid: u32, closed: bool) -> Result<FlowPages, Error> {
        let ids = self
            .committer
            .run(uid, |committer| committer.data_path().flow_ids());
        let mut ids = ids.await??;
        ids.sort_unstable();
        Ok(FlowPages {
            api: self.clone(),
            uid,
            closed,
            ids: ids.into_iter(),
            page: None,
        })
    }
}

impl FlowPages {
    /// Starts reading the next page. Returns none after the last one.
    fn next_page(&mut self) -> Option<Page> {
        let ids: Vec<u64> = self.ids.by_ref().take(FLOWS_PER_MESSAGE_MAX).collect();
        if ids.is_empty() {
            return None;
        }
        let (committer, uid, closed) = (self.api.committer.clone(), self.uid, self.closed);
        Some(Box::pin(async move {
            let flows = committer.run(uid, move |committer| committer.flows(&ids));
            let flows = flows.await??.into_iter();
            let wanted = flows.filter(|(flow, _)| closed || !flow.closed);
            Ok(wanted
                .map(|(flow, filter)| message::flow(flow, filter))
                .collect())
        }))
    }
}

impl Stream for FlowPages {
    type Item = Result<v1::FlowList, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let mut page = match self.page.take() {
                Some(page) => page,
                None => match self.next_page() {
                    Some(page) => page,
                    None => return Poll::Ready(None),
                },
            };
            let Poll::Ready(flows) = page.as_mut().poll(context) else {
                self.page = Some(page);
                return Poll::Pending;
            };
            match flows {
                // All of them have ended or closed in the meantime.
                Ok(flows) if flows.is_empty() => {}
                flows => {
                    let list = flows.map(|flows| v1::FlowList { flows });
                    return Poll::Ready(Some(list.map_err(Status::from)));
                }
            }
        }
    }
}
