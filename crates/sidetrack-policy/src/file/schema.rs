//! The file's shape as a JSON schema, for editors.
//!
//! A test holds its keys to those that are read, and docs/policy.schema.json to it.
#![allow(dead_code)] // these types are only described, never made

use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, schema_for};
use serde_json::{Value, json};

/// The JSON schema of a policy file.
pub fn schema() -> Schema {
    let mut schema = schema_for!(PolicyFile);
    without_null(&mut schema);
    schema
}

/// TOML has no null: what is optional is left out.
fn without_null(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        if let Some(Value::Array(any)) = object.get_mut("anyOf") {
            any.retain(|each| *each != json!({ "type": "null" }));
            if let [Value::Object(only)] = any.as_mut_slice() {
                let only = std::mem::take(only);
                object.remove("anyOf");
                object.extend(only);
            }
        }
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|each| each != "null");
            if let [only] = types.as_mut_slice() {
                let only = only.take();
                object.insert("type".to_owned(), only);
            }
        }
    }
    transform_subschemas(&mut without_null, schema);
}

/// A Sidetrack policy: providers, sublayers, services and filters.
#[derive(JsonSchema)]
#[schemars(title = "Sidetrack policy", deny_unknown_fields)]
struct PolicyFile {
    /// Whose the objects are; `local` if it is left out. Applying replaces all objects of an owner.
    owner: Option<String>,
    /// What entries have that do not say otherwise.
    defaults: Option<Defaults>,
    /// Who owns the rest.
    provider: Option<Vec<Provider>>,
    /// Groups of filters, the heaviest first.
    sublayer: Option<Vec<Sublayer>>,
    /// Where filters redirect to.
    service: Option<Vec<Service>>,
    /// The rules.
    filter: Option<Vec<Filter>>,
}

/// What entries have that do not say otherwise.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Defaults {
    /// Of all objects.
    lifetime: Option<Lifetime>,
    /// Of sublayers, services and filters.
    provider: Option<String>,
    /// Of filters.
    sublayer: Option<String>,
    /// Of filters.
    layer: Option<Layer>,
    /// Of filters.
    action: Option<Action>,
}

/// Who owns objects.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Provider {
    /// Other entries refer to it by this.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// For people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Made from owner, kind and name if it is left out.
    key: Option<Key>,
    /// How long it lives.
    lifetime: Option<Lifetime>,
    /// The systemd unit of the product: its persistent objects are loaded only while it is enabled.
    service_name: Option<String>,
}

/// A group of filters with a place among the others.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Sublayer {
    /// Filters refer to it by this.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// For people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Made from owner, kind and name if it is left out.
    key: Option<Key>,
    /// How long it lives.
    lifetime: Option<Lifetime>,
    /// Whose it is: a name or a key.
    provider: Option<String>,
    /// The higher, the earlier; 0 if it is left out.
    weight: Option<u16>,
}

/// A redirection identity, with its own listeners.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// Filters refer to it by this.
    #[schemars(length(min = 1, max = 31))]
    name: String,
    /// For people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Made from owner, kind and name if it is left out.
    key: Option<Key>,
    /// How long it lives.
    lifetime: Option<Lifetime>,
    /// Whose it is: a name or a key.
    provider: Option<String>,
    /// What its own connects without records get; `required` if it is left out.
    records: Option<Records>,
    /// What becomes of connections while nobody listens; `block` if it is left out.
    on_absent: Option<Absent>,
    /// What the proxy is told besides; `none` if it is left out.
    context: Option<Context>,
}

/// A rule at a layer. Alternatives of one field: any holds. Different fields: all hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Filter {
    /// For people; unique in the file for each layer.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// For people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Made from owner, name and layer if it is left out.
    key: Option<Key>,
    /// How long it lives.
    lifetime: Option<Lifetime>,
    /// Whose it is: a name or a key.
    provider: Option<String>,
    /// Where it is asked: both families, or one.
    layer: Option<Layer>,
    /// Among which others: a name or a key; `universal` if it is left out.
    sublayer: Option<String>,
    /// Its place in the sublayer; automatic if it is left out.
    weight: Option<Weight>,
    /// What it does.
    action: Option<Action>,
    /// Its verdict is final for lower sublayers.
    clear_action_right: Option<bool>,
    /// Kept, not judged by.
    disabled: Option<bool>,
    /// Of a redirect: instead of the service's own.
    on_absent: Option<Absent>,
    /// Of a redirect: instead of the service's own.
    context: Option<Context>,
    /// The executable of the program that opened the connection, however many proxies are between.
    app: Option<OneOrMore<Path>>,
    /// The executable that connects now.
    current_app: Option<OneOrMore<Path>>,
    /// The first program's user.
    user: Option<OneOrMore<Number>>,
    /// The user that connects now.
    current_user: Option<OneOrMore<Number>>,
    /// The first program's cgroup, a path below the hierarchy's root.
    cgroup: Option<OneOrMore<Path>>,
    /// The cgroup of who connects now.
    current_cgroup: Option<OneOrMore<Path>>,
    /// loopback, redirected, proxy_connection.
    flags: Option<OneOrMore<Number>>,
    /// Unspecified if the socket is not bound.
    local_address: Option<OneOrMore<Address>>,
    /// unspecified, unicast, multicast, broadcast, loopback.
    local_address_type: Option<OneOrMore<Number>>,
    /// 0 if the socket is not bound.
    local_port: Option<OneOrMore<Number>>,
    /// Where the program meant to go.
    remote_address: Option<OneOrMore<Address>>,
    /// The port there.
    remote_port: Option<OneOrMore<Number>>,
    /// unspecified, unicast, multicast, broadcast, loopback.
    destination_address_type: Option<OneOrMore<Number>>,
    /// tcp, udp, or a number.
    protocol: Option<OneOrMore<Number>>,
    /// The network namespace's cookie.
    netns: Option<OneOrMore<Number>>,
    /// outbound, inbound.
    direction: Option<OneOrMore<Number>>,
}

