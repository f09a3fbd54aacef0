//! What each object must satisfy on its own. What objects must satisfy among each other is in
//! [`crate::set`].

use std::collections::BTreeMap;

use super::{
    Action, CONDITIONS_MAX, CONTEXT_SIZE_MAX, ConnectMode, DESCRIPTION_SIZE_MAX, Filter, Identity,
    NAME_SIZE_MAX, Provider, RecordsMode, RedirectContext, SERVICE_NAME_SIZE_MAX, Service,
    Sublayer,
};
use crate::{Code, Error, Field, LayerKind};

/// The first part of an object that is invalid. It displays as its error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct InvalidPart {
    /// The part.
    pub part: ObjectPart,
    /// What is wrong with it.
    pub error: Error,
}

/// A part of an object. With it, a reader of objects finds where the invalid part was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectPart {
    /// The name.
    Name,
    /// The description.
    Description,
    /// The redirect context of a service or filter.
    Context,
    /// The settings of a service for records.
    Records,
    /// The setting of a service for pended connects.
    Connect,
    /// The weight of a filter.
    Weight,
    /// The action of a filter.
    Action,
    /// `on_absent` or `context` of a filter that does not redirect.
    RedirectOptions,
    /// The list of conditions of a filter, which is too long.
    Conditions,
    /// The condition of a filter with this index.
    Condition(usize),
    /// All conditions of a filter on this field, none of which can hold.
    Field(Field),
}

impl From<InvalidPart> for Error {
    fn from(invalid: InvalidPart) -> Self {
        invalid.error
    }
}

impl Provider {
    /// Checks the object on its own. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
    pub fn check(&self) -> Result<(), InvalidPart> {
        self.identity.check("provider", NAME_SIZE_MAX)
    }
}

impl Sublayer {
    /// Checks the object on its own. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS.
    pub fn check(&self) -> Result<(), InvalidPart> {
        self.identity.check("sublayer", NAME_SIZE_MAX)
    }
}

impl Service {
    /// Checks the object on its own. Errors: FWP_E_NULL_DISPLAY_NAME, …OUT_OF_BOUNDS,
    /// …INVALID_FLAGS.
    pub fn check(&self) -> Result<(), InvalidPart> {
        self.identity.check("service", SERVICE_NAME_SIZE_MAX)?;
        self.context.check()?;
        self.check_connect()
    }

    /// A legacy proxy accepts before it connects, and knows no way to complete a held connect.
    fn check_connect(&self) -> Result<(), InvalidPart> {
        if self.connect == ConnectMode::Pended && self.records == RecordsMode::Legacy {
            let message = format!(
                "service {:?} cannot have connect = \"pended\" with records = \"legacy\": a legacy proxy \
                 accepts each connection before it connects onward",
                self.identity.name
            );
            return Err(ObjectPart::Connect.refuse(Code::InvalidFlags, message));
        }
        Ok(())
    }

    /// Checks that the service may be added by a restricted author: neither its own traffic nor its
    /// records may let a connection pass the redirects of other users' filters. Errors:
    /// FWP_E_WRONG_SESSION.
    pub(crate) fn check_restricted(&self) -> Result<(), InvalidPart> {
        if self.records == RecordsMode::Required && self.records_bound {
            return Ok(());
        }
        let message = format!(
            "service {:?} needs records = \"required\" and records_bound = true: with other settings, its \
             proxy could pass the redirects of other users; only root and the members of \
             access.host_group may use them",
            self.identity.name
        );
        Err(ObjectPart::Records.refuse(Code::WrongSession, message))
    }
}

impl Filter {
    /// Checks the filter on its own. The objects to which it refers are checked when it is added.
    ///
    /// Errors: those of [`Condition::check`](crate::Condition::check) and of the weight,
    /// FWP_E_NULL_DISPLAY_NAME, …ACTION_INCOMPATIBLE_WITH_LAYER, …INVALID_FLAGS, …OUT_OF_BOUNDS,
    /// …NEVER_MATCH.
    pub fn check(&self) -> Result<(), InvalidPart> {
        self.identity.check("filter", NAME_SIZE_MAX)?;
        let weight = self.weight.check();
        weight.map_err(|error| ObjectPart::Weight.invalid(error))?;
        self.action.check(self.layer.kind)?;
        if let Some(context) = &self.context {
            context.check()?;
        }
        if self.action.service().is_none() && (self.on_absent.is_some() || self.context.is_some()) {
            let message = "only a filter that redirects can have on_absent or context; remove them";
            return Err(ObjectPart::RedirectOptions.refuse(Code::InvalidFlags, message));
        }
        self.check_conditions()?;
        self.check_satisfiable()
    }

