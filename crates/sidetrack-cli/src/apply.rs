//! `sidetrack apply` and `sidetrack check`: policies as files.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use sidetrack_abi::text::{Printable, PrintableLines, count};
use sidetrack_api::{Client, v1};
use sidetrack_policy_file::diff::Diff;
use sidetrack_policy_file::{FILE_SIZE_MAX, FileErrors, Listing, ParseOptions, Policy, parse};

use crate::args;
use crate::daemon::{open_session, status_error, user_id, with_daemon};
use crate::format::json_lines;
use crate::object::{ListedObject, ObjectNames};
use crate::text_style::TextStyle;

/// Exit code of `check` if the file has an error, and of a dry run if something would change.
const EXIT_FOUND: u8 = 1;

pub(crate) fn apply(options: &args::ApplyArgs) -> Result<ExitCode> {
    let text = read(&options.file)?;
    let (applied, diff) = with_daemon(&options.daemon, async |mut client| {
        let mut names = ObjectNames::fetch(&mut client).await?;
        let policy = parse_policy(
            &text,
            &options.file,
            options.owner.as_deref(),
            &names.referable,
        )
        .map_err(|errors| anyhow!("{errors}"))?;
        names.extend(&policy.objects);
        let session = open_session(&mut client, "apply").await?;
        let request = apply_request(&policy, session.id(), options.dry_run);
        let applied = put_in_force(&mut client, request).await?;
        let diff = difference(&applied.changes, &names)?;
        Ok((applied, diff))
    })?;
    let text = match options.json {
        true => json_lines(&result_json(&applied, options.dry_run, &diff)?)?,
        false => result_text(&applied, options.dry_run, &diff, TextStyle::stdout()),
    };
    writeln!(io::stdout(), "{}", text.trim_end())?;
    let found = options.dry_run && !diff.is_empty();
    Ok(ExitCode::from(if found { EXIT_FOUND } else { 0 }))
}

