//! `add` of each kind of object.
//!
//! The arguments are converted into an entry of a policy file and parsed as such, so that both have
//! the same meaning.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::json;
use sidetrack_api::{Client, key, v1};
use sidetrack_policy::Uuid;
use sidetrack_policy_file::{Listing, ParseOptions, parse};
use toml::{Table, Value};

use super::{ObjectKind, ObjectNames, begin, commit};
use crate::args::{self, CommonObjectArgs};
use crate::daemon::{open_session, status_error, user_id, with_daemon};
use crate::format::json_lines;

pub(crate) fn add_provider(options: &args::AddProviderArgs) -> Result<ExitCode> {
    let mut entry = common_entry(&options.common);
    put(&mut entry, "service_name", options.service_name.as_ref());
    add(ObjectKind::Provider, &options.common, entry)
}

pub(crate) fn add_sublayer(options: &args::AddSublayerArgs) -> Result<ExitCode> {
    let mut entry = common_entry(&options.common);
    put(&mut entry, "provider", options.provider.as_ref());
    entry.insert("weight".into(), i64::from(options.weight).into());
    add(ObjectKind::Sublayer, &options.common, entry)
}

pub(crate) fn add_service(options: &args::AddServiceArgs) -> Result<ExitCode> {
    let mut entry = common_entry(&options.common);
    put(&mut entry, "provider", options.provider.as_ref());
    put(&mut entry, "records", Some(&choice_name(options.records)));
    entry.insert("records_bound".into(), options.records_bound.into());
    put(&mut entry, "connect", Some(&choice_name(options.connect)));
    put(
        &mut entry,
        "on_absent",
        Some(&choice_name(options.on_absent)),
    );
    put_context(&mut entry, options.context.as_deref());
    add(ObjectKind::Service, &options.common, entry)
}

pub(crate) fn add_filter(options: &args::AddFilterArgs) -> Result<ExitCode> {
    add(ObjectKind::Filter, &options.common, filter_entry(options)?)
}

fn filter_entry(options: &args::AddFilterArgs) -> Result<Table> {
    let mut entry = common_entry(&options.common);
    if options.boot_time {
        entry.insert("lifetime".into(), "boot_time".into());
    }
    put(&mut entry, "layer", Some(&options.layer));
    put(&mut entry, "provider", options.provider.as_ref());
    put(&mut entry, "sublayer", options.sublayer.as_ref());
    put(&mut entry, "action", options.action.as_ref());
    if let Some(service) = &options.redirect {
        let redirect = Table::from_iter([("redirect".to_owned(), service.clone().into())]);
        entry.insert("action".into(), redirect.into());
    }
    entry.insert("weight".into(), weight_value(&options.weight)?);
    for (key, flag) in [
        ("clear_action_right", options.clear_action_right),
        ("disabled", options.disabled),
    ] {
        entry.insert(key.into(), flag.into());
    }
    put(
        &mut entry,
        "on_absent",
        options.on_absent.map(choice_name).as_ref(),
    );
    put_context(&mut entry, options.context.as_deref());
    for text in &options.matches {
        let (field, value) = text.split_once('=').with_context(|| {
            format!("{text:?} is not of the form FIELD=VALUE, such as remote_port=443")
        })?;
        add_alternative(&mut entry, field.trim(), value.trim())?;
    }
    Ok(entry)
}

/// Adds a value to the list of alternatives of a field.
fn add_alternative(entry: &mut Table, field: &str, text: &str) -> Result<()> {
    if field.parse::<sidetrack_policy::Field>().is_err() && entry.contains_key(field) {
        bail!("{field} is not a field of a filter; use the option for it instead of --match");
    }
    let all = entry
        .entry(field.to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = all {
        match parse_value(text) {
            Value::Array(more) => list.extend(more),
            one => list.push(one),
        }
    }
    Ok(())
}

/// Parses a number, a list, a table or a quoted string of TOML. Any other text is a string as it
/// is.
fn parse_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value @ (Value::Integer(_) | Value::Array(_) | Value::Table(_))) => value,
        Some(value @ Value::String(_)) => value,
        _ => text.into(),
    }
}

fn weight_value(text: &str) -> Result<Value> {
    if let Some(class) = text.strip_prefix("class:") {
        let class: i64 = class.parse().with_context(|| {
            format!("{class:?} is not a weight class; it is a number from 0 to 15")
        })?;
        return Ok(Table::from_iter([("class".to_owned(), class.into())]).into());
    }
    Ok(parse_value(text))
}

fn common_entry(common: &CommonObjectArgs) -> Table {
    let mut entry = Table::new();
    put(&mut entry, "name", Some(&common.name));
    put(&mut entry, "description", common.description.as_ref());
    put(&mut entry, "key", common.key.as_ref());
    if common.persistent {
        entry.insert("lifetime".into(), "persistent".into());
    }
    entry
}

fn put(entry: &mut Table, key: &str, text: Option<&String>) {
    if let Some(text) = text {
        entry.insert(key.to_owned(), text.clone().into());
    }
}

/// Adds the context. In a policy file, `text:TEXT` and `hex:DIGITS` are tables.
fn put_context(entry: &mut Table, context: Option<&str>) {
    let Some(context) = context else { return };
    let value = match context.split_once(':') {
        Some((kind @ ("text" | "hex"), rest)) => {
            Table::from_iter([(kind.to_owned(), rest.into())]).into()
        }
        _ => context.into(),
    };
    entry.insert("context".to_owned(), value);
}

/// Returns the name of a choice as policy files spell it.
fn choice_name(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().replace('-', "_"))
}

