//! Compares the ABI's mirror in Rust with the header in C, whose layout the compiler describes in BTF.

use std::env;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_rs::HasSize;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Enum, MemberAttr, Struct};
use sidetrack_abi::kernel;

/// A structure: its name in the header, its size, and its members with their offsets in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    name: String,
    size: usize,
    members: Vec<(String, usize)>,
}

/// The layout of a structure of the mirror. It names all members: the comparison fails if one is missing.
macro_rules! mirror {
    ($name:literal, $type:ident { $($member:ident),* $(,)? }) => {
        Layout {
            name: concat!("sidetrack_", $name).to_owned(),
            size: size_of::<kernel::$type>(),
            members: vec![$((stringify!($member).to_owned(), offset_of!(kernel::$type, $member))),*],
        }
    };
}

fn mirrors() -> Vec<Layout> {
    vec![
        mirror!(
            "records",
            Records {
                flow_id,
                engine_id,
                mac
            }
        ),
        mirror!(
            "listen",
            Listen {
                version,
                service,
                engine_id,
                secret
            }
        ),
        mirror!(
            "complete",
            Complete {
                records,
                local_addr,
                local_port,
                reserved
            }
        ),
        mirror!(
            "notice",
            Notice {
                kind,
                tcp_length,
                records,
                connected_at,
                remote_addr,
                client_addr,
                target_addr,
                remote_port,
                reserved,
                tcp
            }
        ),
        mirror!(
            "flow",
            Flow {
                id,
                origin_id,
                filter_id,
                connected_at,
                netns_cookie,
                cgroup_id,
                pid,
                uid,
                gid,
                opener_pid,
                bound_ifindex,
                flags,
                remote_addr,
                local_addr,
                remote_port,
                local_port,
                protocol,
                family,
                chain_length,
                chain,
                context_id,
                reserved,
                comm,
            }
        ),
        mirror!(
            "executable",
            Executable {
                inode,
                device,
                flags,
                path,
            }
        ),
        mirror!(
            "info",
            Info {
                version,
                size,
                state,
                context_length,
                context_given,
                records_length,
                target_addr,
                target_port,
                reserved,
                flow,
                executable,
                records,
                names,
            }
        ),
        mirror!(
            "four_tuple",
            FourTuple {
                netns_cookie,
                client_addr,
                target_addr,
                client_port,
                target_port,
                reserved
            }
        ),
        mirror!(
            "socket",
            Socket {
                parent_id,
                datagram_flow_id,
                owner_started,
                netns_cookie,
                owner_pid,
                service,
                role,
                epoch,
                pended,
                reserved
            }
        ),
        mirror!(
            "program",
            Program {
                inode,
                cgroup_id,
                cgroups,
                device,
                uid,
                flags,
                reserved,
            }
        ),
        mirror!("owner_cgroup", OwnerCgroup { service, owners }),
        mirror!(
            "auto_context",
            AutoContext {
                version,
                size,
                flow_id,
                remote_addr,
                remote_port,
                protocol,
                family,
                pid,
                uid,
                reserved,
                executable,
            }
        ),
        mirror!(
            "policy",
            Policy {
                generation,
                layers,
                filters,
                lines,
                store,
                commit,
                reserved
            }
        ),
        mirror!(
            "layer",
            Layer {
                root,
                wants,
                first,
                end,
                flags,
                protocols,
                addresses,
                ports,
            }
        ),
        mirror!(
            "filter",
            Filter {
                id,
                sublayer_end,
                context_id,
                conditions,
                condition_count,
                service,
                action,
                flags,
                field,
                kind,
                negate,
                has_first,
                low,
                high,
            }
        ),
        mirror!(
            "condition",
            Condition {
                low,
                high,
                field,
                kind,
                negate,
                last_of_field,
                reserved
            }
        ),
        mirror!(
            "list",
            List {
                kind,
                count,
                reserved,
                next,
                lowest,
                ranks
            }
        ),
        mirror!(
            "index",
            Index {
                kind,
                field,
                reserved,
                lowest,
                rest,
                first,
                mask,
                reserved2
            }
        ),
        mirror!("bucket", Bucket { keys, child, next }),
        mirror!(
            "branch",
            Branch {
                kind,
                length,
                reserved,
                child,
                group,
                key,
                up,
                reserved2
            }
        ),
        mirror!(
            "classify_request",
            ClassifyRequest {
                layer,
                legacy_min_rank,
                seen,
                absent,
                absent_given,
                flags,
                values,
                completed,
                generation,
                blocked,
                hard,
                vetoed,
                absent_blocked,
                decided_by,
                redirect,
            }
        ),
        mirror!(
            "service",
            Service {
                secret,
                key,
                name,
                records,
                flags,
                epoch,
                listeners4,
                listeners6,
                addr4,
                port4,
                port6,
                addr6,
                datagrams4,
                datagrams6,
                datagram_port4,
                datagram_port6,
                pended_listeners,
            }
        ),
        mirror!(
            "datagram",
            Datagram {
                flow_addr,
                client_addr,
                client_port,
                reserved
            }
        ),
        mirror!(
            "flow_entry",
            FlowEntry {
                state,
                handed_over,
                prefetched,
                idle_since,
                executable_id,
                client_cookie,
                socket_pointer,
                parent_id,
                name_addr,
                name_port,
                reserved,
                sequence,
                flow,
                program,
            }
        ),
        mirror!("context", Context { length, bytes }),
        mirror!(
            "owner",
            Owner {
                started,
                cgroup_id,
                service,
                listeners
            }
        ),
        mirror!(
            "event",
            Event {
                time,
                filter_id,
                flow_id,
                kind,
                service,
                pid,
                uid,
                remote_addr,
                remote_port,
                protocol,
                family,
                layer,
                reserved,
                local_addr,
                local_port,
                generation,
                reserved2,
                comm,
                executable,
            }
        ),
    ]
}