/// Checks a file without a daemon, and prints its errors.
pub(crate) fn check(options: &args::CheckArgs) -> Result<ExitCode> {
    let text = read(&options.file)?;
    let checked = parse_policy(&text, &options.file, None, &Listing::default());
    let good = checked.is_ok();
    let text = match (checked, options.json) {
        (Ok(policy), false) => {
            let objects = &policy.objects;
            format!(
                "{}: no errors; {}, {}, {} and {}, owned by {:?}",
                Printable(options.file.display()),
                count(objects.providers.len(), "provider"),
                count(objects.sublayers.len(), "sublayer"),
                count(objects.services.len(), "service"),
                count(objects.filters.len(), "filter"),
                policy.owner,
            )
        }
        (Ok(policy), true) => json_lines(&json!({
            "owner": policy.owner,
            "objects": policy.objects,
        }))?,
        (Err(errors), false) => PrintableLines(&errors).to_string(),
        (Err(errors), true) => json_lines(&errors_json(&errors))?,
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(ExitCode::from(if good { 0 } else { EXIT_FOUND }))
}

/// Reads the file, at most one byte more than a policy may have; the parser then refuses it as too
/// large.
fn read(file: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = FILE_SIZE_MAX as u64 + 1;
    let result = match file.as_os_str() == "-" {
        true => io::stdin().take(limit).read_to_end(&mut text),
        false => File::open(file).and_then(|file| file.take(limit).read_to_end(&mut text)),
    };
    result.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// Parses a policy. `others` are the objects in force to which it may refer.
fn parse_policy(
    text: &[u8],
    file: &Path,
    owner: Option<&str>,
    others: &Listing,
) -> Result<Policy, FileErrors> {
    let name = Printable(file.display()).to_string();
    parse(
        text,
        &ParseOptions {
            file: if name == "-" { "standard input" } else { &name },
            owner,
            others,
            users: &user_id,
        },
    )
}

fn apply_request(policy: &Policy, session_id: u64, dry_run: bool) -> v1::ApplyPolicyRequest {
    let objects = &policy.objects;
    v1::ApplyPolicyRequest {
        session_id,
        owner: policy.owner.clone(),
        dry_run,
        providers: objects.providers.iter().map(Into::into).collect(),
        sublayers: objects.sublayers.iter().map(Into::into).collect(),
        services: objects.services.iter().map(Into::into).collect(),
        filters: objects.filters.iter().map(Into::into).collect(),
    }
}

async fn put_in_force(
    client: &mut Client,
    request: v1::ApplyPolicyRequest,
) -> Result<v1::ApplyPolicyResponse> {
    let applied = client.apply_policy(request).await.map_err(status_error)?;
    Ok(applied.into_inner())
}

/// Converts the changes that the daemon reports into a list of changed properties.
fn difference(changes: &[v1::Change], names: &ObjectNames) -> Result<Diff> {
    let mut diff = Diff::default();
    for change in changes {
        let before = change.before.clone().map(from_wire).transpose()?.flatten();
        let after = change.after.clone().map(from_wire).transpose()?.flatten();
        diff.compare(
            before.as_ref().map(ListedObject::object),
            after.as_ref().map(ListedObject::object),
            &|key| names.name_of(key),
        );
    }
    Ok(diff)
}

fn from_wire(object: v1::Object) -> Result<Option<ListedObject>> {
    use v1::object::Kind::{Filter, Provider, Service, Sublayer};
    Ok(match object.kind {
        Some(Provider(one)) => Some(one.try_into()?),
        Some(Sublayer(one)) => Some(one.try_into()?),
        Some(Service(one)) => Some(one.try_into()?),
        Some(Filter(one)) => Some(one.try_into()?),
        None => None,
    })
}

fn result_text(
    applied: &v1::ApplyPolicyResponse,
    dry_run: bool,
    diff: &Diff,
    style: TextStyle,
) -> String {
    let v1::ApplyPolicyResponse {
        generation,
        added,
        replaced,
        removed,
        unchanged,
        changes: _,
    } = applied;
    let numbers =
        format!("{added} added, {replaced} changed, {removed} removed, {unchanged} unchanged");
    if !dry_run {
        return format!("in force as generation {generation}: {numbers}");
    }
    let mut text = String::new();
    for line in diff.to_string().lines() {
        let line = Printable(line).to_string();
        text.push_str(&match line.as_bytes().first() {
            Some(b'+') => style.green(&line),
            Some(b'-') => style.red(&line),
            Some(b'~') => style.yellow(&line),
            _ => line,
        });
        text.push('\n');
    }
    text + &format!("dry run: {numbers}; nothing was changed")
}

fn result_json(applied: &v1::ApplyPolicyResponse, dry_run: bool, diff: &Diff) -> Result<Value> {
    let mut all = json!({
        "dry_run": dry_run,
        "generation": applied.generation,
        "added": applied.added,
        "changed": applied.replaced,
        "removed": applied.removed,
        "unchanged": applied.unchanged,
    });
    if dry_run {
        all["difference"] = serde_json::to_value(diff)?;
    }
    Ok(all)
}

fn errors_json(errors: &FileErrors) -> Value {
    let each = errors.shown.iter().map(|error| {
        json!({
            "message": error.message,
            "advice": error.advice,
            "code": error.code.map(|code| code.name()),
            "line": error.position.as_ref().map(|position| position.line),
            "column": error.position.as_ref().map(|position| position.column),
        })
    });
    json!({ "faults": each.collect::<Vec<_>>(), "stopped": errors.stopped })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        let policy = parse_policy(text.as_bytes(), Path::new("-"), None, &Listing::default());
        policy.unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn changes_are_shown_property_by_property() {
        let before = policy(
            "filter = [{ name = \"a\", layer = \"auth-connect-v4\", action = \"block\", \
             remote_port = 1 }, { name = \"b\", layer = \"auth-connect-v4\", action = \"block\" }]",
        );
        let after = policy(
            "sublayer = [{ name = \"s\" }]\nfilter = [{ name = \"a\", layer = \
             \"auth-connect-v4\", action = \"block\", remote_port = 2, sublayer = \"s\" }]",
        );
        let (old, new) = (
            apply_request(&before, 1, true),
            apply_request(&after, 1, true),
        );
        let filter = |one: &v1::Filter| v1::Object {
            kind: Some(v1::object::Kind::Filter(one.clone())),
        };
        let sublayer = v1::Object {
            kind: Some(v1::object::Kind::Sublayer(new.sublayers[0].clone())),
        };
        let changes = [
            (None, Some(sublayer)),
            (Some(filter(&old.filters[0])), Some(filter(&new.filters[0]))),
            (Some(filter(&old.filters[1])), None),
        ]
        .map(|(before, after)| v1::Change {
            operation: 0,
            before,
            after,
        });
        let names = ObjectNames::of(after.objects.clone());
        let diff = difference(&changes, &names).unwrap();
        let applied = v1::ApplyPolicyResponse {
            generation: 7,
            added: 1,
            replaced: 1,
            removed: 1,
            unchanged: 0,
            changes: changes.to_vec(),
        };
        insta::assert_snapshot!(result_text(&applied, true, &diff, TextStyle::plain()));
        let done = result_text(&applied, false, &Diff::default(), TextStyle::plain());
        insta::assert_snapshot!(done, @"in force as generation 7: 1 added, 1 changed, 1 removed, 0 unchanged");
    }
}
