//! A vendor's product: a provider, a sublayer, two services, and filters that redirect to them, all
//! in one dynamic session. Each of its proxies sends its service's name to the client, and then
//! relays.
//!
//! It first moves itself to the cgroup that the environment variable PROXY_CGROUP names. It prints
//! "ready" when its policy is in force. When it reads a line from standard input it closes its
//! session. Its proxies still serve the connections that reach them, until standard input ends.
#![deny(unsafe_code)]

use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::{env, fs, thread};

use clap::Parser;
use e2e::Api;
use sidetrack::{Flow, Listener};
use sidetrack_api::client::Session;
use sidetrack_api::{Client, v1};

#[derive(Parser)]
struct Arguments {
    /// The vendor's name. The services are NAME1 and NAME2.
    name: String,
    /// The weight of its sublayer.
    weight: u32,
}

fn main() -> anyhow::Result<()> {
    let Arguments { name, weight } = Arguments::parse();
    let cgroup = env::var("PROXY_CGROUP")?;
    let pid = std::process::id().to_string();
    fs::write(Path::new(&cgroup).join("cgroup.procs"), pid)?;
    let mut api = Api::connect(None);
    let session = api.session(true);
    let names = [format!("{name}1"), format!("{name}2")];
    let (_, (sublayer, services)) = api.transaction(&session, async |client| {
        let id = session.id();
        let provider = add_provider(client, id, &name).await;
        let mut services = Vec::new();
        for service in &names {
            services.push(add_service(client, id, service, &provider).await);
        }
        let sublayer = add_sublayer(client, id, &name, &provider, weight).await;
        (sublayer, services)
    });
    for service in &names {
        serve(&mut api, &session, service)?;
    }
    api.transaction(&session, async |client| {
        for (service, weight) in services.iter().zip([2, 1]) {
            add_filter(client, session.id(), &sublayer, service, weight).await;
        }
    });
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    drop(session);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve(api: &mut Api, session: &Session, name: &str) -> anyhow::Result<()> {
    let listener = Listener::bind(&api.register(session, name))?;
    thread::spawn(move || {
        loop {
            let (stream, flow) = listener.accept().expect("accept works").into_parts();
            thread::spawn(move || send_name_and_relay(stream, &flow));
        }
    });
    Ok(())
}

fn send_name_and_relay(mut client: TcpStream, flow: &Flow) -> io::Result<()> {
    let name = flow.chain().last().unwrap_or_default().to_owned();
    write!(client, "{name} ")?;
    e2e::copy_both_ways(client, flow.connect().map_err(io::Error::other)?)
}

async fn add_provider(client: &mut Client, session_id: u64, name: &str) -> Vec<u8> {
    let provider = v1::Provider {
        name: name.into(),
        ..Default::default()
    };
    let request = v1::AddProviderRequest {
        session_id,
        provider: Some(provider),
    };
    let added = client.add_provider(request).await;
    added.expect("the provider is valid").into_inner().key
}

async fn add_sublayer(
    client: &mut Client,
    session_id: u64,
    name: &str,
    provider: &[u8],
    weight: u32,
) -> Vec<u8> {
    let sublayer = v1::Sublayer {
        name: name.into(),
        provider: provider.into(),
        weight,
        ..Default::default()
    };
    let request = v1::AddSublayerRequest {
        session_id,
        sublayer: Some(sublayer),
    };
    let added = client.add_sublayer(request).await;
    added.expect("the sublayer is valid").into_inner().key
}

async fn add_service(client: &mut Client, session_id: u64, name: &str, provider: &[u8]) -> Vec<u8> {
    let service = v1::Service {
        name: name.into(),
        provider: provider.into(),
        ..Default::default()
    };
    let request = v1::AddServiceRequest {
        session_id,
        service: Some(service),
    };
    let added = client.add_service(request).await;
    added.expect("the service is valid").into_inner().key
}

async fn add_filter(
    client: &mut Client,
    session_id: u64,
    sublayer: &[u8],
    service: &[u8],
    weight: u64,
) {
    for layer in [v1::Layer::ConnectRedirectV4, v1::Layer::ConnectRedirectV6] {
        let filter = v1::Filter {
            name: "all".into(),
            layer: layer.into(),
            sublayer: sublayer.into(),
            weight: Some(v1::filter::Weight::Literal(weight)),
            action: v1::Action::Redirect.into(),
            service: service.into(),
            ..Default::default()
        };
        let request = v1::AddFilterRequest {
            session_id,
            filter: Some(filter),
        };
        let added = client.add_filter(request).await;
        added.expect("the filter is valid");
    }
}
