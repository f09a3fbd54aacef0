//! Explains where a connection would go, or why a flow went where it did. The data path returns the
//! field values, the policy crate's reference classifies them, and [`Renderer`] writes the response.

mod response;

use sidetrack_api::v1;
use sidetrack_policy::explain::explain;
use sidetrack_policy::rank::order;
use sidetrack_policy::{
    Code, Error as Refusal, Filter, Layer, LayerKind, Service, Sublayer, absent_services,
};

use self::response::Renderer;
use crate::Error;
use crate::committer::Committer;
use crate::data_path::{Connection, Subject};

/// IPPROTO_TCP.
const TCP: u8 = 6;
/// IPPROTO_UDP.
const UDP: u8 = 17;

/// What to explain, by the policy in force.
pub(super) struct ExplainRequest {
    subject: Subject,
    /// The only layer to explain; none for the whole path of the connection.
    layer: Option<Layer>,
}

impl TryFrom<v1::ExplainRequest> for ExplainRequest {
    type Error = Refusal;

    /// Errors: FWP_E_NULL_POINTER, …OUT_OF_BOUNDS, …LAYER_NOT_FOUND, and those of
    /// [`sidetrack_api::socket_address`].
    fn try_from(request: v1::ExplainRequest) -> Result<Self, Refusal> {
        use v1::explain_request::Subject as ApiSubject;
        let subject = match request.subject {
            None => {
                let text = "the call has neither a connection nor a flow_id";
                return Err(Refusal::new(Code::NullPointer, text));
            }
            Some(ApiSubject::Connection(given)) => Subject::Connection(connection(given)?),
            Some(ApiSubject::FlowId(id)) => Subject::Flow(id),
        };
        Ok(Self {
            subject,
            layer: layer(request.layer)?,
        })
    }
}

fn connection(given: v1::Connection) -> Result<Connection, Refusal> {
    let missing = || Refusal::new(Code::NullPointer, "the connection has no remote endpoint");
    let remote = given.remote.as_ref().ok_or_else(missing)?;
    let remote = sidetrack_api::socket_address(remote)?;
    let local = given.local.as_ref().map(sidetrack_api::socket_address);
    let local = local.transpose()?;
    let protocol = match given.protocol {
        0 | 6 => TCP,
        17 => UDP,
        _ => {
            let text = "the protocol must be 6 (TCP) or 17 (UDP)";
            return Err(Refusal::new(Code::OutOfBounds, text));
        }
    };
    Ok(Connection {
        app: Some(given.app).filter(|app| !app.is_empty()),
        uid: given.uid,
        cgroup: given.cgroup,
        local,
        remote,
        protocol,
        netns: Some(given.netns).filter(|cookie| *cookie != 0),
    })
}

/// Converts the layer of a request. 0 stands for the whole path.
fn layer(number: i32) -> Result<Option<Layer>, Refusal> {
    match v1::Layer::try_from(number) {
        Ok(v1::Layer::Unspecified) => Ok(None),
        Ok(layer) => Layer::try_from(layer).map(Some),
        Err(_) => {
            let text = "there is no such layer; the numbers of layers are 1 to 12";
            Err(Refusal::new(Code::LayerNotFound, text))
        }
    }
}

/// Answers a request. Errors: FWP_E_NOT_FOUND for what does not exist; [`Error::Adopted`],
/// [`Error::DataPath`].
pub(super) fn explanation(
    committer: &mut Committer,
    request: &ExplainRequest,
) -> Result<v1::ExplainResponse, Error> {
    let in_force = committer.in_force();
    if let Some(adopted) = in_force.adopted {
        return Err(Error::Adopted(adopted));
    }
    let objects = in_force.objects.after_boot();
    let data_path = committer.data_path();
    let connection = data_path.resolve(&request.subject)?;
    let mut field_values = connection.field_values;
    if let Some(layer) = request.layer {
        field_values.layer = layer;
        field_values.inbound = layer.kind == LayerKind::AuthRecvAccept;
    }
    let statuses = data_path.services()?;
    let status_of = |service: &Service| {
        let mut statuses = statuses.iter();
        statuses.find(|status| status.key == service.identity.key)
    };
    let services: Vec<(u16, &Service)> = objects
        .all::<Service>()
        .filter_map(|service| Some((status_of(service)?.number, service)))
        .collect();
    let known = objects.all::<Service>().filter_map(status_of);
    let listeners = known.map(|status| (status.number, status.listeners));
    let absent = absent_services(listeners, &field_values);
    let numbered = services.iter().copied();
    let filters = order(objects.all::<Filter>(), objects.all::<Sublayer>(), numbered)?;
    let one_layer = request.layer.is_some();
    let explanation = explain(
        &filters,
        &*connection.host,
        &field_values,
        &absent,
        one_layer,
    );
    Ok(Renderer {
        objects: &objects,
        filters: &filters,
        services: &services,
        app: app_name(&request.subject),
    }
    .response(&explanation, in_force.generation, connection.passed))
}

/// Returns how the text names the program: by its path, if the request has it.
fn app_name(subject: &Subject) -> String {
    match subject {
        Subject::Connection(Connection { app: Some(app), .. }) => app.clone(),
        _ => "the program".to_owned(),
    }
}
