//! Explains where a connection would go, or why a flow went where it did. The field values come
//! from the request or the flow, the policy crate's reference classifies them, and [`Renderer`]
//! writes the response.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use sidetrack_api::v1;
use sidetrack_engine::{Engine, FlowEntry, Paths};
use sidetrack_policy::explain::{
    Classification, ConnectionResult, Explanation, FilterOutcome, ListedFilter, explain,
};
use sidetrack_policy::field_values::{FieldValues, FileId, Host, Program};
use sidetrack_policy::rank::{RankedFilter, order};
use sidetrack_policy::reference::MatchEffect;
use sidetrack_policy::{
    Action, Code, Error as Refusal, Family, Filter, Layer, LayerKind, Objects, Service, Sublayer,
};

use crate::data_path::Error;

/// IPPROTO_TCP.
const TCP: u8 = 6;

/// Answers a request. Errors: FWP_E_NOT_FOUND and other errors of the request, [`Error::Engine`].
pub(super) fn explanation(
    engine: &Engine,
    objects: &Objects,
    request: &v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Error> {
    let paths = Paths::new()?;
    let (mut field_values, actual_chain) = match &request.subject {
        Some(v1::explain_request::Subject::Connection(connection)) => {
            (values_of_connection(connection, &paths)?, Vec::new())
        }
        Some(v1::explain_request::Subject::FlowId(id)) => {
            let entry = engine.flow(*id)?.ok_or_else(|| {
                Refusal::new(
                    Code::NotFound,
                    format!("there is no flow {id}; it may have ended, list the flows with `sidetrack flows ls --closed`"),
                )
            })?;
            (
                values_of_flow(&entry),
                super::report::flow(engine, &entry).chain,
            )
        }
        None => {
            let text = "the call has neither a connection nor a flow_id";
            return Err(Refusal::new(Code::NullPointer, text).into());
        }
    };
    let only = requested_layer(request.layer)?;
    if let Some(layer) = only {
        field_values.layer = layer;
        field_values.inbound = layer.kind == LayerKind::AuthRecvAccept;
    }
    let services: Vec<(u16, &Service)> = objects
        .all::<Service>()
        .filter_map(|service| {
            let mut known = engine.services();
            let (number, _) = known.find(|(_, spec)| spec.key == service.identity.key)?;
            Some((number as u16, service))
        })
        .collect();
    let numbered = services.iter().copied();
    let filters = order(objects.all::<Filter>(), objects.all::<Sublayer>(), numbered)?;
    let absent = absent_services(engine, &services, field_values.layer.family)?;
    let explanation = explain(&filters, &paths, &field_values, &absent, only.is_some());
    Ok(Renderer {
        objects,
        filters: &filters,
        services: &services,
        app: app_name(request),
    }
    .response(&explanation, engine.generation().into(), actual_chain))
}

/// Returns the numbers of the services that have no TCP listener for this family. UDP listeners are not
/// considered.
fn absent_services(
    engine: &Engine,
    services: &[(u16, &Service)],
    family: Family,
) -> Result<Vec<u16>, Error> {
    let mut absent = Vec::new();
    for (number, _) in services {
        let (v4, v6) = engine.listeners_of((*number).into())?;
        let listeners = if family == Family::V4 { v4 } else { v6 };
        if listeners == 0 {
            absent.push(*number);
        }
    }
    Ok(absent)
}

/// Returns how the text names the program: by its path, if the request has it.
fn app_name(request: &v1::ExplainRequest) -> String {
    match &request.subject {
        Some(v1::explain_request::Subject::Connection(connection))
            if !connection.app.is_empty() =>
        {
            connection.app.clone()
        }
        _ => "the program".to_owned(),
    }
}

/// Converts the layer of a request. 0 stands for all layers. Errors: FWP_E_LAYER_NOT_FOUND.
fn requested_layer(number: i32) -> Result<Option<Layer>, Refusal> {
    match number {
        0 => Ok(None),
        number => usize::try_from(number - 1)
            .ok()
            .and_then(|index| Layer::all().nth(index))
            .map(Some)
            .ok_or_else(|| {
                Refusal::new(Code::LayerNotFound, format!("there is no layer {number}"))
            }),
    }
}

/// Returns the field values of the connection that a request describes.
fn values_of_connection(connection: &v1::Connection, paths: &Paths) -> Result<FieldValues, Error> {
    let missing = || Refusal::new(Code::NullPointer, "the connection has no remote endpoint");
    let remote = connection.remote.as_ref().ok_or_else(missing)?;
    let remote = sidetrack_api::socket_address(remote)?;
    let local = match &connection.local {
        Some(local) => sidetrack_api::socket_address(local)?,
        None if remote.is_ipv4() => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        None => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let program = Program {
        app: match connection.app.as_str() {
            "" => FileId::default(),
            path => paths.file(path).ok_or_else(|| {
                let text = format!("there is no file {path}; give the path of an executable");
                Refusal::new(Code::NotFound, text)
            })?,
        },
        user: connection.uid,
        cgroups: cgroup_ids(&connection.cgroup, paths)?,
    };
    Ok(FieldValues {
        layer: Layer {
            kind: LayerKind::ConnectRedirect,
            family: Family::of(remote.ip()),
        },
        current: program.clone(),
        program,
        local,
        remote,
        protocol: match connection.protocol {
            0 => TCP,
            number => u8::try_from(number)
                .map_err(|_| Refusal::new(Code::OutOfBounds, "the protocol must be at most 255"))?,
        },
        netns: match connection.netns {
            0 => sidetrack_engine::host::netns_cookie(),
            cookie => cookie,
        },
        inbound: false,
        redirected: false,
        proxied: false,
    })
}

/// Returns the ids of a cgroup and of its ancestors below the root, from the top down.
fn cgroup_ids(path: &str, paths: &Paths) -> Result<Vec<u64>, Error> {
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
    let remote = address(flow.remote_addr, flow.remote_port);
    FieldValues {
        layer: Layer {
            kind: LayerKind::ConnectRedirect,
            family: Family::of(remote.ip()),
        },
        program: entry.program.clone(),
        current: entry.program.clone(),
        local: address(flow.local_addr, flow.local_port),
        remote,
        protocol: flow.protocol,
        netns: flow.netns_cookie,
        inbound: false,
        redirected: false,
        proxied: false,
    }
}

/// Writes the response. Its fields are what the texts need.
struct Renderer<'a> {
    objects: &'a Objects,
    filters: &'a [RankedFilter<'a>],
    services: &'a [(u16, &'a Service)],
    app: String,
}

