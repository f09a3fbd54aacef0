//! `[[filter]]`: one filter for each family that its addresses allow.

use std::ops::Range;

use toml::de::DeValue;

use super::Reader;
use super::context::context;
use super::entry::{Entry, Text, Value as Written, no_such, number, text, wrong_type};
use super::fault::Mark;
use super::name::Kind;
use super::value::{Placed, conditions};
use crate::field::FieldType;
use crate::object::CONDITIONS_MAX;
use crate::{
    Action, Code, Condition, Family, Field, Filter, Layer, LayerKind, MatchType,
    SUBLAYER_UNIVERSAL, Weight,
};

/// Keys beside the fields.
pub(super) const KEYS: [&str; 13] = [
    "name",
    "description",
    "key",
    "lifetime",
    "provider",
    "layer",
    "sublayer",
    "weight",
    "action",
    "clear_action_right",
    "disabled",
    "on_absent",
    "context",
];

pub(super) const ACTIONS: [(&str, Action); 4] = [
    ("permit", Action::Permit),
    ("block", Action::Block),
    ("veto", Action::Veto),
    ("inspect", Action::Inspect),
];

/// A field's alternatives, and where its key stands.
struct Asked {
    field: Field,
    key: Range<usize>,
    alternatives: Vec<Placed>,
}

/// Reads one entry. `known` is all its keys, fields included.
pub(super) fn read(
    reader: &Reader<'_, '_>,
    entry: &Entry<'_>,
    known: &[&str],
) -> Result<Vec<Filter>, Mark> {
    entry.check_keys(known)?;
    let (layers, layer_span) = layers(entry)?;
    let asked = asked(reader, entry)?;
    let base = base(reader, entry, layers[0])?;
    let mut filters = Vec::new();
    for &layer in &layers {
        let Some(chosen) = choose(&asked, layer, layers.len() == 1) else {
            continue;
        };
        filters.push(finish(entry, &base, layer, &asked, chosen)?);
    }
    match (filters.as_mut_slice(), entry.text("key")?) {
        ([], _) => {
            let message = "its addresses are of different families, so it would never match";
            return Err(Mark::new(layer_span, message).code(Code::NeverMatch));
        }
        ([_, _, ..], Some(key)) => {
            let message = "a key belongs to one object, and this makes two, one for each family";
            return Err(Mark::new(key.span, message)
                .code(Code::InvalidParameter)
                .advice(format!("leave it out, or use layer {}", layers[0])));
        }
        (all, key) => {
            for filter in all {
                filter.identity.key = match &key {
                    Some(key) => super::explicit_key(key)?,
                    None => reader.key(
                        "filter",
                        &format!("{}@{}", filter.identity.name, filter.layer),
                    ),
                };
            }
        }
    }
    Ok(filters)
}

/// Everything but conditions and key.
fn base(reader: &Reader<'_, '_>, entry: &Entry<'_>, layer: Layer) -> Result<Filter, Mark> {
    let identity = reader.identity("filter", entry)?;
    let lifetime = reader.lifetime(entry)?;
    let sublayer = match entry.text("sublayer")? {
        Some(name) => reader.names.resolve(Kind::Sublayer, &name, lifetime)?,
        None => SUBLAYER_UNIVERSAL,
    };
    let mut filter = Filter {
        identity,
        lifetime,
        provider: reader.provider(entry, lifetime)?,
        sublayer,
        weight: weight(entry)?,
        clear_action_right: entry.flag("clear_action_right")?,
        disabled: entry.flag("disabled")?,
        on_absent: entry.choice("on_absent", &super::ABSENTS)?,
        context: context(entry)?,
        ..Filter::new("", layer, Action::Permit)
    };
    let written = entry.require("action", "\"permit\" or { redirect = \"NAME\" }")?;
    filter.action = action(reader, written, &filter)?;
    if !filter.action.is_at(layer.kind) {
        let (name, layer) = (filter.action.name(), layer.kind.name());
        let message = format!("layer {layer} has no action {name}");
        return Err(Mark::new(written.span(), message).code(Code::ActionIncompatibleWithLayer));
    }
    if filter.action.service().is_none()
        && let Some(value) = entry.get("on_absent").or(entry.get("context"))
    {
        let message = "on_absent and context go with a redirect only";
        return Err(Mark::new(value.span(), message).code(Code::InvalidFlags));
    }
    Ok(filter)
}

/// One layer, or both families of one.
fn layers(entry: &Entry<'_>) -> Result<(Vec<Layer>, Range<usize>), Mark> {
    let value = entry.require("layer", "\"connect-redirect\"")?;
    let Text { text, span } = text("layer", value)?;
    let (name, families) = match (text.strip_suffix("-v4"), text.strip_suffix("-v6")) {
        (Some(name), _) => (name, &[Family::V4][..]),
        (_, Some(name)) => (name, &[Family::V6][..]),
        (None, None) => (text, &[Family::V4, Family::V6][..]),
    };
    match LayerKind::ALL.into_iter().find(|kind| kind.name() == name) {
        Some(kind) => {
            let layers = families.iter().map(|&family| Layer { kind, family });
            Ok((layers.collect(), span))
        }
        None => {
            let names: Vec<_> = Layer::all().map(|layer| layer.to_string()).collect();
            let kinds = LayerKind::ALL.map(LayerKind::name);
            let all = kinds.into_iter().chain(names.iter().map(String::as_str));
            let message = format!("there is no layer {text:?}");
            Err(Mark::new(span, message)
                .code(Code::LayerNotFound)
                .near(text, all))
        }
    }
}

