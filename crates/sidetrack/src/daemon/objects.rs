//! The objects that a registration adds in its session.

use sidetrack_api::client::Error;
use sidetrack_api::{Client, v1};
use sidetrack_policy::{Code, Uuid};
use tonic::Status;

/// The objects of one registration.
#[derive(Debug)]
pub(super) struct Objects {
    /// Name of the service.
    name: String,
    pub(super) provider: Option<v1::Provider>,
    pub(super) sublayer: Option<v1::Sublayer>,
    pub(super) service: Option<v1::Service>,
    pub(super) filters: Vec<v1::Filter>,
}

impl Objects {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            provider: None,
            sublayer: None,
            service: None,
            filters: Vec::new(),
        }
    }

    /// Fills in empty keys and references. The keys are then the same each time the objects are
    /// added. The service of a filter is filled in later, by [`Self::add_filters`], when its key is
    /// known.
    pub(super) fn fill_in_defaults(&mut self) {
        let mut provider = Vec::new();
        if let Some(own) = &mut self.provider {
            fill_key(&mut own.key);
            provider.clone_from(&own.key);
        }
        let mut sublayer = Vec::new();
        if let Some(own) = &mut self.sublayer {
            fill_key(&mut own.key);
            fill_if_empty(&mut own.provider, &provider);
            sublayer.clone_from(&own.key);
        }
        if let Some(own) = &mut self.service {
            fill_key(&mut own.key);
            fill_if_empty(&mut own.provider, &provider);
            own.name.clone_from(&self.name);
        }
        for filter in &mut self.filters {
            fill_key(&mut filter.key);
            fill_if_empty(&mut filter.provider, &provider);
            fill_if_empty(&mut filter.sublayer, &sublayer);
        }
    }

    /// Adds all objects except the filters, and registers the service. Objects that a resumed
    /// session already has stay as they are.
    pub(super) async fn register(
        &self,
        client: &mut Client,
        session_id: u64,
    ) -> Result<v1::RegisterServiceResponse, Error> {
        use v1::register_service_request::Service;
        begin(client, session_id).await?;
        if let Some(provider) = self.provider.clone() {
            let provider = Some(provider);
            let request = v1::AddProviderRequest {
                session_id,
                provider,
            };
            accept_existing(client.add_provider(request).await.map(drop))?;
        }
        if let Some(sublayer) = self.sublayer.clone() {
            let sublayer = Some(sublayer);
            let request = v1::AddSublayerRequest {
                session_id,
                sublayer,
            };
            accept_existing(client.add_sublayer(request).await.map(drop))?;
        }
        if let Some(service) = self.service.clone() {
            let service = Some(service);
            let request = v1::AddServiceRequest {
                session_id,
                service,
            };
            accept_existing(client.add_service(request).await.map(drop))?;
        }
        client.commit(v1::CommitRequest { session_id }).await?;
        let request = v1::RegisterServiceRequest {
            session_id,
            service: Some(Service::Name(self.name.clone())),
        };
        Ok(client.register_service(request).await?.into_inner())
    }

    /// Adds the filters; `service` is the key of the registered service. Filters that a resumed
    /// session already has stay as they are.
    pub(super) async fn add_filters(
        &self,
        client: &mut Client,
        session_id: u64,
        service: &[u8],
    ) -> Result<(), Error> {
        if self.filters.is_empty() {
            return Ok(());
        }
        begin(client, session_id).await?;
        for filter in &self.filters {
            let mut filter = filter.clone();
            if filter.action() == v1::Action::Redirect {
                fill_if_empty(&mut filter.service, service);
            }
            let filter = Some(filter);
            let request = v1::AddFilterRequest { session_id, filter };
            accept_existing(client.add_filter(request).await.map(drop))?;
        }
        client.commit(v1::CommitRequest { session_id }).await?;
        Ok(())
    }
}

async fn begin(client: &mut Client, session_id: u64) -> Result<(), Error> {
    let request = v1::BeginTransactionRequest {
        session_id,
        read_only: false,
    };
    client.begin_transaction(request).await?;
    Ok(())
}

/// Ignores the error that an object already exists. Only this registration uses its keys, so the
/// object is the one that the request would add.
fn accept_existing(result: Result<(), Status>) -> Result<(), Error> {
    match result.map_err(Error::from) {
        Err(Error::Policy(refusal)) if refusal.code == Code::AlreadyExists => Ok(()),
        other => other,
    }
}

fn fill_key(key: &mut Vec<u8>) {
    fill_if_empty(key, Uuid::new_v4().as_bytes());
}

fn fill_if_empty(key: &mut Vec<u8>, with: &[u8]) {
    if key.is_empty() {
        key.extend_from_slice(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_filled_in_once() {
        let mut objects = Objects::new("inspect".into());
        objects.provider = Some(v1::Provider::default());
        objects.sublayer = Some(v1::Sublayer::default());
        objects.service = Some(v1::Service {
            key: vec![7; 16],
            ..Default::default()
        });
        let with_sublayer = v1::Filter {
            sublayer: vec![9; 16],
            ..Default::default()
        };
        objects.filters = vec![v1::Filter::default(), with_sublayer];
        objects.fill_in_defaults();
        let before = format!("{objects:?}");
        objects.fill_in_defaults();
        assert_eq!(format!("{objects:?}"), before, "keys do not change");
        let provider = objects.provider.unwrap().key;
        let sublayer = objects.sublayer.unwrap();
        let service = objects.service.unwrap();
        assert_eq!(provider.len(), 16);
        assert_eq!(sublayer.provider, provider);
        assert_eq!((service.key, service.name), (vec![7; 16], "inspect".into()));
        assert_eq!(objects.filters[0].sublayer, sublayer.key);
        assert_eq!(objects.filters[1].sublayer, [9; 16]);
        assert!(objects.filters.iter().all(|one| one.provider == provider));
        assert_ne!(objects.filters[0].key, objects.filters[1].key);
    }
}
