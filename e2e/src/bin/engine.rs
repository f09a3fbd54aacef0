//! An engine as a separate process, which a test may kill. Its arguments are the paths of two
//! cgroups: the scope, and the home of its one service. It redirects every connection to that
//! service, prints the service's credentials, and ends when it reads a line from standard input, or
//! its end.
#![deny(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;
use sidetrack_engine::{Cgroup, Config, Engine, ServiceSpec};
use sidetrack_policy::redirect::{Redirect, in_order};

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
    engine.commit(&in_order([Redirect::tcp(service.key)]), &[])?;
    println!("{}", service.credentials_hex());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