/// Parses an entry into objects: several filters if its layer stands for both address families.
///
/// `others` are the objects in force to which the entry may refer.
fn parse_objects(kind: ObjectKind, entry: Table, others: &Listing) -> Result<Listing> {
    let document = Table::from_iter([(kind.to_string(), Value::Array(vec![entry.into()]))]);
    let options = ParseOptions {
        file: "the command line",
        owner: Some(""), // an object that is added singly has no owner
        others,
        users: &user_id,
    };
    let policy = parse(document.to_string().as_bytes(), &options);
    policy.map(|policy| policy.objects).map_err(|errors| {
        // The error's line and column are left out: they are in a document that the user has not
        // written.
        let error = &errors.shown[0];
        let code = error
            .code
            .map(|code| format!(" ({code})"))
            .unwrap_or_default();
        let advice = error.advice.as_ref().map(|advice| format!("; {advice}"));
        anyhow::anyhow!("{}{code}{}", error.message, advice.unwrap_or_default())
    })
}

/// Adds the objects of an entry, and prints their keys.
fn add(kind: ObjectKind, common: &CommonObjectArgs, entry: Table) -> Result<ExitCode> {
    let with_key = common.key.is_some();
    let added = with_daemon(&common.daemon, async |mut client| {
        let names = ObjectNames::fetch(&mut client).await?;
        let objects = parse_objects(kind, entry, &names.referable)?;
        let session = open_session(&mut client, &format!("{kind} add")).await?;
        begin(&mut client, session.id()).await?;
        let added = add_all(&mut client, session.id(), &objects, with_key).await?;
        commit(&mut client, session.id()).await?;
        Ok(added)
    })?;
    match common.json {
        true => {
            let all: Vec<_> = added
                .iter()
                .map(|(key, id)| json!({ "key": key, "id": id }))
                .collect();
            writeln!(io::stdout(), "{}", json_lines(&all)?)?;
        }
        false => {
            for (key, _) in &added {
                writeln!(io::stdout(), "{key}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds the objects, and returns the key and, of filters, the id of each.
///
/// Without `with_key`, the keys that the parser derived from the names are left out and the daemon
/// makes new ones, so that the same name can be added twice.
async fn add_all(
    client: &mut Client,
    session_id: u64,
    objects: &Listing,
    with_key: bool,
) -> Result<Vec<(Uuid, Option<u64>)>> {
    let mut added = Vec::new();
    macro_rules! add {
        ($objects:expr, $call:ident, $request:ident, $member:ident, $wire:ty) => {
            for object in $objects {
                let mut wire = <$wire>::from(object);
                if !with_key {
                    wire.key.clear();
                }
                let request = v1::$request {
                    session_id,
                    $member: Some(wire),
                };
                let response = client
                    .$call(request)
                    .await
                    .map_err(status_error)?
                    .into_inner();
                let id = Some(response.id).filter(|&id| id != 0);
                added.push((key(&response.key)?.unwrap_or_default(), id));
            }
        };
    }
    add!(
        &objects.providers,
        add_provider,
        AddProviderRequest,
        provider,
        v1::Provider
    );
    add!(
        &objects.sublayers,
        add_sublayer,
        AddSublayerRequest,
        sublayer,
        v1::Sublayer
    );
    add!(
        &objects.services,
        add_service,
        AddServiceRequest,
        service,
        v1::Service
    );
    add!(
        &objects.filters,
        add_filter,
        AddFilterRequest,
        filter,
        v1::Filter
    );
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use sidetrack_policy_file::property::conditions_text;

    use crate::args::{Arguments, Command, ObjectCommand};

    /// Parses the arguments of `filter add f --layer auth-connect`, split at white space.
    fn parse_filter(arguments: &str) -> Result<Listing> {
        let arguments = ["sidetrack", "filter", "add", "f", "--layer", "auth-connect"]
            .into_iter()
            .chain(arguments.split_whitespace());
        match Arguments::try_parse_from(arguments)?.command {
            Command::Filter(ObjectCommand::Add(options)) => parse_objects(
                ObjectKind::Filter,
                filter_entry(&options)?,
                &Listing::default(),
            ),
            _ => panic!("these are the arguments of `filter add`"),
        }
    }

    #[test]
    fn command_line_means_the_same_as_a_policy_file() {
        let listing = parse_filter(
            "--action block -m remote_port=443 -m remote_port=8000-8999 -m app=/usr/bin/curl \
             -m remote_address=10.0.0.0/8 -m cgroup={prefix=\"/a\"} -m protocol=[\"tcp\",17] \
             --weight class:3 --clear-action-right",
        )
        .unwrap();
        assert_eq!(listing.filters.len(), 1);
        let filter = &listing.filters[0];
        assert!(filter.clear_action_right && !filter.disabled);
        assert_eq!(filter.weight, sidetrack_policy::Weight::Class(3));
        insta::assert_snapshot!(
            conditions_text(&filter.conditions),
            @"app=/usr/bin/curl cgroup=prefix /a remote_address=10.0.0.0/8 remote_port=443|8000-8999 protocol=tcp|udp"
        );
    }

    #[test]
    fn each_fault_is_reported_in_one_sentence() {
        let wrong = [
            "--action deny",
            "--action block -m remote_port=https",
            "--action block -m remote_prot=1",
            "--action block -m remote_port",
            "--action block -m name=x",
            "--action block --weight class:x",
            "--action block --weight class:16",
            "--action block --sublayer mine",
            "--action block -m remote_address=10.0.0.1/8",
            "--action block --on-absent permit",
        ];
        let messages = wrong.map(|arguments| {
            parse_filter(arguments)
                .expect_err("they are wrong")
                .to_string()
        });
        insta::assert_snapshot!(messages.join("\n"));
    }
}
