//! `sidetrack provider`, `sublayer`, `service` and `filter`: single objects of the policy.

mod add;
mod fetch;
mod list;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use sidetrack_api::{Client, key_bytes, v1};
use sidetrack_policy::Uuid;

pub(crate) use self::add::{add_filter, add_provider, add_service, add_sublayer};
pub(crate) use self::fetch::{ListedKind, ListedObject, ObjectKind, ObjectNames, fetch, referable};
pub(crate) use self::list::{list, show};
use crate::args;
use crate::daemon::{open_session, status_error, with_daemon};

/// Deletes the named objects in one transaction: all of them, or none.
pub(crate) fn remove(kind: ObjectKind, options: &args::RemoveArgs) -> Result<ExitCode> {
    with_daemon(&options.daemon, async |mut client| {
        let session = open_session(&mut client, &format!("{kind} rm")).await?;
        let session_id = session.id();
        begin(&mut client, session_id).await?;
        let all = fetch(&mut client, kind, session_id, None).await?;
        for name in &options.names {
            for object in find(kind, &all, name)? {
                delete(&mut client, kind, session_id, object.key()).await?;
            }
        }
        commit(&mut client, session_id).await?;
        drop(session);
        Ok(())
    })?;
    if options.names.len() > 1 {
        writeln!(io::stdout(), "{} deleted", options.names.len())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(client: &mut Client, kind: ObjectKind, session_id: u64, key: Uuid) -> Result<()> {
    let request = v1::DeleteRequest {
        session_id,
        key: key_bytes(key),
    };
    let deleted = match kind {
        ObjectKind::Provider => client.delete_provider(request).await,
        ObjectKind::Sublayer => client.delete_sublayer(request).await,
        ObjectKind::Service => client.delete_service(request).await,
        ObjectKind::Filter => client.delete_filter(request).await,
    };
    deleted.map_err(status_error)?;
    Ok(())
}

async fn begin(client: &mut Client, session_id: u64) -> Result<()> {
    let request = v1::BeginTransactionRequest {
        session_id,
        read_only: false,
    };
    client
        .begin_transaction(request)
        .await
        .map_err(status_error)?;
    Ok(())
}

async fn commit(client: &mut Client, session_id: u64) -> Result<()> {
    let request = v1::CommitRequest { session_id };
    client.commit(request).await.map_err(status_error)?;
    Ok(())
}

/// Returns the objects that a name or a key stands for: one object, or several filters of the same
/// name at different layers. Objects of users other than the caller and root have no name here.
///
/// # Errors
///
/// No object, or more than one at the same layer, has the name.
fn find<'a>(
    kind: ObjectKind,
    all: &'a [ListedObject],
    name: &str,
) -> Result<Vec<&'a ListedObject>> {
    let key = name.parse::<Uuid>().ok();
    let with_key = all.iter().filter(|object| Some(object.key()) == key);
    let mut found: Vec<_> = with_key.collect();
    if found.is_empty() {
        found = referable(all.iter().filter(|object| object.name() == name));
    }
    let mut layers: Vec<_> = found.iter().filter_map(|object| object.layer()).collect();
    layers.sort();
    layers.dedup();
    match found.len() {
        0 => bail!("there is no {kind} {name:?}; `sidetrack {kind} ls` lists them"),
        1 => Ok(found),
        several if layers.len() == several => Ok(found),
        several => {
            let keys: Vec<_> = found
                .iter()
                .map(|object| object.key().to_string())
                .collect();
            bail!(
                "{several} {kind}s have the name {name:?}; use one of their keys instead: {}",
                keys.join(", ")
            )
        }
    }
}