fn layout(btf: &Btf<'_>, name: &str) -> Option<Layout> {
    let found: Struct<'_> = btf.type_by_name(name)?;
    let members = found.iter().map(|member| {
        let MemberAttr::Normal { offset } = member.attr else {
            panic!("{name} has a bit field");
        };
        let member = member.name.expect("members have names").to_string_lossy();
        (member.into_owned(), offset as usize / 8)
    });
    Some(Layout {
        name: name.to_owned(),
        size: found.size(),
        members: members.collect(),
    })
}

/// Compiles `abi_layout.c`, which uses every item of the header, and reads its BTF.
fn header() -> Btf<'static> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi_layout.c");
    let object = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("abi_layout.o");
    let status = Command::new("clang")
        .args(["-g", "-O2", "-Wall", "-Werror", "-target", "bpf"])
        .arg(format!("-I/usr/include/{}-linux-gnu", env::consts::ARCH))
        .arg("-c")
        .args([&source, Path::new("-o"), &object])
        .status()
        .expect("clang is installed");
    assert!(status.success());
    Btf::from_path(&object).expect("the object has BTF")
}

#[test]
fn mirror_has_the_layout_of_the_header() {
    let header = header();
    for mirror in mirrors() {
        let want = layout(&header, &mirror.name);
        assert_eq!(want.as_ref(), Some(&mirror));
    }
}

#[test]
fn mirror_has_the_layout_of_the_kernel_side() {
    let object = Btf::from_path(sidetrack_engine::OBJECT).expect("the object has BTF");
    // The object's BTF has only the structures that maps and programs use.
    let compared: Vec<_> = mirrors()
        .into_iter()
        .filter_map(|mirror| Some((layout(&object, &mirror.name)?, mirror)))
        .collect();
    assert!(compared.len() >= 5, "only {} were compared", compared.len());
    for (want, mirror) in compared {
        assert_eq!(want, mirror);
    }
}

fn values(btf: &Btf<'_>, name: &str) -> Vec<(String, i64)> {
    let found: Enum<'_> = btf
        .type_by_name(name)
        .unwrap_or_else(|| panic!("{name} is there"));
    let value = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    found
        .iter()
        .map(|one| (value(one.name.expect("values have names")), one.value))
        .collect()
}

/// The words of a name without the prefix: "SIDETRACK_COUNT_BAD_TOKEN" becomes "bad token".
fn words(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).expect("all have it");
    name.to_lowercase().replace('_', " ")
}

#[test]
fn counters_have_the_names_and_order_of_the_header() {
    let counters = values(&header(), "sidetrack_counter");
    let (last, counters) = counters.split_last().expect("there are some");
    assert_eq!(
        last,
        &(
            "SIDETRACK_COUNT_MAX".to_owned(),
            kernel::COUNTERS.len() as i64
        )
    );
    assert_eq!(counters.len(), kernel::COUNTERS.len());
    for (index, (name, value)) in counters.iter().enumerate() {
        assert_eq!(*value, index as i64);
        let shown = kernel::COUNTERS[index].to_lowercase();
        let shown = shown.replace(',', "").replace('-', " ");
        assert_eq!(words(name, "SIDETRACK_COUNT_"), shown);
    }
}