/// A UUID.
#[derive(JsonSchema)]
struct Key(#[schemars(regex(pattern = r"^[0-9a-fA-F-]{32,36}$"))] String);

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Lifetime {
    /// Until it is deleted, or the daemon stops for good.
    Static,
    /// Until it is deleted; it survives a reboot.
    Persistent,
    /// Of filters: from boot until the daemon has loaded its store.
    BootTime,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Records {
    /// It is blocked and reported.
    Required,
    /// It goes straight on.
    RequiredOrOwn,
    /// It goes on from behind the service's place.
    Legacy,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Absent {
    /// connect fails with ECONNREFUSED.
    Block,
    /// As if the filter were not there.
    Permit,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Context {
    Word(ContextWord),
    Text(ContextText),
    Hex(ContextHex),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum ContextWord {
    /// There is none.
    None,
    /// Original destination, program and flow.
    Auto,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ContextText {
    /// At most 4,000 bytes.
    text: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ContextHex {
    /// Two digits for each byte.
    hex: String,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum Layer {
    BindRedirect,
    ConnectRedirect,
    AuthConnect,
    AuthRecvAccept,
    FlowEstablished,
    EndpointClosure,
    #[schemars(rename = "bind-redirect-v4")]
    BindRedirectV4,
    #[schemars(rename = "bind-redirect-v6")]
    BindRedirectV6,
    #[schemars(rename = "connect-redirect-v4")]
    ConnectRedirectV4,
    #[schemars(rename = "connect-redirect-v6")]
    ConnectRedirectV6,
    #[schemars(rename = "auth-connect-v4")]
    AuthConnectV4,
    #[schemars(rename = "auth-connect-v6")]
    AuthConnectV6,
    #[schemars(rename = "auth-recv-accept-v4")]
    AuthRecvAcceptV4,
    #[schemars(rename = "auth-recv-accept-v6")]
    AuthRecvAcceptV6,
    #[schemars(rename = "flow-established-v4")]
    FlowEstablishedV4,
    #[schemars(rename = "flow-established-v6")]
    FlowEstablishedV6,
    #[schemars(rename = "endpoint-closure-v4")]
    EndpointClosureV4,
    #[schemars(rename = "endpoint-closure-v6")]
    EndpointClosureV6,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Weight {
    /// This number.
    Literal(u64),
    Word(WeightWord),
    Class(WeightClass),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum WeightWord {
    /// By how much the filter asks.
    Auto,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct WeightClass {
    /// The upper four bits; the rest is automatic.
    #[schemars(range(max = 15))]
    class: u8,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Action {
    Word(ActionWord),
    Redirect(Redirect),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum ActionWord {
    /// Let it.
    Permit,
    /// Refuse it, for good.
    Block,
    /// Refuse it, even over a hard permit.
    Veto,
    /// Tell it as an event; matching goes on.
    Inspect,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Redirect {
    /// A service's name or key.
    redirect: String,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMore<T> {
    One(Alternative<T>),
    Any(#[schemars(length(min = 1))] Vec<Alternative<T>>),
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Alternative<T> {
    Value(T),
    Compared(Comparison<T>),
}

/// One comparison; without one, a value is compared by `equal`, a range by `range`, a flag by
/// `flags_all_set`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
struct Comparison<T> {
    equal: Option<ValueOrList<T>>,
    greater: Option<T>,
    less: Option<T>,
    greater_or_equal: Option<T>,
    less_or_equal: Option<T>,
    /// "low-high", or both in a list.
    range: Option<ValueOrList<T>>,
    flags_all_set: Option<ValueOrList<T>>,
    flags_any_set: Option<ValueOrList<T>>,
    flags_none_set: Option<ValueOrList<T>>,
    not_equal: Option<T>,
    /// Of cgroups: this one or one below it.
    prefix: Option<ValueOrList<T>>,
    /// Of cgroups: neither this one nor one below it.
    not_prefix: Option<T>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum ValueOrList<T> {
    One(T),
    List(Vec<T>),
}

/// A number, a name that stands for one, or a range of numbers, such as "8000-8999".
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

/// An address, a prefix such as "10.0.0.0/8", or a range such as "192.0.2.1-192.0.2.9".
#[derive(JsonSchema)]
struct Address(String);

/// A path that begins with a slash.
#[derive(JsonSchema)]
struct Path(#[schemars(regex(pattern = r"^/"))] String);
