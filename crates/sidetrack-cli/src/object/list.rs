//! `ls` and `show`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use sidetrack_policy::Uuid;
use sidetrack_policy::property::{action_text, conditions_text};

use super::{Kind, Listed, Names, fetch, find};
use crate::args;
use crate::daemon::ask;
use crate::style::Style;
use crate::table::{Table, properties};

pub(crate) fn list(kind: Kind, options: &args::List) -> Result<ExitCode> {
    let (all, names) = ask(&options.daemon, async |mut client| {
        let names = Names::fetch(&mut client).await?;
        let provider = match &options.provider {
            Some(name) => Some(provider_key(&names, name)?),
            None => None,
        };
        Ok((fetch(&mut client, kind, 0, provider).await?, names))
    })?;
    let text = match options.json {
        true => {
            let all: Vec<_> = all.iter().map(Listed::json).collect::<Result<_>>()?;
            serde_json::to_string_pretty(&all)? + "\n"
        }
        false => render(kind, &all, &names, Style::stdout()),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn show(kind: Kind, options: &args::Show) -> Result<ExitCode> {
    let (all, names) = ask(&options.daemon, async |mut client| {
        let names = Names::fetch(&mut client).await?;
        Ok((fetch(&mut client, kind, 0, None).await?, names))
    })?;
    let found = find(kind, &all, &options.name)?;
    let text = match options.json {
        true => {
            let all: Vec<_> = found.iter().map(|one| one.json()).collect::<Result<_>>()?;
            serde_json::to_string_pretty(&all)? + "\n"
        }
        false => {
            let each = found.iter().map(|one| whole(one, &names, Style::stdout()));
            each.collect::<Vec<_>>().join("\n")
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn provider_key(names: &Names, name: &str) -> Result<Uuid> {
    if let Ok(key) = name.parse() {
        return Ok(key);
    }
    let providers = &names.listing.providers;
    let found = providers.iter().find(|one| one.identity.name == name);
    found
        .map(|provider| provider.identity.key)
        .with_context(|| {
            format!("there is no provider {name:?}; `sidetrack provider ls` lists them")
        })
}

/// All properties of one.
fn whole(listed: &Listed, names: &Names, style: Style) -> String {
    let mut all = listed.object().properties(&|key| names.name_of(key));
    match listed {
        Listed::Filter {
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
        Listed::Service { listening, .. } => all.push(("listening", listening.to_string())),
        Listed::Provider(_) | Listed::Sublayer(_) => {}
    }
    properties(all, style)
}

fn render(kind: Kind, all: &[Listed], names: &Names, style: Style) -> String {
    match kind {
        Kind::Provider => render_providers(all, style),
        Kind::Sublayer => render_sublayers(all, names, style),
        Kind::Service => render_services(all, names, style),
        Kind::Filter => render_filters(all, names, style),
    }
}

fn named(names: &Names, key: Option<Uuid>) -> String {
    let name = |key| names.name_of(key).unwrap_or_else(|| key.to_string());
    key.map_or_else(|| "-".to_owned(), name)
}

fn render_providers(all: &[Listed], style: Style) -> String {
    let mut table = Table::new(["NAME", "LIFETIME", "UNIT", "KEY"]);
    for listed in all {
        if let Listed::Provider(one) = listed {
            table.push([
                one.identity.name.clone(),
                one.lifetime.to_string(),
                one.service_name.clone().unwrap_or_else(|| "-".to_owned()),
                one.identity.key.to_string(),
            ]);
        }
    }
    table.render(style)
}

/// In the order in which they are asked.
fn render_sublayers(all: &[Listed], names: &Names, style: Style) -> String {
    let mut sublayers: Vec<_> = all
        .iter()
        .filter_map(|listed| match listed {
            Listed::Sublayer(sublayer) => Some(sublayer),
            _ => None,
        })
        .collect();
    sublayers.sort_by_key(|one| std::cmp::Reverse(one.weight));
    let mut table = Table::new(["WEIGHT", "NAME", "PROVIDER", "LIFETIME", "KEY"]);
    for one in sublayers {
        table.push([
            one.weight.to_string(),
            one.identity.name.clone(),
            named(names, one.provider),
            one.lifetime.to_string(),
            one.identity.key.to_string(),
        ]);
    }
    table.render(style)
}

fn render_services(all: &[Listed], names: &Names, style: Style) -> String {
    let mut table = Table::new(["NAME", "LISTENING", "PROVIDER", "LIFETIME", "KEY"]);
    for listed in all {
        if let Listed::Service { service, listening } = listed {
            table.push([
                service.identity.name.clone(),
                if *listening { "yes" } else { "no" }.to_owned(),
                named(names, service.provider),
                service.lifetime.to_string(),
                service.identity.key.to_string(),
            ]);
        }
    }
    table.render(style)
}

/// By layer, then by sublayer's weight, then by weight: as they are asked.
fn render_filters(all: &[Listed], names: &Names, style: Style) -> String {
    let sublayers = &names.listing.sublayers;
    let weights: std::collections::HashMap<_, _> = sublayers
        .iter()
        .map(|one| (one.identity.key, one.weight))
        .collect();
    let mut filters: Vec<_> = all
        .iter()
        .filter_map(|listed| match listed {
            Listed::Filter {
                filter,
                effective_weight,
                ..
            } => Some((filter, *effective_weight)),
            _ => None,
        })
        .collect();
    filters.sort_by_key(|(one, weight)| {
        let sublayer = weights.get(&one.sublayer).copied().unwrap_or(0);
        let heavier_first = std::cmp::Reverse((sublayer, one.sublayer, *weight));
        (one.layer, heavier_first, one.id)
    });
    let mut table = Table::new([
        "LAYER",
        "SUBLAYER",
        "WEIGHT",
        "NAME",
        "ACTION",
        "CONDITIONS",
    ]);
    for (one, weight) in filters {
        let mut action = action_text(one.action, &|key| names.name_of(key));
        if one.clear_action_right {
            action.push_str(", final");
        }
        if one.disabled {
            action.push_str(" (disabled)");
        }
        table.push([
            one.layer.to_string(),
            named(names, Some(one.sublayer)),
            weight.to_string(),
            one.identity.name.clone(),
            action,
            conditions_text(&one.conditions),
        ]);
    }
    table.render(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidetrack_policy::Listing;
    use sidetrack_policy::file::{Surroundings, parse};

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

    fn all(kind: Kind) -> (Vec<Listed>, Names) {
        let surroundings = Surroundings {
            file: "policy.toml",
            owner: None,
            others: &Listing::default(),
            users: &|_| None,
        };
        let policy = parse(POLICY.as_bytes(), &surroundings);
        let objects = policy.unwrap_or_else(|faults| panic!("{faults}")).objects;
        let names = Names::of(objects.clone());
        let wire: Vec<_> = objects
            .all()
            .filter(|object| object.kind() == kind.to_string())
            .map(|object| match object {
                sidetrack_policy::property::AnyObject::Provider(one) => {
                    Listed::try_from(sidetrack_api::v1::Provider::from(one))
                }
                sidetrack_policy::property::AnyObject::Sublayer(one) => {
                    Listed::try_from(sidetrack_api::v1::Sublayer::from(one))
                }
                sidetrack_policy::property::AnyObject::Service(one) => {
                    Listed::try_from(sidetrack_api::v1::Service::from(one))
                }
                sidetrack_policy::property::AnyObject::Filter(one) => {
                    Listed::try_from(sidetrack_api::v1::Filter::from(one))
                }
            })
            .collect::<Result<_, _>>()
            .unwrap();
        (wire, names)
    }

    #[test]
    fn listings_are_in_the_order_in_which_they_are_asked() {
        let mut text = String::new();
        for kind in [Kind::Provider, Kind::Sublayer, Kind::Service, Kind::Filter] {
            let (all, names) = all(kind);
            text.push_str(&render(kind, &all, &names, Style::plain()));
            text.push('\n');
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_is_shown_whole() {
        let (all, names) = all(Kind::Filter);
        let found = find(Kind::Filter, &all, "web").unwrap();
        insta::assert_snapshot!(whole(found[0], &names, Style::plain()));
        let json = serde_json::to_string_pretty(&found[0].json().unwrap()).unwrap();
        insta::assert_snapshot!("json", json);
        let missing = find(Kind::Filter, &all, "wbe").err().unwrap();
        assert_eq!(
            missing.to_string(),
            "there is no filter \"wbe\"; `sidetrack filter ls` lists them"
        );
    }
}
