//! The duration of `WSAIoctl` when it reads a redirect context, compared with the `getsockopt` that
//! it calls.

use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sidetrack_winsock::abi::{SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT, SOCKET};
use sidetrack_winsock::entry::{WSAIoctl, WSAStartup};

use crate::connect::setup::{ConnectSetup as _, sidetrack::Redirected};
use crate::namespace;
use crate::rounds::rounds;
use crate::solo::{self, Reading, SoloFigure};
use crate::statistics::median;
use crate::sys;

const NAME: &str = "winsock";
const CALLS: usize = 50_000;
/// The size of the buffer for the context in bytes. It is on the stack, as in proxies.
const BUFFER_SIZE: usize = 1024;
const VERSION: u16 = 0x0202;

/// Measures both calls, and writes the results to docs/bench/.
pub(crate) fn run(quick: bool) -> Result<()> {
    let rounds = rounds(quick);
    let mut readings: Vec<Reading> = Vec::new();
    for round in 1..=rounds {
        eprintln!("{NAME}: round {round} of {rounds}");
        let text = namespace::run(&["winsock-worker"]).context(NAME)?;
        readings.push(serde_json::from_str(&text)?);
    }
    let values = |measure: &str| readings.iter().map(|reading| reading[measure]).collect();
    let figure = SoloFigure {
        name: "WSAIoctl(CONTEXT), synchronous, on a redirected socket".to_owned(),
        unit: "ns",
        values: values("ioctl"),
        over: Some(("the bare getsockopt", values("option"))),
        goal: Some(1.3),
    };
    solo::write(NAME, "The Winsock library", &[figure])
}

/// Measures both calls, one after the other, on one accepted socket, and prints the result as JSON.
pub(crate) fn worker() -> Result<()> {
    namespace::pin_last()?;
    namespace::prepare()?;
    let setup = Redirected::open()?;
    let _client = TcpStream::connect(setup.destination(0)).context("connect")?;
    let (accepted, _) = setup.listener().accept().context("accept")?;
    let mut data = sys::zeroed_winsock_data();
    let error = WSAStartup(VERSION, &mut data);
    ensure!(error == 0, "WSAStartup failed with {error}");
    let (mut options, mut ioctls) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for _ in 0..CALLS {
        let begin = Instant::now();
        let by_option = read_by_option(&accepted)?;
        let between = Instant::now();
        let by_ioctl = read_by_ioctl(&accepted)?;
        let end = Instant::now();
        ensure!(
            by_option == by_ioctl,
            "getsockopt returned {by_option} bytes of context, and WSAIoctl {by_ioctl}"
        );
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

fn read_by_option(accepted: &TcpStream) -> Result<usize> {
    let mut buffer = [0; BUFFER_SIZE];
    sys::context_of(accepted.as_fd(), &mut buffer).context("read the option CONTEXT")
}

fn read_by_ioctl(accepted: &TcpStream) -> Result<usize> {
    let mut buffer = [0_u8; BUFFER_SIZE];
    let mut length = 0;
    let result = WSAIoctl(
        accepted.as_raw_fd() as SOCKET,
        SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT,
        null_mut(),
        0,
        buffer.as_mut_ptr().cast(),
        BUFFER_SIZE as u32,
        &mut length,
        null_mut(),
        None,
    );
    ensure!(result == 0, "WSAIoctl failed");
    Ok(length as usize)
}
