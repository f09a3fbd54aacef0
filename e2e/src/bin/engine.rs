//! A process with an engine, to be killed: scope and home as arguments. Redirects everything to one
//! service; prints its credentials; ends with its standard input.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;
use sidetrack_engine::{Cgroup, Config, Engine, Filter, ServiceSpec};

#[derive(Parser)]
struct Arguments {
    scope: PathBuf,
    home: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (scope, home) = (Cgroup::at(&arguments.scope)?, Cgroup::at(&arguments.home)?);
    let mut engine = Engine::open(&scope, Config::default())?.load()?.attach()?;
    let service = engine.add_service(&ServiceSpec::new("killed"), &home)?;
    engine.set_policy(&[Filter::redirect_all(service.number)])?;
    println!("{}", service.credentials_hex());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
