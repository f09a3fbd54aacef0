//! The programs that are attached to cgroups, and the sets in which they are attached.

use libbpf_rs::ProgramMut;
use sidetrack_policy::LayerKind;

use crate::skeleton::SidetrackProgs;

/// Defines [`CgroupProgram`]: each variant with the name of its program in the object file.
macro_rules! cgroup_programs {
    ($($variant:ident = $name:ident,)*) => {
        /// A program of the kernel side that is attached to cgroups, named after its hook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum CgroupProgram {
            $($variant,)*
        }

        impl CgroupProgram {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the program in the object file, and in the name of its pinned links.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)*
                }
            }

            /// The program, among those that are loaded.
            pub(super) fn loaded<'a>(self, programs: &'a SidetrackProgs<'_>) -> &'a ProgramMut<'a> {
                match self {
                    $(Self::$variant => &programs.$name,)*
                }
            }
        }
    };
}

// A set's programs are attached in this order.
cgroup_programs! {
    Connect4 = sidetrack_connect4,
    Connect6 = sidetrack_connect6,
    GetPeerName4 = sidetrack_getpeername4,
    GetPeerName6 = sidetrack_getpeername6,
    GetSockName4 = sidetrack_getsockname4,
    GetSockName6 = sidetrack_getsockname6,
    SendMsg4 = sidetrack_sendmsg4,
    SendMsg6 = sidetrack_sendmsg6,
    RecvMsg4 = sidetrack_recvmsg4,
    RecvMsg6 = sidetrack_recvmsg6,
    ClientRelease = sidetrack_client_release,
    SockOps = sidetrack_sockops,
    GetSockOpt = sidetrack_getsockopt,
    SetSockOpt = sidetrack_setsockopt,
    ServiceRelease = sidetrack_service_release,
    Bind4 = sidetrack_bind4,
    Bind6 = sidetrack_bind6,
    Ingress = sidetrack_ingress,
    Hold = sidetrack_hold,
    Guard = sidetrack_guard,
    Sender = sidetrack_sender,
}

impl CgroupProgram {
    /// The program of a name; `None` if it is not attached to cgroups, or not of this version.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }

    /// Whether it is attached regardless of the policy.
    pub(super) fn serves_connects(self) -> bool {
        self.set().layers().is_empty()
    }

    fn set(self) -> ProgramSet {
        match self {
            Self::Connect4
            | Self::Connect6
            | Self::GetPeerName4
            | Self::GetPeerName6
            | Self::GetSockName4
            | Self::GetSockName6
            | Self::SendMsg4
            | Self::SendMsg6
            | Self::RecvMsg4
            | Self::RecvMsg6
            | Self::ClientRelease
            | Self::SockOps => ProgramSet::Client,
            Self::GetSockOpt | Self::SetSockOpt | Self::ServiceRelease => ProgramSet::Service,
            Self::Bind4 | Self::Bind6 => ProgramSet::Bind,
            Self::Ingress => ProgramSet::Ingress,
            Self::Hold => ProgramSet::Hold,
            Self::Guard => ProgramSet::Guard,
            Self::Sender => ProgramSet::Sender,
        }
    }
}

/// A set of programs that are attached to a cgroup together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgramSet {
    /// The client side, where programs run: connect, getpeername, getsockname, sendmsg, recvmsg, sockops and
    /// the release of UDP sockets.
    Client,
    /// The service side, where proxies run: the socket options and the release of sockets.
    Service,
    /// The bind hooks, at the scope, while the policy has filters at a layer that needs them.
    Bind,
    /// The ingress hook, at the scope, while the policy has filters at a layer that needs it.
    Ingress,
    /// The ingress hook that holds SYNs, at the homes of services that pend connects.
    Hold,
    /// The ingress hook that keeps a stray RST from clients, where their sockets are, once a service pends.
    Guard,
    /// The egress hook that restricts senders, at the cgroups in which they are made.
    Sender,
}

impl ProgramSet {
    pub(super) const ALL: [Self; 7] = [
        Self::Client,
        Self::Service,
        Self::Bind,
        Self::Ingress,
        Self::Hold,
        Self::Guard,
        Self::Sender,
    ];

    /// The programs of the set.
    pub(super) fn programs(self) -> impl Iterator<Item = CgroupProgram> {
        let all = CgroupProgram::ALL.iter().copied();
        all.filter(move |program| program.set() == self)
    }

    /// The layers that need the programs; empty if they are attached regardless of the policy. The program
    /// that binds a UDP socket is the one that receives, so the layers for datagrams need the bind hooks.
    pub(super) fn layers(self) -> &'static [LayerKind] {
        match self {
            Self::Bind => &[
                LayerKind::BindRedirect,
                LayerKind::AuthRecvAccept,
                LayerKind::FlowEstablished,
                LayerKind::EndpointClosure,
            ],
            Self::Ingress => &[LayerKind::AuthRecvAccept, LayerKind::FlowEstablished],
            Self::Client | Self::Service | Self::Hold | Self::Guard | Self::Sender => &[],
        }
    }

    /// Whether one of these layers, a bit each, needs the programs.
    pub(super) fn is_needed_by(self, layers: u32) -> bool {
        self.layers().iter().any(|&layer| layers & bits(layer) != 0)
    }
}

/// The bits of a layer, for both families.
fn bits(layer: LayerKind) -> u32 {
    layer.both().map(|layer| 1 << layer.index()).iter().sum()
}
