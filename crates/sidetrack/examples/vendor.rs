//! A vendor's product. It registers its own service with `sidetrackd`, and redirects connections to
//! the given ports to that service. When the process ends, for whatever reason, the daemon removes
//! its objects.
//!
//! sudo target/debug/examples/vendor 80 443

use std::net::{Shutdown, TcpStream};
use std::{env, io, thread};

use sidetrack::daemon::{Registration, v1};
use sidetrack::{Error, Flow, Listener, Service};

fn main() -> Result<(), Error> {
    let _registration = Registration::of("acme")
        .service(v1::Service::default())
        .filter(filter(v1::Layer::ConnectRedirectV4))
        .filter(filter(v1::Layer::ConnectRedirectV6))
        .open(listen)?;
    println!("the filters are in force until standard input ends");
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    Ok(())
}

fn filter(layer: v1::Layer) -> v1::Filter {
    let ports = env::args().skip(1).flat_map(|port| port.parse());
    v1::Filter {
        name: "acme's ports".into(),
        layer: layer.into(),
        conditions: ports.map(remote_port).collect(),
        action: v1::Action::Redirect.into(),
        ..Default::default()
    }
}

fn remote_port(port: u64) -> v1::Condition {
    v1::Condition {
        field: v1::Field::RemotePort.into(),
        match_type: v1::MatchType::Equal.into(),
        value: Some(v1::Value {
            kind: Some(v1::value::Kind::Uint(port)),
        }),
    }
}

fn listen(service: &Service) -> Result<(), Error> {
    let listener = Listener::bind(service)?;
    thread::spawn(move || {
        while let Ok(connection) = listener.accept() {
            let (client, flow) = connection.into_parts();
            thread::spawn(move || forward(&client, &flow));
        }
    });
    Ok(())
}

fn forward(client: &TcpStream, flow: &Flow) {
    println!("{} -> {}", flow.program().comm, flow.original_destination());
    let Ok(origin) = flow.connect() else {
        return; // the client sees that the connection ends
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &origin));
        copy(&origin, client);
    });
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to); // either side may close its connection at any time
    let _ = to.shutdown(Shutdown::Write);
}