    /// Checks that a filter that is restricted to one user can match connections of this user.
    /// Errors: FWP_E_NEVER_MATCH.
    pub(crate) fn check_restricted(&self) -> Result<(), InvalidPart> {
        match self.only_user {
            Some(user) if !self.may_match_user(user) => {
                let message = format!(
                    "filter {:?} can never match: it applies only to connections of user {user}, and \
                     its conditions on user exclude this user",
                    self.identity.name
                );
                Err(ObjectPart::Field(Field::User).refuse(Code::NeverMatch, message))
            }
            _ => Ok(()),
        }
    }

    fn check_conditions(&self) -> Result<(), InvalidPart> {
        if self.conditions.len() > CONDITIONS_MAX {
            let message = format!(
                "a filter can have at most {CONDITIONS_MAX} conditions; this one has {}",
                self.conditions.len()
            );
            return Err(ObjectPart::Conditions.refuse(Code::OutOfBounds, message));
        }
        for (index, condition) in self.conditions.iter().enumerate() {
            let checked = condition.check(self.layer);
            checked.map_err(|error| ObjectPart::Condition(index).invalid(error))?;
        }
        Ok(())
    }

    /// Refuses conditions that no connection can satisfy.
    fn check_satisfiable(&self) -> Result<(), InvalidPart> {
        let mut satisfiable: BTreeMap<Field, bool> = BTreeMap::new();
        for condition in &self.conditions {
            *satisfiable.entry(condition.field).or_default() |=
                !condition.is_impossible(self.layer);
        }
        match satisfiable.into_iter().find(|(_, possible)| !possible) {
            None => Ok(()),
            Some((field, _)) => {
                let message = format!(
                    "filter {:?} can never match: no value of {field} satisfies its conditions",
                    self.identity.name
                );
                Err(ObjectPart::Field(field).refuse(Code::NeverMatch, message))
            }
        }
    }
}

impl Identity {
    fn check(&self, kind: &str, name_size_max: usize) -> Result<(), InvalidPart> {
        if self.name.is_empty() {
            let message = format!("a {kind} needs a name that is not empty");
            return Err(ObjectPart::Name.refuse(Code::NullDisplayName, message));
        }
        if self.name.len() > name_size_max || self.name.chars().any(char::is_control) {
            let message = format!(
                "the name of a {kind} can have at most {name_size_max} bytes and no control \
                 characters; this one has {} bytes",
                self.name.len()
            );
            return Err(ObjectPart::Name.refuse(Code::OutOfBounds, message));
        }
        if self.description.len() > DESCRIPTION_SIZE_MAX {
            let message = format!(
                "the description of a {kind} can have at most {DESCRIPTION_SIZE_MAX} bytes; this \
                 one has {}",
                self.description.len()
            );
            return Err(ObjectPart::Description.refuse(Code::OutOfBounds, message));
        }
        Ok(())
    }
}

impl RedirectContext {
    fn check(&self) -> Result<(), InvalidPart> {
        match self {
            Self::Fixed(bytes) if bytes.len() > CONTEXT_SIZE_MAX => {
                let message = format!(
                    "a redirect context can have at most {CONTEXT_SIZE_MAX} bytes; this one has {}",
                    bytes.len()
                );
                Err(ObjectPart::Context.refuse(Code::OutOfBounds, message))
            }
            _ => Ok(()),
        }
    }
}

impl Action {
    fn check(self, layer: LayerKind) -> Result<(), InvalidPart> {
        if self.is_at(layer) {
            return Ok(());
        }
        let message = format!(
            "the layer {} does not have the action {}; use another action or layer",
            layer.name(),
            self.name()
        );
        Err(ObjectPart::Action.refuse(Code::ActionIncompatibleWithLayer, message))
    }
}

impl ObjectPart {
    fn refuse(self, code: Code, message: impl Into<String>) -> InvalidPart {
        self.invalid(Error::new(code, message))
    }

    fn invalid(self, error: Error) -> InvalidPart {
        InvalidPart { part: self, error }
    }
}
