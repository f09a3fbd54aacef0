//! What a registration brings into its session.

use sidetrack_api::client::Error;
use sidetrack_api::{Client, v1};
use sidetrack_policy::{Code, Uuid};
use tonic::Status;

/// At most one of each, but filters.
#[derive(Debug)]
pub(super) struct Objects {
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

    /// Gives keys to those that have none, so that they are the same whenever they are added; and fills in
    /// what is left open, but for the filters' service.
    pub(super) fn settle(&mut self) {
        let mut provider = Vec::new();
        if let Some(own) = &mut self.provider {
            give_key(&mut own.key);
            provider.clone_from(&own.key);
        }
        let mut sublayer = Vec::new();
        if let Some(own) = &mut self.sublayer {
            give_key(&mut own.key);
            fill(&mut own.provider, &provider);
            sublayer.clone_from(&own.key);
        }
        if let Some(own) = &mut self.service {
            give_key(&mut own.key);
            fill(&mut own.provider, &provider);
            own.name.clone_from(&self.name);
        }
        for filter in &mut self.filters {
            give_key(&mut filter.key);
            fill(&mut filter.provider, &provider);
            fill(&mut filter.sublayer, &sublayer);
        }
    }

    /// Adds all but the filters, and asks for the service. What a resumed session has already stays.
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
            added(client.add_provider(request).await.map(drop))?;
        }
        if let Some(sublayer) = self.sublayer.clone() {
            let sublayer = Some(sublayer);
            let request = v1::AddSublayerRequest {
                session_id,
                sublayer,
            };
            added(client.add_sublayer(request).await.map(drop))?;
        }
        if let Some(service) = self.service.clone() {
            let service = Some(service);
            let request = v1::AddServiceRequest {
                session_id,
                service,
            };
            added(client.add_service(request).await.map(drop))?;
        }
        client.commit(v1::CommitRequest { session_id }).await?;
        let request = v1::RegisterServiceRequest {
            session_id,
            service: Some(Service::Name(self.name.clone())),
        };
        Ok(client.register_service(request).await?.into_inner())
    }

    /// Adds the filters, which redirect to this service. What a resumed session has already stays.
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
                fill(&mut filter.service, service);
            }
            let filter = Some(filter);
            let request = v1::AddFilterRequest { session_id, filter };
            added(client.add_filter(request).await.map(drop))?;
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

/// Keys are this registration's own: what is there under them is its.
fn added(result: Result<(), Status>) -> Result<(), Error> {
    match result.map_err(Error::from) {
        Err(Error::Policy(refusal)) if refusal.code == Code::AlreadyExists => Ok(()),
        other => other,
    }
}

fn give_key(key: &mut Vec<u8>) {
    fill(key, Uuid::new_v4().as_bytes());
}

fn fill(key: &mut Vec<u8>, with: &[u8]) {
    if key.is_empty() {
        key.extend_from_slice(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_filled_in_once() {
        let mut objects = Objects::new("inspect".into());
        objects.provider = Some(v1::Provider::default());
        objects.sublayer = Some(v1::Sublayer::default());
        objects.service = Some(v1::Service {
            key: vec![7; 16],
            ..Default::default()
        });
        let elsewhere = v1::Filter {
            sublayer: vec![9; 16],
            ..Default::default()
        };
        objects.filters = vec![v1::Filter::default(), elsewhere];
        objects.settle();
        let before = format!("{objects:?}");
        objects.settle();
        assert_eq!(format!("{objects:?}"), before, "keys stay");
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
