//! Compiles `bpf/` with clang, and generates the skeletons.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let bpf = manifest.join("../../bpf");
    println!("cargo:rerun-if-changed={}", bpf.display());

    for name in ["sidetrack", "namespace", "departure"] {
        let result = SkeletonBuilder::new()
            .source(bpf.join(format!("{name}.bpf.c")))
            .obj(out.join(format!("{name}.bpf.o")))
            .clang_args(clang_args())
            .build_and_generate(out.join(format!("{name}.skel.rs")));
        if let Err(error) = result {
            let hint = "are clang and libelf-dev installed? `make deps` installs them";
            println!("cargo::error=cannot compile bpf/ ({hint}): {error:#}");
        }
    }
}

/// `-mcpu=v3` is needed for atomics that return a value. Debian keeps asm/types.h in the multiarch folder.
fn clang_args() -> Vec<String> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    vec![
        "-mcpu=v3".to_owned(),
        "-Wall".to_owned(),
        "-Werror".to_owned(),
        format!("-I/usr/include/{arch}-linux-gnu"),
    ]
}