impl Renderer<'_> {
    fn response(
        &self,
        explanation: &Explanation,
        generation: u64,
        actual_chain: Vec<String>,
    ) -> v1::ExplainResponse {
        let chain: Vec<String> = explanation
            .chain
            .iter()
            .map(|&number| self.name(number))
            .collect();
        let (verdict, summary) = self.summary(explanation, &chain);
        v1::ExplainResponse {
            steps: explanation
                .classifications
                .iter()
                .map(|classification| self.step(classification))
                .collect(),
            chain,
            verdict: verdict.into(),
            summary,
            generation,
            happened: actual_chain,
        }
    }

    fn summary(&self, explanation: &Explanation, chain: &[String]) -> (v1::Verdict, String) {
        let services = match chain {
            [] => String::new(),
            chain => format!(" through {}", chain.join(", then ")),
        };
        match explanation.result {
            ConnectionResult::Blocked => {
                let last = explanation.classifications.last();
                let by = last.and_then(|classification| classification.verdict.decided_by);
                let by = by.map_or(String::new(), |rank| {
                    format!(
                        " by filter {:?}",
                        self.filters[rank as usize].filter.identity.name
                    )
                });
                (
                    v1::Verdict::Block,
                    format!("blocked{by}{}", after_services(&services)),
                )
            }
            ConnectionResult::ChainTooLong => (
                v1::Verdict::Block,
                "blocked: a 17th service would see it, and a chain has at most 16".to_owned(),
            ),
            ConnectionResult::ReachesDestination if chain.is_empty() => {
                let decided = explanation
                    .classifications
                    .iter()
                    .any(|classification| classification.verdict.decided_by.is_some());
                let verdict = if decided {
                    v1::Verdict::Permit
                } else {
                    v1::Verdict::None
                };
                (verdict, "goes directly to its destination".to_owned())
            }
            ConnectionResult::ReachesDestination => (
                v1::Verdict::Redirect,
                format!("goes{services}, then to its destination"),
            ),
        }
    }

    fn step(&self, classification: &Classification) -> v1::Step {
        let verdict = &classification.verdict;
        let service = verdict
            .redirect
            .and_then(|rank| self.filters[rank as usize].service)
            .map(|number| self.name(number));
        let decided = verdict.decided_by.map(|rank| &self.filters[rank as usize]);
        let (kind, reason) = match (&service, verdict.blocked, decided) {
            (_, true, Some(ranked)) => (
                v1::Verdict::Block,
                format!("filter {:?} blocks", ranked.filter.identity.name),
            ),
            (Some(service), ..) => (
                v1::Verdict::Redirect,
                format!("redirected to service {service:?}"),
            ),
            (None, _, Some(ranked)) => (
                v1::Verdict::Permit,
                format!("filter {:?} permits", ranked.filter.identity.name),
            ),
            (None, _, None) => (v1::Verdict::None, "no filter decides".to_owned()),
        };
        v1::Step {
            layer: classification.layer.index() as i32 + 1,
            by: classification
                .proxy_of
                .map_or_else(|| self.app.clone(), |number| self.name(number)),
            looks: classification
                .filters
                .iter()
                .map(|filter| self.look(filter, classification))
                .collect(),
            looks_left_out: classification.left_out as u64,
            verdict: kind.into(),
            service: service.unwrap_or_default(),
            filter: decided
                .map(|ranked| sidetrack_api::key_bytes(ranked.filter.identity.key))
                .unwrap_or_default(),
            reason,
        }
    }

    fn look(&self, filter: &ListedFilter, classification: &Classification) -> v1::Look {
        let ranked = &self.filters[filter.rank as usize];
        let (outcome, reason) = outcome(filter, classification);
        let sublayer = self.objects.get::<Sublayer>(ranked.sublayer);
        v1::Look {
            filter: sidetrack_api::key_bytes(ranked.filter.identity.key),
            name: ranked.filter.identity.name.clone(),
            id: ranked.filter.id,
            sublayer: sidetrack_api::key_bytes(ranked.sublayer),
            sublayer_name: sublayer
                .map(|found| found.identity.name.clone())
                .unwrap_or_default(),
            sublayer_weight: ranked.sublayer_weight.into(),
            weight: ranked.weight,
            action: action(ranked.filter.action).into(),
            service: ranked
                .service
                .map(|number| self.name(number))
                .unwrap_or_default(),
            outcome: outcome.into(),
            reason,
        }
    }

    /// Returns a service's name, or its number if it has been removed.
    fn name(&self, number: u16) -> String {
        let known = self.services.iter().find(|(known, _)| *known == number);
        known.map_or_else(
            || format!("#{number}"),
            |(_, service)| service.identity.name.clone(),
        )
    }
}

