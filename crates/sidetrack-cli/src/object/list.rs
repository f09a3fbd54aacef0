//! `ls` and `show` of each kind of object.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use sidetrack_policy::{Listeners, Uuid};
use sidetrack_policy_file::property::{action_text, conditions_text};

use super::{ListedKind, ListedObject, ObjectKind, ObjectNames, fetch, find};
use crate::args;
use crate::daemon::with_daemon;
use crate::format::json_lines;
use crate::table::{Table, properties};
use crate::text_style::TextStyle;

pub(crate) fn list(kind: ObjectKind, options: &args::ListArgs) -> Result<ExitCode> {
    let (all, names) = with_daemon(&options.daemon, async |mut client| {
        let names = ObjectNames::fetch(&mut client).await?;
        let provider = match &options.provider {
            Some(name) => Some(provider_key(&names, name)?),
            None => None,
        };
        Ok((fetch(&mut client, kind, 0, provider).await?, names))
    })?;
    let text = match options.json {
        true => {
            let all: Vec<_> = all.iter().map(ListedObject::json).collect::<Result<_>>()?;
            json_lines(&all)? + "\n"
        }
        false => render(kind, &all, &names, TextStyle::stdout()),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(kind: ObjectKind, options: &args::ShowArgs) -> Result<ExitCode> {
    let (all, names) = with_daemon(&options.daemon, async |mut client| {
        let names = ObjectNames::fetch(&mut client).await?;
        Ok((fetch(&mut client, kind, 0, None).await?, names))
    })?;
    let found = find(kind, &all, &options.name)?;
    let text = match options.json {
        true => {
            let all: Vec<_> = found
                .iter()
                .map(|object| object.json())
                .collect::<Result<_>>()?;
            json_lines(&all)? + "\n"
        }
        false => {
            let sections = found
                .iter()
                .map(|object| render_properties(object, &names, TextStyle::stdout()));
            sections.collect::<Vec<_>>().join("\n")
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn provider_key(names: &ObjectNames, name: &str) -> Result<Uuid> {
    if let Ok(key) = name.parse() {
        return Ok(key);
    }
    let providers = &names.referable.providers;
    let found = providers
        .iter()
        .find(|provider| provider.identity.name == name);
    found
        .map(|provider| provider.identity.key)
        .with_context(|| {
            format!("there is no provider {name:?}; `sidetrack provider ls` lists them")
        })
}

/// Renders all properties of an object, one per line.
fn render_properties(object: &ListedObject, names: &ObjectNames, style: TextStyle) -> String {
    let mut all = object.object().properties(&|key| names.name_of(key));
    match &object.kind {
        ListedKind::Filter {
            filter,
            effective_weight,
            owner,
        } => {
            all.push(("effective_weight", effective_weight.to_string()));
            all.push(("id", filter.id.to_string()));
            if !owner.is_empty() {
                all.push(("owner", owner.clone()));
            }
        }
        ListedKind::Service { listeners, .. } => {
            all.push(("listening", listening_text(*listeners)));
        }
        ListedKind::Provider(_) | ListedKind::Sublayer(_) => {}
    }
    all.push(("user", object.user.to_string()));
    properties(all, style)
}

fn render(kind: ObjectKind, all: &[ListedObject], names: &ObjectNames, style: TextStyle) -> String {
    match kind {
        ObjectKind::Provider => render_providers(all, style),
        ObjectKind::Sublayer => render_sublayers(all, names, style),
        ObjectKind::Service => render_services(all, names, style),
        ObjectKind::Filter => render_filters(all, names, style),
    }
}

fn name_or_key(names: &ObjectNames, key: Option<Uuid>) -> String {
    let name = |key| names.name_of(key).unwrap_or_else(|| key.to_string());
    key.map_or_else(|| "-".to_owned(), name)
}

fn render_providers(all: &[ListedObject], style: TextStyle) -> String {
    let mut table = Table::new(["NAME", "LIFETIME", "UNIT", "KEY"]);
    for object in all {
        if let ListedKind::Provider(provider) = &object.kind {
            table.push([
                provider.identity.name.clone(),
                provider.lifetime.to_string(),
                provider
                    .service_name
                    .clone()
                    .unwrap_or_else(|| "-".to_owned()),
                provider.identity.key.to_string(),
            ]);
        }
    }
    table.render(style)
}

/// Renders the sublayers in the order in which they are evaluated.
fn render_sublayers(all: &[ListedObject], names: &ObjectNames, style: TextStyle) -> String {
    let mut sublayers: Vec<_> = all
        .iter()
        .filter_map(|object| match &object.kind {
            ListedKind::Sublayer(sublayer) => Some(sublayer),
            _ => None,
        })
        .collect();
    sublayers.sort_by_key(|sublayer| std::cmp::Reverse(sublayer.weight));
    let mut table = Table::new(["WEIGHT", "NAME", "PROVIDER", "LIFETIME", "KEY"]);
    for sublayer in sublayers {
        table.push([
            sublayer.weight.to_string(),
            sublayer.identity.name.clone(),
            name_or_key(names, sublayer.provider),
            sublayer.lifetime.to_string(),
            sublayer.identity.key.to_string(),
        ]);
    }
    table.render(style)
}

/// Names the protocols and families for which a service has listeners.
fn listening_text(listeners: Listeners) -> String {
    match listeners.is_empty() {
        true => "no".to_owned(),
        false => listeners.to_string(),
    }
}

fn render_services(all: &[ListedObject], names: &ObjectNames, style: TextStyle) -> String {
    let mut table = Table::new(["NAME", "LISTENING", "PROVIDER", "LIFETIME", "KEY"]);
    for object in all {
        if let ListedKind::Service { service, listeners } = &object.kind {
            table.push([
                service.identity.name.clone(),
                listening_text(*listeners),
                name_or_key(names, service.provider),
                service.lifetime.to_string(),
                service.identity.key.to_string(),
            ]);
        }
    }
    table.render(style)
}

/// Renders the filters in the order in which they are evaluated: by layer, those restricted to one
/// user last, then by the weight of the sublayer, then by their own weight.
fn render_filters(all: &[ListedObject], names: &ObjectNames, style: TextStyle) -> String {
    let sublayers = &names.listing.sublayers;
    let weights: std::collections::HashMap<_, _> = sublayers
        .iter()
        .map(|sublayer| (sublayer.identity.key, sublayer.weight))
        .collect();
    let mut filters: Vec<_> = all
        .iter()
        .filter_map(|object| match &object.kind {
            ListedKind::Filter {
                filter,
                effective_weight,
                ..
            } => Some((filter, *effective_weight)),
            _ => None,
        })
        .collect();
    filters.sort_by_key(|(filter, weight)| {
        let sublayer_weight = weights.get(&filter.sublayer).copied().unwrap_or(0);
        let heavier_first = std::cmp::Reverse((sublayer_weight, filter.sublayer, *weight));
        let restricted_last = filter.only_user.is_some();
        (filter.layer, restricted_last, heavier_first, filter.id)
    });
    let mut table = Table::new([
        "LAYER",
        "SUBLAYER",
        "WEIGHT",
        "NAME",
        "ACTION",
        "CONDITIONS",
    ]);
    for (filter, weight) in filters {
        let mut action = action_text(filter.action, &|key| names.name_of(key));
        if filter.clear_action_right {
            action.push_str(", hard");
        }
        if filter.disabled {
            action.push_str(" (disabled)");
        }
        table.push([
            filter.layer.to_string(),
            name_or_key(names, Some(filter.sublayer)),
            weight.to_string(),
            filter.identity.name.clone(),
            action,
            conditions_text(&filter.effective_conditions()),
        ]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidetrack_policy_file::property::AnyObject;
    use sidetrack_policy_file::{Listing, ParseOptions, parse};

    const POLICY: &str = r#"
provider = [{ name = "acme", service_name = "acme.service", lifetime = "persistent" }]
sublayer = [{ name = "low", weight = 5 }, { name = "high", weight = 65535, provider = "acme" }]
service = [{ name = "inspect", provider = "acme", context = "auto" }]
defaults = { layer = "connect-redirect-v4" }
filter = [
    { name = "rest", sublayer = "low", action = "permit", weight = 1 },
    { name = "web", sublayer = "high", action = { redirect = "inspect" }, weight = 10,
      remote_port = [80, "8000-8999"], protocol = "tcp", cgroup = { prefix = "/system.slice" } },
    { name = "first", sublayer = "high", action = "block", weight = 20, disabled = true,
      clear_action_right = true, flags = "loopback" },
]
"#;

    /// Returns the objects of one kind of [`POLICY`] as the daemon would list them.
    fn listed(kind: ObjectKind) -> (Vec<ListedObject>, ObjectNames) {
        let options = ParseOptions {
            file: "policy.toml",
            owner: None,
            others: &Listing::default(),
            users: &|_| None,
        };
        let policy = parse(POLICY.as_bytes(), &options);
        let objects = policy.unwrap_or_else(|errors| panic!("{errors}")).objects;
        let names = ObjectNames::of(objects.clone());
        let wire: Vec<_> = objects
            .all()
            .filter(|object| object.kind() == kind.to_string())
            .map(|object| match object {
                AnyObject::Provider(one) => {
                    ListedObject::try_from(sidetrack_api::v1::Provider::from(one))
                }
                AnyObject::Sublayer(one) => {
                    ListedObject::try_from(sidetrack_api::v1::Sublayer::from(one))
                }
                AnyObject::Service(one) => {
                    ListedObject::try_from(sidetrack_api::v1::Service::from(one))
                }
                AnyObject::Filter(one) => {
                    ListedObject::try_from(sidetrack_api::v1::Filter::from(one))
                }
            })
            .collect::<Result<_, _>>()
            .unwrap();
        (wire, names)
    }

    #[test]
    fn listings_are_in_the_order_of_evaluation() {
        let mut text = String::new();
        for kind in [
            ObjectKind::Provider,
            ObjectKind::Sublayer,
            ObjectKind::Service,
            ObjectKind::Filter,
        ] {
            let (all, names) = listed(kind);
            text.push_str(&render(kind, &all, &names, TextStyle::plain()));
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn show_prints_all_properties() {
        let (all, names) = listed(ObjectKind::Filter);
        let found = find(ObjectKind::Filter, &all, "web").unwrap();
        insta::assert_snapshot!(render_properties(found[0], &names, TextStyle::plain()));
        let json = serde_json::to_string_pretty(&found[0].json().unwrap()).unwrap();
        insta::assert_snapshot!("json", json);
        let missing = find(ObjectKind::Filter, &all, "wbe").err().unwrap();
        assert_eq!(
            missing.to_string(),
            "there is no filter \"wbe\"; `sidetrack filter ls` lists them"
        );
    }
}
