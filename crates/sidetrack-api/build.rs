//! The contract's Rust, and its descriptor for reflection. protox reads it: no protoc to install.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    // The comments become the Rust's documentation.
    compiler
        .include_source_info(true)
        .open_file("sidetrack.proto")?;
    let descriptor = PathBuf::from(std::env::var("OUT_DIR")?).join("sidetrack.bin");
    std::fs::write(descriptor, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
