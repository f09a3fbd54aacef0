//! The entries `[[filter]]`. An entry makes one filter for each address family that its addresses
//! allow.

use std::ops::Range;

use sidetrack_policy::field::FieldType;
use sidetrack_policy::object::{CONDITIONS_MAX, ObjectPart};
use sidetrack_policy::set::FILTERS_MAX;
use sidetrack_policy::{
    Action, Code, Condition, Family, Field, Filter, Layer, LayerKind, Lifetime, MatchType,
    SUBLAYER_UNIVERSAL, Value, Weight,
};
use toml::de::DeValue;

use super::Reader;
use super::object::{ON_ABSENT, error, explicit_key};
use crate::context::context;
use crate::error::SpannedError;
use crate::name::NameKind;
use crate::table::{FileTable, TomlText, TomlValue, not_a_choice, number, text, wrong_type};
use crate::value::{SpannedCondition, conditions};

/// Keys of a filter besides the fields.
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

/// The alternatives for a field, with the span of its key in the file.
struct FieldConditions {
    field: Field,
    key: Range<usize>,
    alternatives: Vec<SpannedCondition>,
}

impl<'d> Reader<'d, '_> {
    /// Reads one entry. `known` are all keys of a filter, including the fields.
    pub(super) fn filter_entry(
        &mut self,
        entry: &FileTable<'d>,
        known: &[&str],
    ) -> Result<(), SpannedError> {
        for filter in read(self, entry, known)? {
            if self.objects.filters.len() == FILTERS_MAX {
                let message = format!("a policy can have at most {FILTERS_MAX} filters");
                return Err(SpannedError::new(entry.span.clone(), message).code(Code::OutOfBounds));
            }
            self.check_unique("filter", entry, &filter.identity)?;
            self.objects.filters.push(filter);
        }
        Ok(())
    }
}

