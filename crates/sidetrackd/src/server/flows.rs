//! The list of flows. The flows of each message are read from the data path when the client reads
//! the message, so that a client that does not read costs no memory.

use sidetrack_api::v1;
use tokio_stream::StreamExt;
use tonic::Status;

use super::{Api, Error, ListStream, message};
use crate::committer::Handle;

/// Maximum number of flows in one message.
const FLOWS_PER_MESSAGE_MAX: usize = 256;

impl Api {
    /// Lists the flows that are open and, if `closed` is set, those that are closed, in the order of
    /// their ids.
    pub(super) async fn flows(
        &self,
        uid: u32,
        closed: bool,
    ) -> Result<ListStream<v1::FlowList>, Error> {
        let committer = self.committer.clone();
        let ids = committer.run(uid, |committer| committer.data_path().flow_ids());
        let mut ids = ids.await??;
        ids.sort_unstable();
        let mut ids = ids.into_iter();
        let pages = std::iter::from_fn(move || {
            let page: Vec<u64> = ids.by_ref().take(FLOWS_PER_MESSAGE_MAX).collect();
            (!page.is_empty()).then_some(page)
        });
        let lists = tokio_stream::iter(pages).then(move |ids| {
            let committer = committer.clone();
            async move {
                let list = flow_list(&committer, uid, closed, ids).await;
                list.map_err(Status::from)
            }
        });
        // All flows of a page may have ended or closed in the meantime.
        Ok(Box::pin(lists.filter(
            |list| !matches!(list, Ok(list) if list.flows.is_empty()),
        )))
    }
}

/// Reads the flows of one message.
async fn flow_list(
    committer: &Handle,
    uid: u32,
    closed: bool,
    ids: Vec<u64>,
) -> Result<v1::FlowList, Error> {
    let flows = committer.run(uid, move |committer| committer.flows(&ids));
    let flows = flows.await??.into_iter();
    let wanted = flows.filter(|(flow, _)| closed || !flow.closed);
    let flows = wanted
        .map(|(flow, filter)| message::flow(flow, filter))
        .collect();
    Ok(v1::FlowList { flows })
}
