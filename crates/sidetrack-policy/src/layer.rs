//! Layers: the points at which a connection is classified (docs/wfp.md, 4.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Error};

/// A layer for one address family (WFP: FWPM_LAYER_ALE_…_V4 and …_V6).
///
/// Its text form is the one of policy files, for example `connect-redirect-v4`:
///
/// ```
/// use sidetrack_policy::{Family, Layer, LayerKind};
///
/// let layer: Layer = "connect-redirect-v4".parse()?;
/// assert_eq!(layer.kind, LayerKind::ConnectRedirect);
/// assert_eq!(layer.family, Family::V4);
/// # Ok::<(), sidetrack_policy::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Layer {
    /// The point at which the connection is classified.
    pub kind: LayerKind,
    /// Family of the connection's addresses. IPv4-mapped IPv6 addresses count as IPv4.
    pub family: Family,
}

/// A layer without its address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// A socket binds to an explicit address. The verdict permits or blocks it.
    BindRedirect,
    /// A socket connects, before [`LayerKind::AuthConnect`]. The verdict permits, blocks or
    /// redirects it.
    ConnectRedirect,
    /// A socket connects. The verdict permits or blocks it.
    AuthConnect,
    /// A SYN for a listener, or the first datagram of a sender, arrives. The verdict permits or blocks it.
    AuthRecvAccept,
    /// A connection is established, or a UDP conversation has begun, in either direction. Filters can
    /// only inspect it.
    FlowEstablished,
    /// The socket of an established connection, or of UDP conversations, closes. Filters can only inspect
    /// it.
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
    /// All kinds, in the order in which a connection passes them.
    pub const ALL: [Self; 6] = [
        Self::BindRedirect,
        Self::ConnectRedirect,
        Self::AuthConnect,
        Self::AuthRecvAccept,
        Self::FlowEstablished,
        Self::EndpointClosure,
    ];

    /// Name in policy files, without the address family, for example `connect-redirect`.
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

    /// The layers for IPv4 and IPv6, in this order.
    pub fn both(self) -> [Layer; 2] {
        [Family::V4, Family::V6].map(|family| Layer { kind: self, family })
    }
}

impl Family {
    /// Name in messages: `IPv4` or `IPv6`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family of an address. An IPv4-mapped IPv6 address is IPv6 here.
    pub fn of(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::V4,
            std::net::IpAddr::V6(_) => Self::V6,
        }
    }
}

impl Layer {
    /// All twelve layers, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        LayerKind::ALL.into_iter().flat_map(LayerKind::both)
    }

    /// Number of the layer in the kernel's image, from 0 to 11.
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
                let names = LayerKind::ALL.map(LayerKind::name).join(", ");
                Error::new(
                    Code::LayerNotFound,
                    format!(
                        "there is no layer {text:?}; use one of {names}, followed by -v4 or -v6"
                    ),
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
    fn every_layer_is_parsed_from_its_name() {
        for (index, layer) in Layer::all().enumerate() {
            assert_eq!(layer.to_string().parse::<Layer>().unwrap(), layer);
            assert_eq!(layer.index(), index);
        }
        let error = "connect-v4".parse::<Layer>().unwrap_err();
        assert_eq!(error.code, Code::LayerNotFound);
    }
}