/// The filters of one entry: one for each layer for which its addresses allow one.
fn read(
    reader: &Reader<'_, '_>,
    entry: &FileTable<'_>,
    known: &[&str],
) -> Result<Vec<Filter>, SpannedError> {
    entry.check_keys(known)?;
    let (layers, layer_span) = layers(entry)?;
    let fields = field_conditions(reader, entry)?;
    let base = without_conditions(reader, entry, layers[0])?;
    check_fields(&fields, layers[0].kind)?;
    let mut filters = Vec::new();
    for &layer in &layers {
        let Some(conditions) = conditions_at(&fields, layer, layers.len() == 1) else {
            continue;
        };
        filters.push(finish(entry, &base, layer, &fields, conditions)?);
    }
    match (filters.as_mut_slice(), entry.text("key")?) {
        ([], _) => {
            let message =
                "the filter would never match: its addresses belong to different families";
            return Err(SpannedError::new(layer_span, message).code(Code::NeverMatch));
        }
        ([_, _, ..], Some(key)) => {
            let message = "a key belongs to one object, but this entry makes two filters, one for \
                           each address family";
            return Err(SpannedError::new(key.span, message)
                .code(Code::InvalidParameter)
                .advice(format!("leave the key out, or use the layer {}", layers[0])));
        }
        (all, key) => {
            for filter in all {
                filter.identity.key = match &key {
                    Some(key) => explicit_key(key)?,
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

/// The filter without its conditions and its key.
fn without_conditions(
    reader: &Reader<'_, '_>,
    entry: &FileTable<'_>,
    layer: Layer,
) -> Result<Filter, SpannedError> {
    let identity = reader.identity("filter", entry)?;
    let lifetime = reader.lifetime(entry)?;
    let sublayer = match entry.text("sublayer")? {
        Some(name) => reader.names.resolve(NameKind::Sublayer, &name, lifetime)?,
        None => SUBLAYER_UNIVERSAL,
    };
    let written = || entry.require("action", "\"permit\" or { redirect = \"NAME\" }");
    Ok(Filter {
        identity,
        lifetime,
        provider: reader.provider(entry, lifetime)?,
        sublayer,
        weight: weight(entry)?,
        clear_action_right: entry.flag("clear_action_right")?,
        disabled: entry.flag("disabled")?,
        on_absent: entry.choice("on_absent", &ON_ABSENT)?,
        context: context(entry)?,
        action: action(reader, written()?, lifetime)?,
        ..Filter::new("", layer, Action::Permit)
    })
}

/// The layer of an entry, or the layers of both families, with the span of the value.
fn layers(entry: &FileTable<'_>) -> Result<(Vec<Layer>, Range<usize>), SpannedError> {
    let value = entry.require("layer", "\"connect-redirect\"")?;
    let TomlText { text, span } = text("layer", value)?;
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
            Err(SpannedError::new(span, message)
                .code(Code::LayerNotFound)
                .near(text, all))
        }
    }
}

/// The conditions of all fields of an entry, in the order of the file.
fn field_conditions(
    reader: &Reader<'_, '_>,
    entry: &FileTable<'_>,
) -> Result<Vec<FieldConditions>, SpannedError> {
    let mut all = Vec::new();
    for (key, value) in entry.table {
        let name = key.get_ref().as_ref();
        let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) else {
            continue;
        };
        all.push(FieldConditions {
            field,
            key: key.span(),
            alternatives: conditions(field, value, reader.users)?,
        });
    }
    all.sort_by_key(|field| field.key.start);
    // The limit of a filter, but for the conditions of both families together: reading stops at the
    // first one too many.
    let mut remaining = CONDITIONS_MAX;
    for each in &all {
        let Some(left) = remaining.checked_sub(each.alternatives.len()) else {
            let message = format!("a filter can have at most {CONDITIONS_MAX} conditions");
            return Err(
                SpannedError::new(each.alternatives[remaining].span.clone(), message)
                    .code(Code::OutOfBounds)
                    .advice("split it into two filters"),
            );
        };
        remaining = left;
    }
    Ok(all)
}

/// Checks that the layer has all fields of an entry, also those of which it needs no condition.
fn check_fields(fields: &[FieldConditions], layer: LayerKind) -> Result<(), SpannedError> {
    let Some(missing) = fields.iter().find(|each| !each.field.is_at(layer)) else {
        return Ok(());
    };
    let (field, layer) = (missing.field, layer.name());
    let message = format!("the layer {layer} does not have the field {field}");
    Err(SpannedError::new(missing.key.clone(), message)
        .code(Code::ConditionNotFound)
        .advice("leave it out, or use another layer"))
}

/// The conditions for a layer; none if a field allows no address of the layer's family.
///
/// `explicit_family` is true if the file names the layer with its family. Then all conditions are
/// returned, and addresses of the other family make the filter invalid.
fn conditions_at(
    fields: &[FieldConditions],
    layer: Layer,
    explicit_family: bool,
) -> Option<Vec<&SpannedCondition>> {
    let mut chosen = Vec::new();
    for each in fields {
        if each.field.kind() != FieldType::Address || explicit_family {
            chosen.extend(&each.alternatives);
            continue;
        }
        let own = |one: &&SpannedCondition| family(&one.condition) == Some(layer.family);
        // not_equal with an address of one family holds for all addresses of the other.
        let always = each
            .alternatives
            .iter()
            .any(|one| !own(&one) && one.condition.match_type == MatchType::NotEqual);
        let before = chosen.len();
        chosen.extend(each.alternatives.iter().filter(own).filter(|_| !always));
        if !always && chosen.len() == before {
            return None;
        }
    }
    Some(chosen)
}

fn family(condition: &Condition) -> Option<Family> {
    use Value::{Address, Prefix, Range};
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

/// The filter for one layer.
fn finish(
    entry: &FileTable<'_>,
    base: &Filter,
    layer: Layer,
    fields: &[FieldConditions],
    conditions: Vec<&SpannedCondition>,
) -> Result<Filter, SpannedError> {
    let filter = Filter {
        layer,
        conditions: conditions
            .iter()
            .map(|each| each.condition.clone())
            .collect(),
        ..base.clone()
    };
    match filter.check() {
        Ok(()) => Ok(filter),
        Err(invalid) => Err(match invalid.part {
            ObjectPart::Condition(index) => {
                SpannedError::of(conditions[index].span.clone(), invalid.error)
            }
            ObjectPart::Field(field) => {
                let written = fields.iter().find(|each| each.field == field);
                let span = written.map_or(entry.span.clone(), |each| each.key.clone());
                let message =
                    format!("no value of {field} satisfies this, so the filter would never match");
                SpannedError::new(span, message).code(invalid.error.code)
            }
            _ => error(entry, invalid),
        }),
    }
}

fn weight(entry: &FileTable<'_>) -> Result<Weight, SpannedError> {
    let Some(value) = entry.get("weight") else {
        return Ok(Weight::Auto);
    };
    match value.get_ref() {
        DeValue::String(text) if text == "auto" => Ok(Weight::Auto),
        DeValue::Table(_) => {
            let table = FileTable::of("a weight", value)?;
            table.check_keys(&["class"])?;
            let class = table.require("class", "{ class = 8 }")?;
            let class = number("a weight class", class, u8::MAX.into())?;
            Ok(Weight::Class(class as u8))
        }
        DeValue::Integer(_) => number("weight", value, u64::MAX).map(Weight::Literal),
        _ => Err(wrong_type(
            "weight",
            "a number, \"auto\" or { class = 0…15 }",
            value,
        )),
    }
}

fn action(
    reader: &Reader<'_, '_>,
    value: &TomlValue<'_>,
    lifetime: Lifetime,
) -> Result<Action, SpannedError> {
    match value.get_ref() {
        DeValue::Table(_) => {
            let table = FileTable::of("an action", value)?;
            table.check_keys(&["redirect"])?;
            let service = text(
                "redirect",
                table.require("redirect", "{ redirect = \"NAME\" }")?,
            )?;
            let key = reader
                .names
                .resolve(NameKind::Service, &service, lifetime)?;
            Ok(Action::Redirect(key))
        }
        DeValue::String(text) if text == "redirect" => {
            let message = "the action redirect needs the name of a service";
            Err(SpannedError::new(value.span(), message)
                .code(Code::NullPointer)
                .advice("write { redirect = \"NAME\" }"))
        }
        DeValue::String(text) => {
            match ACTIONS.iter().find(|(name, _)| name == text) {
                Some((_, action)) => Ok(*action),
                None => Err(not_a_choice("action", text, value.span(), &ACTIONS)
                    .code(Code::InvalidActionType)),
            }
        }
        _ => Err(wrong_type(
            "action",
            "a name or { redirect = \"NAME\" }",
            value,
        )),
    }
}