/// Returns the end of a sentence about a blocked connection, with the services that have seen it.
fn after_services(services: &str) -> String {
    match services {
        "" => String::new(),
        services => format!(", after it went{services}"),
    }
}

fn action(action: Action) -> v1::Action {
    match action {
        Action::Permit => v1::Action::Permit,
        Action::Block => v1::Action::Block,
        Action::Veto => v1::Action::Veto,
        Action::Inspect => v1::Action::Inspect,
        Action::Redirect(_) => v1::Action::Redirect,
    }
}

/// Returns what a filter did, with the reason in words.
fn outcome(filter: &ListedFilter, classification: &Classification) -> (v1::look::Outcome, String) {
    use v1::look::Outcome as ApiOutcome;
    let effect = match &filter.outcome {
        FilterOutcome::NoMatch(requirement) => {
            return (ApiOutcome::NoMatch, format!("it requires {requirement}"));
        }
        FilterOutcome::NotReached => {
            return (
                ApiOutcome::NotReached,
                "its sublayer had decided, or no filter could change the verdict".into(),
            );
        }
        FilterOutcome::Matched(effect) => effect,
    };
    let decides = classification.verdict.decided_by == Some(filter.rank)
        || classification.verdict.redirect == Some(filter.rank);
    match effect {
        MatchEffect::AlreadySeen => (
            ApiOutcome::PassedOver,
            "its service has already seen the connection".into(),
        ),
        MatchEffect::AssumedSeen => (
            ApiOutcome::PassedOver,
            "its service counts as seen: a legacy proxy comes after it".into(),
        ),
        MatchEffect::NoActionRight => (
            ApiOutcome::PassedOver,
            "the verdict of a higher sublayer is hard".into(),
        ),
        MatchEffect::AbsentSkipped => {
            (ApiOutcome::PassedOver, "its service has no listener".into())
        }
        MatchEffect::Inspected => (ApiOutcome::PassedOver, "it only reports an event".into()),
        MatchEffect::AbsentBlocked => (ApiOutcome::Decided, "its service has no listener".into()),
        _ if decides => (ApiOutcome::Decided, String::new()),
        MatchEffect::RedirectedElsewhere => (
            ApiOutcome::Overridden,
            "a higher sublayer redirects already".into(),
        ),
        _ => (
            ApiOutcome::Overridden,
            "the verdict of another sublayer overrules it".into(),
        ),
    }
}
