//! What `WSAIoctl` takes to tell a redirected connection's context, beside the `getsockopt` beneath it.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sidetrack_winsock::abi::{SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, SOCKET};
use sidetrack_winsock::entry::{WSAIoctl, WSAStartup};

use crate::connect::way::{Way as _, sidetrack::Redirected};
use crate::namespace;
use crate::solo::{self, Figure, Reading};
use crate::statistics::median;
use crate::sys;
use crate::topic::{ROUNDS, ROUNDS_QUICK};

const NAME: &str = "winsock";
const CALLS: usize = 50_000;
/// Room for the context, on the stack as proxies have it.
const ROOM: usize = 1024;
const VERSION: u16 = 0x0202;

/// Measures it, and writes it down.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = if quick { ROUNDS_QUICK } else { ROUNDS };
    let mut readings: Vec<Reading> = Vec::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        let text = namespace::run(&["winsock-worker"]).context(NAME)?;
        readings.push(serde_json::from_str(&text)?);
    }
    let values = |measure: &str| readings.iter().map(|one| one[measure]).collect();
    let figure = Figure {
        name: "WSAIoctl(CONTEXT), synchronous, on a redirected socket".to_owned(),
        unit: "ns",
        values: values("ioctl"),
        over: Some(("the bare getsockopt", values("option"))),
        goal: Some(1.3),
    };
    solo::write(NAME, "The Winsock library", &[figure])
}

/// Both calls, one after the other, on one accepted socket.
pub(crate) fn worker() -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let way = Redirected::open()?;
    let _client = TcpStream::connect(way.destination(0)).context("connect")?;
    let (accepted, _) = way.listener().accept().context("accept")?;
    let mut data = sys::zeroed_winsock_data();
    let error = WSAStartup(VERSION, &mut data);
    ensure!(error == 0, "WSAStartup says {error}");
    let (mut options, mut ioctls) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for _ in 0..CALLS {
        let begin = Instant::now();
        let plain = by_option(&accepted)?;
        let between = Instant::now();
        let told = by_ioctl(&accepted)?;
        let end = Instant::now();
        ensure!(plain == told, "they have told {plain} and {told} bytes");
        options.push((between - begin).as_nanos() as f64);
        ioctls.push((end - between).as_nanos() as f64);
    }
    let reading = Reading::from([
        ("option".to_owned(), median(&options)),
        ("ioctl".to_owned(), median(&ioctls)),
    ]);
    println!("{}", serde_json::to_string(&reading)?);
    Ok(())
}

fn by_option(accepted: &TcpStream) -> Result<usize> {
    let mut room = [0; ROOM];
    sys::context_of(accepted.as_fd(), &mut room).context("ask for CONTEXT")
}

fn by_ioctl(accepted: &TcpStream) -> Result<usize> {
    let mut room = [0_u8; ROOM];
    let mut length = 0;
    let result = WSAIoctl(
        accepted.as_raw_fd() as SOCKET,
        SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT,
        null_mut(),
        0,
        room.as_mut_ptr().cast(),
        ROOM as u32,
        &mut length,
        null_mut(),
        None,
    );
    ensure!(result == 0, "WSAIoctl has failed");
    Ok(length as usize)
}
