//! An async service at the end of the chain. It does not connect to the origin: it prints to the
//! client where the connection was going, and then sends back what the client sends.
//!
//! sudo sidetrack run --via exec:target/debug/examples/echo -- nc 192.0.2.1 7

use sidetrack::Service;
use sidetrack::tokio::Listener;
use tokio::io::{AsyncWriteExt, copy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = Listener::bind(&Service::from_env()?)?;
    loop {
        let (mut client, flow) = listener.accept().await?;
        tokio::spawn(async move {
            let greeting = format!("you wanted {}\n", flow.original_destination());
            let (mut from, mut to) = client.split();
            to.write_all(greeting.as_bytes()).await?;
            copy(&mut from, &mut to).await?;
            to.shutdown().await
        });
    }
}
