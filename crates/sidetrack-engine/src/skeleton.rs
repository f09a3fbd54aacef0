//! The skeletons that the build script generates from `bpf/`: the kernel side's maps, programs and
//! constants as fields.

include!(concat!(env!("OUT_DIR"), "/sidetrack.skel.rs"));

pub mod namespace {
    include!(concat!(env!("OUT_DIR"), "/namespace.skel.rs"));
}

pub mod departure {
    include!(concat!(env!("OUT_DIR"), "/departure.skel.rs"));
}
