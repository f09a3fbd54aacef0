//! `sidetrack provider|sublayer|service|filter`: objects one by one.

mod add;
mod list;
mod listed;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use sidetrack_api::{Client, key_bytes, v1};
use sidetrack_policy::Uuid;

pub(crate) use self::add::{add_filter, add_provider, add_service, add_sublayer};
pub(crate) use self::list::{list, show};
pub(crate) use self::listed::{Kind, Listed, Names, fetch};
use crate::args;
use crate::daemon::{ask, refused, session};

/// Deletes objects, all or none.
pub(crate) fn remove(kind: Kind, options: &args::Remove) -> Result<ExitCode> {
    ask(&options.daemon, async |mut client| {
        let session = session(&mut client, &format!("{kind} rm")).await?;
        let session_id = session.id();
        begin(&mut client, session_id).await?;
        let all = fetch(&mut client, kind, session_id, None).await?;
        for name in &options.names {
            for listed in find(kind, &all, name)? {
                delete(&mut client, kind, session_id, listed.key()).await?;
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

async fn delete(client: &mut Client, kind: Kind, session_id: u64, key: Uuid) -> Result<()> {
    let request = v1::DeleteRequest {
        session_id,
        key: key_bytes(key),
    };
    let deleted = match kind {
        Kind::Provider => client.delete_provider(request).await,
        Kind::Sublayer => client.delete_sublayer(request).await,
        Kind::Service => client.delete_service(request).await,
        Kind::Filter => client.delete_filter(request).await,
    };
    deleted.map_err(refused)?;
    Ok(())
}

async fn begin(client: &mut Client, session_id: u64) -> Result<()> {
    let request = v1::BeginTransactionRequest {
        session_id,
        read_only: false,
    };
    client.begin_transaction(request).await.map_err(refused)?;
    Ok(())
}

async fn commit(client: &mut Client, session_id: u64) -> Result<()> {
    let request = v1::CommitRequest { session_id };
    client.commit(request).await.map_err(refused)?;
    Ok(())
}

/// The object that a name or a key stands for; of filters, those of one name at different layers.
fn find<'a>(kind: Kind, all: &'a [Listed], name: &str) -> Result<Vec<&'a Listed>> {
    let key = name.parse::<Uuid>().ok();
    let found: Vec<_> = all
        .iter()
        .filter(|listed| Some(listed.key()) == key || listed.name() == name)
        .collect();
    let mut layers: Vec<_> = found.iter().filter_map(|listed| listed.layer()).collect();
    layers.sort();
    layers.dedup();
    match found.len() {
        0 => bail!("there is no {kind} {name:?}; `sidetrack {kind} ls` lists them"),
        1 => Ok(found),
        several if layers.len() == several => Ok(found),
        several => {
            let keys: Vec<_> = found.iter().map(|one| one.key().to_string()).collect();
            bail!(
                "{several} {kind}s are called {name:?}; give a key: {}",
                keys.join(", ")
            )
        }
    }
}
