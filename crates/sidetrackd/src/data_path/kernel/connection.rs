//! The values by which the kernel classifies a connection, for an explanation.

use sidetrack_engine::{Engine, FlowEntry, Paths};
use sidetrack_policy::field_values::{FieldValues, FileId, Host, Program};
use sidetrack_policy::{Code, Error as Refusal};

use super::report;
use crate::data_path::subject::connect_values;
use crate::data_path::{Connection, Error, ResolvedConnection, Subject};

/// Looks up a connection. Errors: FWP_E_NOT_FOUND if there is no such flow, executable or cgroup;
/// [`Error::Engine`].
pub(super) fn resolve(engine: &Engine, subject: &Subject) -> Result<ResolvedConnection, Error> {
    let paths = Paths::new()?;
    let (field_values, passed) = match subject {
        Subject::Connection(connection) => (values_of_connection(connection, &paths)?, Vec::new()),
        Subject::Flow(id) => {
            let entry = engine.flow(*id)?.ok_or_else(|| {
                let text = format!(
                    "there is no flow {id}; it may have ended, list the flows with `sidetrack flows ls --closed`"
                );
                Refusal::new(Code::NotFound, text)
            })?;
            (values_of_flow(&entry), report::flow(engine, &entry).chain)
        }
    };
    Ok(ResolvedConnection {
        field_values,
        host: Box::new(paths),
        passed,
    })
}

/// Returns the field values of a connection that was not made.
fn values_of_connection(connection: &Connection, paths: &Paths) -> Result<FieldValues, Refusal> {
    let program = Program {
        app: match &connection.app {
            None => FileId::default(),
            Some(path) => paths.file(path).ok_or_else(|| {
                let text = format!("there is no file {path}; give the path of an executable");
                Refusal::new(Code::NotFound, text)
            })?,
        },
        user: connection.uid,
        cgroups: cgroup_ids(&connection.cgroup, paths)?,
        elevated: false,
    };
    let netns = connection.netns;
    let netns = netns.unwrap_or_else(sidetrack_engine::host::netns_cookie);
    Ok(connection.field_values(program, netns))
}

/// Returns the ids of a cgroup and of its ancestors below the root, from the top down.
fn cgroup_ids(path: &str, paths: &Paths) -> Result<Vec<u64>, Refusal> {
    let mut above = String::new();
    let mut ids = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        above = format!("{above}/{part}");
        let found = paths
            .cgroup(&above)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no cgroup {above}")))?;
        ids.push(found.id);
    }
    Ok(ids)
}

/// Returns field values for a flow, as of a connect of its original program.
fn values_of_flow(entry: &FlowEntry) -> FieldValues {
    let flow = &entry.flow;
    let address = sidetrack_abi::address::socket_address;
    let local = address(flow.local_addr, flow.local_port);
    let remote = address(flow.remote_addr, flow.remote_port);
    let program = entry.program.clone();
    connect_values(program, local, remote, flow.protocol, flow.netns_cookie)
}
