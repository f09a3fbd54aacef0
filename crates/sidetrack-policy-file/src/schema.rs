//! The JSON schema of a policy file, for editors.
//!
//! Tests compare its keys with those that [`crate::parse`] reads, and docs/policy.schema.json with
//! it.
#![allow(dead_code)] // the types only describe the file; no value of them is made

use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, schema_for};
use serde_json::{Value, json};

/// The JSON schema of a policy file.
pub fn schema() -> Schema {
    let mut schema = schema_for!(PolicyFile);
    without_null(&mut schema);
    schema
}

/// Removes null from the schema, since TOML has none: an optional key is left out instead.
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
    /// Owner of the objects; `local` by default. Applying a file replaces all objects of its owner.
    owner: Option<String>,
    /// Values for keys that an entry leaves out.
    defaults: Option<Defaults>,
    /// Vendors or products to which the other objects belong.
    provider: Option<Vec<Provider>>,
    /// Groups of filters. The one of the highest weight is evaluated first.
    sublayer: Option<Vec<Sublayer>>,
    /// Redirect targets: what filters redirect connections to.
    service: Option<Vec<Service>>,
    /// Conditions, each with an action, at a layer.
    filter: Option<Vec<Filter>>,
}

/// Values for keys that an entry leaves out.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Defaults {
    /// Lifetime of all objects.
    lifetime: Option<Lifetime>,
    /// Provider of sublayers, services and filters.
    provider: Option<String>,
    /// Sublayer of filters.
    sublayer: Option<String>,
    /// Layer of filters.
    layer: Option<Layer>,
    /// Action of filters.
    action: Option<Action>,
}

/// A vendor or product to which other objects belong.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Provider {
    /// Name, by which other objects refer to this one.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// Description for people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Key; by default it is made from the owner, the kind of object and the name.
    key: Option<Key>,
    /// How long the object exists; `static` by default.
    lifetime: Option<Lifetime>,
    /// The systemd unit of the product. Persistent objects are loaded only if it is enabled.
    service_name: Option<String>,
}

/// A group of filters, with a weight that orders it among the other groups.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Sublayer {
    /// Name, by which filters refer to this object.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// Description for people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Key; by default it is made from the owner, the kind of object and the name.
    key: Option<Key>,
    /// How long the object exists; `static` by default.
    lifetime: Option<Lifetime>,
    /// Name or key of the provider to which the object belongs.
    provider: Option<String>,
    /// Weight; 0 by default. The sublayer of higher weight is evaluated earlier.
    weight: Option<u16>,
}

/// A redirect target, with its own listeners.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// Name, by which filters refer to this object.
    #[schemars(length(min = 1, max = 31))]
    name: String,
    /// Description for people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Key; by default it is made from the owner, the kind of object and the name.
    key: Option<Key>,
    /// How long the object exists; `static` by default.
    lifetime: Option<Lifetime>,
    /// Name or key of the provider to which the object belongs.
    provider: Option<String>,
    /// What happens to its own connects without redirect records; `required` by default.
    records: Option<Records>,
    /// Whether its records work for the destination of their flow only; `false` by default.
    records_bound: Option<bool>,
    /// When the connect of a redirected program returns; `accepted` by default.
    connect: Option<Connect>,
    /// What happens to redirected connections while the service has no listener; `block` by default.
    on_absent: Option<Absent>,
    /// Redirect context, which the proxy receives with each connection; `none` by default.
    context: Option<Context>,
}

