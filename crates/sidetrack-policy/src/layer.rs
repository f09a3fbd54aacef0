//! Layers: the places where the kernel asks the filter engine (specification, 4.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Error};

/// A layer of one address family (WFP: FWPM_LAYER_ALE_…_V4 and …_V6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Layer {
    /// Which question is asked.
    pub kind: LayerKind,
    /// Of the connection's addresses; an IPv4-mapped socket's are IPv4.
    pub family: Family,
}

/// Which question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// bind with an explicit address: may it?
    BindRedirect,
    /// connect: to which service, if to any? Asked before [`LayerKind::AuthConnect`].
    ConnectRedirect,
    /// connect: may it?
    AuthConnect,
    /// A SYN for a listener: may it in?
    AuthRecvAccept,
    /// A connection is established, either way. An event: nothing to decide.
    FlowEstablished,
    /// An established connection's socket closes. An event: nothing to decide.
    EndpointClosure,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Family {
    V4,
    V6,
}

impl LayerKind {
    /// All, in the order in which a connection meets them.
    pub const ALL: [Self; 6] = [
        Self::BindRedirect,
        Self::ConnectRedirect,
        Self::AuthConnect,
        Self::AuthRecvAccept,
        Self::FlowEstablished,
        Self::EndpointClosure,
    ];

    /// As in policy files, without the family.
    pub fn name(self) -> &'static str {
        match self {
            Self::BindRedirect => "bind-redirect",
            Self::ConnectRedirect => "connect-redirect",
            Self::AuthConnect => "auth-connect",
            Self::AuthRecvAccept => "auth-recv-accept",
            Self::FlowEstablished => "flow-established",
            Self::EndpointClosure => "endpoint-closure",
        }
    }

    /// Both families of it.
    pub fn both(self) -> [Layer; 2] {
        [Family::V4, Family::V6].map(|family| Layer { kind: self, family })
    }
}

impl Family {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Layer {
    /// All twelve.
    pub fn all() -> impl Iterator<Item = Self> {
        LayerKind::ALL.into_iter().flat_map(LayerKind::both)
    }

    /// Its number in the kernel's image.
    pub fn index(self) -> usize {
        self.kind as usize * 2 + self.family as usize
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        write!(f, "{}-{family}", self.kind.name())
    }
}

impl FromStr for Layer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::all()
            .find(|layer| layer.to_string() == text)
            .ok_or_else(|| {
                Error::new(
                    Code::LayerNotFound,
                    format!("there is no layer {text:?}; connect-redirect-v4 is one"),
                )
            })
    }
}

impl From<Layer> for String {
    fn from(layer: Layer) -> Self {
        layer.to_string()
    }
}

impl TryFrom<String> for Layer {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_reads_back_from_its_name() {
        for (index, layer) in Layer::all().enumerate() {
            assert_eq!(layer.to_string().parse::<Layer>().unwrap(), layer);
            assert_eq!(layer.index(), index);
        }
        let error = "connect-v4".parse::<Layer>().unwrap_err();
        assert_eq!(error.code, Code::LayerNotFound);
    }
}
