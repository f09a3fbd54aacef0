//! `sidetrack demo`: redirection of real connections of real programs.
//!
//! The origins are threads of this process, on loopback. The clients are programs of the host. Each
//! step is a `sidetrack run` command, which the demo prints first. The step is checked by its exit
//! code, and by the number of connections and datagrams that the origins got.

mod origin;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::text_style::TextStyle;
use origin::Origins;

/// The options for the chain of two proxies that every step uses.
const CHAIN: [&str; 4] = ["--via", "inspect:company", "--via", "inspect:devtool"];

/// One step of the demo: a command that is run through the chain.
struct Step {
    /// What the step shows.
    title: &'static str,
    /// Options of `run` in addition to [`CHAIN`].
    options: Vec<String>,
    command: Vec<String>,
    /// The expected exit code of the command. `None`: any but 0.
    code: Option<i32>,
    /// The expected number of connections and datagrams at the origins.
    connections: u64,
}

pub(crate) fn demo() -> Result<ExitCode> {
    sidetrack_engine::host::require()?;
    let style = TextStyle::stdout();
    let origins = Origins::start().context("cannot start the origins of the demo")?;
    println!(
        "{}",
        style.bold(
            "Sidetrack: connections and datagrams, redirected through two proxies in a chain"
        )
    );
    println!(
        "The origins listen at {} (HTTP), {} (TLS), {} (DNS) and {} (UDP echo).",
        origins.http, origins.tls, origins.dns, origins.echo
    );
    println!("Each line below a command is one connection or UDP flow, printed when it ends.\n");
    let steps = steps(&origins)?;
    let mut all_passed = true;
    for (number, step) in (1..).zip(&steps) {
        println!("{}", style.bold(&format!("{number}. {}", step.title)));
        println!(
            "{}",
            style.dim(&format!("$ sudo sidetrack run {}", step.command_line()))
        );
        let problem = step.perform(&origins)?;
        println!();
        if let Some(problem) = problem {
            all_passed = false;
            println!("{}\n", style.red(&format!("failed: {problem}")));
        }
    }
    println!(
        "{}",
        match all_passed {
            true => style.green(
                "All steps passed. Try your own command next: sudo sidetrack run -- COMMAND"
            ),
            false =>
                style.red("Some steps failed. `sidetrack doctor` checks what this host lacks."),
        }
    );
    Ok(ExitCode::from(u8::from(!all_passed)))
}

fn steps(origins: &Origins) -> Result<Vec<Step>> {
    let curl = find_program("curl").context("the demo needs curl; `make demo` installs it")?;
    let curl = curl.to_string_lossy().into_owned();
    let ca = origins.ca_file.path().to_string_lossy().into_owned();
    let to =
        |host: &str, address: SocketAddr| format!("{host}::{}:{}", address.ip(), address.port());
    let quiet_curl = |arguments: &[&str]| {
        let all = [&[curl.as_str(), "-sS"], arguments].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let http = to("shop.example", origins.http);
    let tls = to("bank.example", origins.tls);
    let ads = to("ads.example", origins.http);
    let mut steps = vec![
        Step {
            title: "curl uses HTTP: both proxies see the method, the host and the path",
            options: vec![],
            command: quiet_curl(&["--connect-to", &http, "http://shop.example/basket"]),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "curl uses TLS: both proxies see server name and ALPN; nothing is decrypted",
            options: vec![],
            command: quiet_curl(&[
                "--cacert",
                &ca,
                "--connect-to",
                &tls,
                "https://bank.example/",
            ]),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "another program, which is not configured for a proxy either",
            options: vec![],
            command: other_client(origins, &ca),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "a rule denies a host: the origin gets no connection",
            options: vec!["--deny".to_owned(), "ads.example".to_owned()],
            command: quiet_curl(&["-f", "--connect-to", &ads, "http://ads.example/banner"]),
            code: None,
            connections: 0,
        },
    ];
    steps.push(Step {
        title: "nobody listens there: connect fails as without Sidetrack, and the line says why",
        options: vec![],
        command: quiet_curl(&[&format!("http://{}/", unused_address()?)]),
        code: None,
        connections: 0,
    });
    steps.extend(datagram_steps(origins)?);
    Ok(steps)
}

fn datagram_steps(origins: &Origins) -> Result<Vec<Step>> {
    find_program("dig").context("the demo needs dig; `make demo` installs it (bind9-dnsutils)")?;
    let port = origins.dns.port().to_string();
    let dig = ["dig", "+short", "@127.0.0.1", "-p", &port];
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let (ip, port) = (origins.echo.ip(), origins.echo.port());
    let echo = format!("exec 3<>/dev/udp/{ip}/{port}; echo hello >&3; head -n 1 <&3");
    Ok(vec![
        Step {
            title: "dig resolves a name: both proxies see the query and the answer",
            options: vec![],
            command: words(&[&dig[..], &["shop.example"]].concat()),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "the same rule for DNS: the proxy answers that the name does not exist",
            options: words(&["--deny", "ads.example"]),
            command: words(&[&dig[..], &["ads.example"]].concat()),
            code: Some(0),
            connections: 0,
        },
        Step {
            title: "other datagrams, and their echo",
            options: vec![],
            command: words(&["bash", "-c", &echo]),
            code: Some(0),
            connections: 1,
        },
    ])
}

/// An address at which nobody listens: the port was free a moment ago.
fn unused_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

/// Returns a command with another client than curl: the first of a few that the host has.
fn other_client(origins: &Origins, ca: &str) -> Vec<String> {
    let url = format!("http://{}/from-python", origins.http);
    let script =
        format!("import urllib.request as r; print(r.urlopen('{url}').read().decode().strip())");
    let tls = origins.tls.to_string();
    let words: Vec<&str> = match (find_program("python3"), find_program("wget")) {
        (Some(_), _) => vec!["python3", "-c", &script],
        (_, Some(_)) => vec!["wget", "-qO-", &url],
        _ => vec![
            "openssl", "s_client", "-brief", "-CAfile", ca, "-connect", &tls,
        ],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Finds a program in PATH.
fn find_program(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

impl Step {
    /// Formats the arguments of `run` as one would type them in a shell.
    fn command_line(&self) -> String {
        let options = self.options.iter().map(String::as_str);
        let words = CHAIN.into_iter().chain(options).chain(["--"]);
        let words = words.chain(self.command.iter().map(String::as_str));
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Runs the step. Returns a description of the problem if the result is not as expected.
    fn perform(&self, origins: &Origins) -> Result<Option<String>> {
        let before = origins.connections();
        let status = Command::new("/proc/self/exe")
            .arg("run")
            .args(CHAIN)
            .args(&self.options)
            .arg("--")
            .args(self.command.iter().map(OsStr::new))
            .status()
            .context("cannot run the step")?;
        let actual = origins.connections() - before;
        let is_expected_code = match self.code {
            Some(code) => status.code() == Some(code),
            None => !status.success(),
        };
        if !is_expected_code {
            return Ok(Some(format!("the command ended with {status}")));
        }
        let expected = self.connections;
        Ok((actual != expected).then(|| {
            format!(
                "the origins got {actual} connections and datagrams, but {expected} were expected"
            )
        }))
    }
}

/// Quotes a word for a shell, if necessary.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,*".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("\"{word}\""),
    }
}