fn asked(reader: &Reader<'_, '_>, entry: &Entry<'_>) -> Result<Vec<Asked>, Mark> {
    let mut all = Vec::new();
    for (key, value) in entry.table {
        let name = key.get_ref().as_ref();
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            continue;
        };
        all.push(Asked {
            field,
            key: key.span(),
            alternatives: conditions(field, value, reader.users)?,
        });
    }
    all.sort_by_key(|asked| asked.key.start);
    let mut room = CONDITIONS_MAX;
    for each in &all {
        let Some(left) = room.checked_sub(each.alternatives.len()) else {
            let message = format!("a filter has at most {CONDITIONS_MAX} conditions");
            return Err(Mark::new(each.alternatives[room].span.clone(), message)
                .code(Code::OutOfBounds)
                .advice("make two filters of it"));
        };
        room = left;
    }
    Ok(all)
}

/// The conditions at a layer; none if a field allows nothing of its family.
///
/// If the layer was given with its family, an address of the other is a fault, found later.
fn choose(asked: &[Asked], layer: Layer, given: bool) -> Option<Vec<&Placed>> {
    let mut chosen = Vec::new();
    for each in asked {
        if each.field.kind() != FieldType::Address || given {
            chosen.extend(&each.alternatives);
            continue;
        }
        let own = |placed: &&Placed| family(&placed.condition) == Some(layer.family);
        // What is not an address of one family holds for all of the other.
        let always = each
            .alternatives
            .iter()
            .any(|placed| !own(&placed) && placed.condition.match_type == MatchType::NotEqual);
        let before = chosen.len();
        chosen.extend(each.alternatives.iter().filter(own).filter(|_| !always));
        if !always && chosen.len() == before {
            return None;
        }
    }
    Some(chosen)
}

fn family(condition: &Condition) -> Option<Family> {
    use crate::Value::{Address, Prefix, Range};
    match &condition.value {
        Address(address) => Some(Family::of(*address)),
        Prefix(prefix) => Some(Family::of(prefix.addr())),
        Range(low, _) => match **low {
            Address(address) => Some(Family::of(address)),
            _ => None,
        },
        _ => None,
    }
}

/// The filter of one layer, all checked, each fault at its place.
fn finish(
    entry: &Entry<'_>,
    base: &Filter,
    layer: Layer,
    asked: &[Asked],
    chosen: Vec<&Placed>,
) -> Result<Filter, Mark> {
    if let Some(each) = asked.iter().find(|each| !each.field.is_at(layer.kind)) {
        let (field, layer) = (each.field, layer.kind.name());
        let message = format!("the field {field} does not exist at layer {layer}");
        return Err(Mark::new(each.key.clone(), message).code(Code::ConditionNotFound));
    }
    for placed in &chosen {
        let checked = placed.condition.check(layer);
        checked.map_err(|error| Mark::of(placed.span.clone(), error))?;
    }
    for each in asked {
        let mut own = chosen
            .iter()
            .filter(|one| one.condition.field == each.field)
            .peekable();
        if own.peek().is_some() && own.all(|one| one.condition.is_impossible(layer)) {
            let message = format!(
                "no {} meets this, so the filter would never match",
                each.field
            );
            return Err(Mark::new(each.key.clone(), message).code(Code::NeverMatch));
        }
    }
    let filter = Filter {
        layer,
        conditions: chosen
            .into_iter()
            .map(|placed| placed.condition.clone())
            .collect(),
        ..base.clone()
    };
    let checked = filter.check();
    checked.map_err(|error| Mark::of(entry.span.clone(), error))?;
    Ok(filter)
}

fn weight(entry: &Entry<'_>) -> Result<Weight, Mark> {
    let Some(value) = entry.get("weight") else {
        return Ok(Weight::Auto);
    };
    match value.get_ref() {
        DeValue::String(text) if text == "auto" => Ok(Weight::Auto),
        DeValue::Table(_) => {
            let table = Entry::of("a weight", value)?;
            table.check_keys(&["class"])?;
            let class = table.require("class", "{ class = 8 }")?;
            let weight = Weight::Class(number("a weight class", class, u8::MAX.into())? as u8);
            let checked = weight.check();
            checked.map_err(|error| Mark::of(class.span(), error))?;
            Ok(weight)
        }
        DeValue::Integer(_) => number("weight", value, u64::MAX).map(Weight::Literal),
        _ => Err(wrong_type(
            "weight",
            "a number, \"auto\" or { class = 0…15 }",
            value,
        )),
    }
}

fn action(reader: &Reader<'_, '_>, value: &Written<'_>, filter: &Filter) -> Result<Action, Mark> {
    match value.get_ref() {
        DeValue::Table(_) => {
            let table = Entry::of("an action", value)?;
            table.check_keys(&["redirect"])?;
            let service = text(
                "redirect",
                table.require("redirect", "{ redirect = \"NAME\" }")?,
            )?;
            let key = reader
                .names
                .resolve(Kind::Service, &service, filter.lifetime)?;
            Ok(Action::Redirect(key))
        }
        DeValue::String(text) if text == "redirect" => {
            let message = "a redirect needs a service";
            Err(Mark::new(value.span(), message)
                .code(Code::NullPointer)
                .advice("write { redirect = \"NAME\" }"))
        }
        DeValue::String(text) => match ACTIONS.iter().find(|(name, _)| name == text) {
            Some((_, action)) => Ok(*action),
            None => {
                Err(no_such("action", text, value.span(), &ACTIONS).code(Code::InvalidActionType))
            }
        },
        _ => Err(wrong_type(
            "action",
            "a name or { redirect = \"NAME\" }",
            value,
        )),
    }
}