/// Conditions and an action at a layer. Of each field, at least one alternative must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Filter {
    /// Name for people; unique in the file for each layer.
    #[schemars(length(min = 1, max = 256))]
    name: String,
    /// Description for people.
    #[schemars(length(max = 1024))]
    description: Option<String>,
    /// Key; by default it is made from the owner, the name and the layer.
    key: Option<Key>,
    /// How long the object exists; `static` by default.
    lifetime: Option<Lifetime>,
    /// Name or key of the provider to which the object belongs.
    provider: Option<String>,
    /// Layer at which the filter is evaluated, for both address families or for one.
    layer: Option<Layer>,
    /// Name or key of the sublayer to which the filter belongs; `universal` by default.
    sublayer: Option<String>,
    /// Weight within the sublayer; automatic by default. Higher weights are evaluated earlier.
    weight: Option<Weight>,
    /// What the filter does with a connection that it matches.
    action: Option<Action>,
    /// If true, lower sublayers cannot change a permit, except by a veto; false by default.
    clear_action_right: Option<bool>,
    /// If true, the filter is kept but not evaluated; false by default.
    disabled: Option<bool>,
    /// For a redirect: overrides `on_absent` of the service.
    on_absent: Option<Absent>,
    /// For a redirect: overrides `context` of the service.
    context: Option<Context>,
    /// Executable of the original program, however many proxies are in between.
    app: Option<OneOrMore<Path>>,
    /// Executable of the program that connects now, which may be a proxy.
    current_app: Option<OneOrMore<Path>>,
    /// Real user of the original program.
    user: Option<OneOrMore<Number>>,
    /// Real user of the program that connects now.
    current_user: Option<OneOrMore<Number>>,
    /// Cgroup of the original program, as a path below the root of the hierarchy.
    cgroup: Option<OneOrMore<Path>>,
    /// Cgroup of the program that connects now.
    current_cgroup: Option<OneOrMore<Path>>,
    /// Flags of the connection: loopback, redirected, proxy_connection.
    flags: Option<OneOrMore<Number>>,
    /// Local address; the unspecified address if the socket is not bound.
    local_address: Option<OneOrMore<Address>>,
    /// Type of the local address: unspecified, unicast, multicast, broadcast, loopback.
    local_address_type: Option<OneOrMore<Number>>,
    /// Local port; 0 if the socket is not bound.
    local_port: Option<OneOrMore<Number>>,
    /// Remote address: the original destination, before any redirection.
    remote_address: Option<OneOrMore<Address>>,
    /// Remote port: the port of the original destination.
    remote_port: Option<OneOrMore<Number>>,
    /// Type of the remote address: unspecified, unicast, multicast, broadcast, loopback.
    destination_address_type: Option<OneOrMore<Number>>,
    /// Transport protocol: tcp, udp, or a number.
    protocol: Option<OneOrMore<Number>>,
    /// Cookie of the network namespace.
    netns: Option<OneOrMore<Number>>,
    /// Direction of the connection: outbound, inbound.
    direction: Option<OneOrMore<Number>>,
}

/// A UUID.
#[derive(JsonSchema)]
struct Key(#[schemars(regex(pattern = r"^[0-9a-fA-F-]{32,36}$"))] String);

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Lifetime {
    /// Until it is deleted, the daemon's store is emptied, or the host restarts.
    Static,
    /// Until it is deleted; it survives a restart of the host.
    Persistent,
    /// For filters only: in force if nothing is pinned when the daemon starts, as after a restart of the
    /// host, until the daemon has loaded its store.
    BootTime,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Records {
    /// If a filter matches, the connect is refused with EPERM, and an event reports it.
    Required,
    /// The connect is classified, but filters that redirect are skipped.
    RequiredOrOwn,
    /// The connect is classified as if the services up to this one had seen the connection.
    Legacy,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Connect {
    /// As soon as the service's listener has accepted it.
    Accepted,
    /// Once the proxy has connected onward, with the outcome of that.
    Pended,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Absent {
    /// The connect, or the sending of a datagram, fails with ECONNREFUSED.
    Block,
    /// The filter is skipped.
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
    /// There is no context.
    None,
    /// The kernel writes the context: original destination, original program and flow.
    Auto,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ContextText {
    /// The context as a text, of at most 4,000 bytes.
    text: String,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ContextHex {
    /// The context in hexadecimal, two digits for each byte, of at most 4,000 bytes.
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
    /// Exactly this number.
    Literal(u64),
    Word(WeightWord),
    Class(WeightClass),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum WeightWord {
    /// Computed from the conditions: more fields, and more bits of them, give a higher weight.
    Auto,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct WeightClass {
    /// The upper four bits of the weight; the others are automatic.
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
    /// Permits the connection.
    Permit,
    /// Blocks the connection; lower sublayers cannot change it.
    Block,
    /// Blocks the connection, even if a higher sublayer permits it with `clear_action_right`.
    Veto,
    /// Reports the connection as an event; the evaluation continues with the next filter.
    Inspect,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Redirect {
    /// Name or key of the service.
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

/// A comparison by one match type. By default: `equal`; `range` for a range; `flags_all_set` for flags.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
struct Comparison<T> {
    equal: Option<ValueOrList<T>>,
    greater: Option<T>,
    less: Option<T>,
    greater_or_equal: Option<T>,
    less_or_equal: Option<T>,
    /// The range as "low-high", or as a list of both ends.
    range: Option<ValueOrList<T>>,
    flags_all_set: Option<ValueOrList<T>>,
    flags_any_set: Option<ValueOrList<T>>,
    flags_none_set: Option<ValueOrList<T>>,
    not_equal: Option<T>,
    /// For cgroups: the cgroup itself or one below it.
    prefix: Option<ValueOrList<T>>,
    /// For cgroups: neither the cgroup itself nor one below it.
    not_prefix: Option<T>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum ValueOrList<T> {
    One(T),
    List(Vec<T>),
}

/// A number, the name of a number, or a range of numbers such as "8000-8999".
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

/// An address, a prefix such as "10.0.0.0/8", or a range such as "192.0.2.1-192.0.2.9".
#[derive(JsonSchema)]
struct Address(String);

/// An absolute path: it begins with a slash.
#[derive(JsonSchema)]
struct Path(#[schemars(regex(pattern = r"^/"))] String);
