//! `add`: what is said becomes an entry of a policy file, so both have one meaning.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::json;
use sidetrack_api::{Client, key, v1};
use sidetrack_policy::file::{Surroundings, parse};
use sidetrack_policy::{Listing, Uuid};
use toml::{Table, Value};

use super::{Kind, Names, begin, commit};
use crate::args::{self, Common};
use crate::daemon::{ask, refused, session, user};

pub(crate) fn add_provider(options: &args::AddProvider) -> Result<ExitCode> {
    let mut entry = entry(&options.common);
    put(&mut entry, "service_name", options.service_name.as_ref());
    add(Kind::Provider, &options.common, entry)
}

pub(crate) fn add_sublayer(options: &args::AddSublayer) -> Result<ExitCode> {
    let mut entry = entry(&options.common);
    put(&mut entry, "provider", options.provider.as_ref());
    entry.insert("weight".into(), i64::from(options.weight).into());
    add(Kind::Sublayer, &options.common, entry)
}

pub(crate) fn add_service(options: &args::AddService) -> Result<ExitCode> {
    let mut entry = entry(&options.common);
    put(&mut entry, "provider", options.provider.as_ref());
    put(&mut entry, "records", Some(&name(options.records)));
    put(&mut entry, "on_absent", Some(&name(options.on_absent)));
    put_context(&mut entry, options.context.as_deref());
    add(Kind::Service, &options.common, entry)
}

pub(crate) fn add_filter(options: &args::AddFilter) -> Result<ExitCode> {
    add(Kind::Filter, &options.common, filter(options)?)
}

fn filter(options: &args::AddFilter) -> Result<Table> {
    let mut entry = entry(&options.common);
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
    entry.insert("weight".into(), weight(&options.weight)?);
    for (key, flag) in [
        ("clear_action_right", options.clear_action_right),
        ("disabled", options.disabled),
    ] {
        entry.insert(key.into(), flag.into());
    }
    put(
        &mut entry,
        "on_absent",
        options.on_absent.map(name).as_ref(),
    );
    put_context(&mut entry, options.context.as_deref());
    for text in &options.matches {
        let (field, value) = text
            .split_once('=')
            .with_context(|| format!("{text:?} is no FIELD=VALUE, such as remote_port=443"))?;
        alternative(&mut entry, field.trim(), value.trim())?;
    }
    Ok(entry)
}

/// One more value of a field; several are a list.
fn alternative(entry: &mut Table, field: &str, text: &str) -> Result<()> {
    if field.parse::<sidetrack_policy::Field>().is_err() && entry.contains_key(field) {
        bail!("{field} is not a field; it has an argument of its own");
    }
    let all = entry
        .entry(field.to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = all {
        match value(text) {
            Value::Array(more) => list.extend(more),
            one => list.push(one),
        }
    }
    Ok(())
}

/// A number, a list, a table or a quoted text of TOML; anything else is a text as it stands.
fn value(text: &str) -> Value {
    let read = toml::from_str::<Table>(&format!("value = {text}"));
    match read.ok().and_then(|mut table| table.remove("value")) {
        Some(value @ (Value::Integer(_) | Value::Array(_) | Value::Table(_))) => value,
        Some(value @ Value::String(_)) => value,
        _ => text.into(),
    }
}

fn weight(text: &str) -> Result<Value> {
    if let Some(class) = text.strip_prefix("class:") {
        let class: i64 = class
            .parse()
            .with_context(|| format!("{class:?} is no weight class from 0 to 15"))?;
        return Ok(Table::from_iter([("class".to_owned(), class.into())]).into());
    }
    Ok(value(text))
}

fn entry(common: &Common) -> Table {
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

/// `text:` and `hex:` are tables in a file.
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

/// A choice's name in policy files.
fn name(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().replace('-', "_"))
}

/// The objects that an entry stands for.
fn objects(kind: Kind, entry: Table, others: &Listing) -> Result<Listing> {
    let document = Table::from_iter([(kind.to_string(), Value::Array(vec![entry.into()]))]);
    let surroundings = Surroundings {
        file: "the command line",
        owner: Some(""), // nobody's: it is added singly
        others,
        users: &user,
    };
    let policy = parse(document.to_string().as_bytes(), &surroundings);
    policy.map(|policy| policy.objects).map_err(|faults| {
        // Its place is in a file that nobody wrote.
        let fault = &faults.shown[0];
        let code = fault
            .code
            .map(|code| format!(" ({code})"))
            .unwrap_or_default();
        let advice = fault.advice.as_ref().map(|advice| format!("; {advice}"));
        anyhow::anyhow!("{}{code}{}", fault.message, advice.unwrap_or_default())
    })
}

/// Adds what an entry stands for, and prints the keys.
fn add(kind: Kind, common: &Common, entry: Table) -> Result<ExitCode> {
    let with_key = common.key.is_some();
    let added = ask(&common.daemon, async |mut client| {
        let names = Names::fetch(&mut client).await?;
        let objects = objects(kind, entry, &names.listing)?;
        let session = session(&mut client, &format!("{kind} add")).await?;
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
            writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&all)?)?;
        }
        false => {
            for (key, _) in &added {
                writeln!(io::stdout(), "{key}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each object's key, and number. Keys are the daemon's to make: the same name may be added twice.
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
                let answer = client.$call(request).await.map_err(refused)?.into_inner();
                let id = Some(answer.id).filter(|&id| id != 0);
                added.push((key(&answer.key)?.unwrap_or_default(), id));
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
    use sidetrack_policy::property::conditions_text;

    use crate::args::{Arguments, Objects, Task};

    fn said(words: &str) -> Result<Listing> {
        let words = ["sidetrack", "filter", "add", "f", "--layer", "auth-connect"]
            .into_iter()
            .chain(words.split_whitespace());
        match Arguments::try_parse_from(words)?.task {
            Task::Filter(Objects::Add(options)) => {
                objects(Kind::Filter, filter(&options)?, &Listing::default())
            }
            _ => panic!("it is a filter add"),
        }
    }

    #[test]
    fn a_filter_on_the_command_line_is_as_in_a_file() {
        let listing = said(
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
    fn what_is_wrong_is_told_in_one_sentence() {
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
        let told = wrong.map(|words| said(words).expect_err("it is wrong").to_string());
        insta::assert_snapshot!(told.join("\n"));
    }
}
