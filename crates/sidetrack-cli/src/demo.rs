//! `sidetrack demo`: the main job, on real connections of real programs.
//!
//! The origins are our own, on loopback; the clients are whatever the host has. Each step is a
//! `sidetrack run` that anyone could type, and is checked: by its exit code, and by what the origin saw.

mod origin;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::style::Style;
use origin::Origins;

/// The chain of every step.
const CHAIN: [&str; 4] = ["--via", "inspect:company", "--via", "inspect:devtool"];

/// One thing to show.
struct Step {
    title: &'static str,
    options: Vec<String>,
    command: Vec<String>,
    /// What the command must exit with; `None`: anything but 0.
    code: Option<i32>,
    /// How many connections, or datagrams, the origins must have seen.
    connections: u64,
}

pub(crate) fn demo() -> Result<ExitCode> {
    sidetrack_engine::host::require()?;
    let style = Style::stdout();
    let origins = Origins::start().context("start the demo's origins")?;
    println!(
        "{}",
        style.bold("Sidetrack: connections and datagrams, diverted through two proxies in a chain")
    );
    println!(
        "The origins are at {} (HTTP), {} (TLS), {} (DNS) and {} (echo).",
        origins.http, origins.tls, origins.dns, origins.echo
    );
    println!(
        "Each line below a command is one connection or flow of datagrams, as the first proxy saw it end.\n"
    );
    let steps = steps(&origins)?;
    let mut all_good = true;
    for (number, step) in (1..).zip(&steps) {
        println!("{}", style.bold(&format!("{number}. {}", step.title)));
        println!(
            "{}",
            style.dim(&format!("$ sudo sidetrack run {}", step.typed()))
        );
        let problem = step.perform(&origins)?;
        println!();
        if let Some(problem) = problem {
            all_good = false;
            println!(
                "{}\n",
                style.red(&format!("not as it should be: {problem}"))
            );
        }
    }
    println!(
        "{}",
        match all_good {
            true => style.green("All as it should be. Next: sudo sidetrack run -- YOUR COMMAND"),
            false => style.red("Not all was as it should be; see `sidetrack doctor`."),
        }
    );
    Ok(ExitCode::from(u8::from(!all_good)))
}

fn steps(origins: &Origins) -> Result<Vec<Step>> {
    let curl = find("curl").context("the demo needs curl; `make demo` installs it")?;
    let curl = curl.to_string_lossy().into_owned();
    let ca = origins.ca_file.path().to_string_lossy().into_owned();
    let to = |host: &str, address: std::net::SocketAddr| {
        format!("{host}::{}:{}", address.ip(), address.port())
    };
    let quiet_curl = |arguments: &[&str]| {
        let all = [&[curl.as_str(), "-sS"], arguments].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let http = to("shop.example", origins.http);
    let tls = to("bank.example", origins.tls);
    let ads = to("ads.example", origins.http);
    let mut steps = vec![
        Step {
            title: "curl speaks HTTP: both proxies see host, method and path",
            options: vec![],
            command: quiet_curl(&["--connect-to", &http, "http://shop.example/basket"]),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "curl speaks TLS: both see the name and the protocols asked for, nothing is decrypted",
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
            title: "another program, which knows nothing of proxies either",
            options: vec![],
            command: other_client(origins, &ca),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "a rule refuses a host: the origin sees nothing",
            options: vec!["--deny".to_owned(), "ads.example".to_owned()],
            command: quiet_curl(&["-f", "--connect-to", &ads, "http://ads.example/banner"]),
            code: None,
            connections: 0,
        },
    ];
    steps.extend(datagram_steps(origins)?);
    Ok(steps)
}

fn datagram_steps(origins: &Origins) -> Result<Vec<Step>> {
    find("dig").context("the demo needs dig; `make demo` installs it (bind9-dnsutils)")?;
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
            title: "dig asks for a name: both see the question and the answer",
            options: vec![],
            command: words(&[&dig[..], &["shop.example"]].concat()),
            code: Some(0),
            connections: 1,
        },
        Step {
            title: "the rule again: the proxy answers that there is no such name",
            options: words(&["--deny", "ads.example"]),
            command: words(&[&dig[..], &["ads.example"]].concat()),
            code: Some(0),
            connections: 0,
        },
        Step {
            title: "any other datagrams, and their echo",
            options: vec![],
            command: words(&["bash", "-c", &echo]),
            code: Some(0),
            connections: 1,
        },
    ])
}

/// The first of a few real clients that the host has.
fn other_client(origins: &Origins, ca: &str) -> Vec<String> {
    let url = format!("http://{}/from-python", origins.http);
    let script =
        format!("import urllib.request as r; print(r.urlopen('{url}').read().decode().strip())");
    let tls = origins.tls.to_string();
    let words: Vec<&str> = match (find("python3"), find("wget")) {
        (Some(_), _) => vec!["python3", "-c", &script],
        (_, Some(_)) => vec!["wget", "-qO-", &url],
        _ => vec![
            "openssl", "s_client", "-brief", "-CAfile", ca, "-connect", &tls,
        ],
    };
    words.into_iter().map(str::to_owned).collect()
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

impl Step {
    /// As one would type it.
    fn typed(&self) -> String {
        let options = self.options.iter().map(String::as_str);
        let words = CHAIN.into_iter().chain(options).chain(["--"]);
        let words = words.chain(self.command.iter().map(String::as_str));
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Returns what was not as it should be.
    fn perform(&self, origins: &Origins) -> Result<Option<String>> {
        let before = origins.connections();
        let status = Command::new("/proc/self/exe")
            .arg("run")
            .args(CHAIN)
            .args(&self.options)
            .arg("--")
            .args(self.command.iter().map(OsStr::new))
            .status()
            .context("run the step")?;
        let seen = origins.connections() - before;
        let good_code = match self.code {
            Some(code) => status.code() == Some(code),
            None => !status.success(),
        };
        if !good_code {
            return Ok(Some(format!("the command ended with {status}")));
        }
        let expected = self.connections;
        Ok((seen != expected)
            .then(|| format!("the origins saw {seen} connections or datagrams, not {expected}")))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,*".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("\"{word}\""),
    }
}