#[test]
fn events_have_the_names_and_order_of_the_header() {
    let names: Vec<_> = values(&header(), "sidetrack_event_kind")
        .iter()
        .enumerate()
        .map(|(index, (name, value))| {
            assert_eq!(*value, index as i64 + 1);
            words(name, "SIDETRACK_EVENT_").replace(' ', "")
        })
        .collect();
    use sidetrack_engine::event::EventKind::*;
    let kinds = [
        AbsentBlocked,
        AbsentPermitted,
        ChainTooLong,
        RecordsMissing,
        RecordsStale,
        FlowsFull,
        SelfConnect,
        Blocked,
        Vetoed,
        Inspected,
        SearchCut,
        RecordsBound,
        PendedLeft,
    ];
    let kinds = kinds.map(|kind| format!("{kind:?}").to_lowercase());
    assert_eq!(names, kinds);
}

#[test]
fn stages_have_the_values_of_the_header() {
    let mirror = [
        ("filling", kernel::STAGE_FILLING),
        ("connecting", kernel::STAGE_CONNECTING),
        ("established", kernel::STAGE_ESTABLISHED),
        ("closed", kernel::STAGE_CLOSED),
        ("reserved", kernel::STAGE_RESERVED),
        ("datagram", kernel::STAGE_DATAGRAM),
        ("pended", kernel::STAGE_PENDED),
        ("completed", kernel::STAGE_COMPLETED),
    ];
    let mirror = mirror.map(|(name, value)| (name.to_owned(), value as i64));
    let stages: Vec<_> = values(&header(), "sidetrack_stage")
        .into_iter()
        .map(|(name, value)| (words(&name, "SIDETRACK_STAGE_"), value))
        .collect();
    assert_eq!(stages, mirror);
}

/// The values of the mirror's constants, under the names of `abi_layout.c`.
macro_rules! constants {
    ($($name:ident),* $(,)?) => { vec![$((concat!("abi_", stringify!($name)), kernel::$name as i64)),*] };
}

#[test]
fn constants_have_the_values_of_the_header() {
    #[rustfmt::skip]
    let mut mirror = constants![
        ABI_VERSION, SOL_SIDETRACK, INFO, CONTEXT, RECORDS, LISTEN, DATAGRAM, LISTEN_PENDED, COMPLETE, CHAIN_MAX, CONTEXT_SIZE_MAX,
        NAME_SIZE, EXECUTABLE_SIZE, EXECUTABLES_MAX, COMM_SIZE, EXECUTABLE_NAME_SIZE, SERVICES_MAX, FILTERS_MAX, CONTEXTS_MAX, OWNERS_MAX, OWNER_NAMED,
        ANCESTORS_MAX, FLOWS_MAX, FOUR_TUPLES_MAX, EXECUTABLE_CUT, FLOW_CHAIN_ASSUMED,
        FLOW_CONNECTED, FLOW_PENDED, FLOW_STATE_ID_SHIFT, FLOW_STATE_STAGE_SHIFT, FLOW_STATE_STAGE_MASK,
        FLOW_STATE_REFCOUNT_MASK, NETWORKS_MAX, VERDICT_CACHE_MAX,
        NOT_REDIRECTED, REDIRECTED_BY_SELF, REDIRECTED_BY_OTHER, PREVIOUSLY_REDIRECTED_BY_SELF,
        RECORDS_REQUIRED, RECORDS_LEGACY, OWN_TRAFFIC_PERMIT, RECORDS_BOUND, PROGRAM_ELEVATED,
        NOTICES_SIZE, NOTICE_SYN, NOTICE_GONE, TCP_HEADER_MAX, SOCKET_SENDER, SLOT_ADDRESS_FIRST,
        LINE_SIZE, CGROUP_LEVELS_MAX, LAYERS, FIELDS, LAYER_LINE, LAYER_BEYOND_HARD_PERMIT,
        PLACE_LINE, PLACE_LINES, FILTER_LINE, ACTION_PERMIT, ACTION_BLOCK, ACTION_VETO,
        ACTION_INSPECT, ACTION_REDIRECT, FILTER_CLEAR_ACTION_RIGHT, FILTER_ABSENT_PERMIT,
        FILTER_GROUPS, FILTER_RESTRICTED, CLASSIFY_ELEVATED,
        TEST_MASKED, TEST_BETWEEN, NODE_LIST, NODE_HASH, NODE_TREE, NODE_BRANCH, LIST_RANKS,
        BUCKET_KEYS,
    ];
    mirror.push(("abi_GRACE_SECONDS", kernel::GRACE_NS as i64 / 1_000_000_000));
    mirror.push(("abi_IDLE_SECONDS", kernel::IDLE_NS as i64 / 1_000_000_000));
    mirror.push((
        "abi_CONTEXT_AUTO_INVERTED",
        i64::from(!kernel::CONTEXT_AUTO),
    ));
    mirror.sort_unstable();
    let mut header = values(&header(), "sidetrack_constants");
    header.sort_unstable();
    let header: Vec<_> = header
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(header, mirror);
}
