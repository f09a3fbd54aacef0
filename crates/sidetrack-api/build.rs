//! Generates Rust from the API's proto file, and its descriptor for reflection. protox compiles the
//! proto file, so that protoc need not be installed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    // With source information, the comments become the documentation of the generated Rust.
    compiler
        .include_source_info(true)
        .open_file("sidetrack.proto")?;
    let descriptor = PathBuf::from(std::env::var("OUT_DIR")?).join("sidetrack.bin");
    std::fs::write(descriptor, compiler.encode_file_descriptor_set())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::CountedCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
