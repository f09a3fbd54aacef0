//! `sidetrack doctor`: what this host lacks, and what earlier runs left behind.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use sidetrack_abi::text::Printable;
use sidetrack_engine::{Cgroup, DepartureWatch, Error, cgroup, host, network, pinned_programs};

use crate::format::json_lines;
use crate::installation::Installation;
use crate::text_style::TextStyle;
use crate::{args, run_cgroup, watcher};

/// The result of one check. The field names are the keys of the JSON output.
#[derive(Serialize)]
struct Finding {
    /// What was checked.
    what: &'static str,
    /// Whether it is as Sidetrack needs it.
    good: bool,
    /// What the check found.
    found: String,
    /// What to do if it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

pub(crate) fn doctor(options: &args::DoctorArgs) -> Result<ExitCode> {
    let installed = Installation::find(options.config.as_deref())?;
    let findings = check_all(options.clean, &installed);
    if options.json {
        writeln!(io::stdout(), "{}", json_lines(&findings)?)?;
    } else {
        print(&findings)?;
    }
    let all_good = findings.iter().all(|finding| finding.good);
    Ok(ExitCode::from(u8::from(!all_good)))
}

fn check_all(clean: bool, installed: &Installation) -> Vec<Finding> {
    vec![
        kernel(),
        btf(),
        cgroup2(),
        privilege(),
        loopback(),
        bpffs(),
        departures(),
        pended_connects(),
        data_path(installed),
        leftover_runs(clean),
        leftover_networks(clean),
        leftover_programs(installed),
    ]
}

fn kernel() -> Finding {
    let (major, minor) = host::kernel_version();
    Finding {
        what: "kernel",
        good: (major, minor) >= host::KERNEL_MIN,
        found: format!("Linux {major}.{minor}"),
        advice: Some("Linux 6.1 or later is needed"),
    }
}

fn btf() -> Finding {
    let good = host::has_btf();
    Finding {
        what: "BTF",
        good,
        found: if good { "available" } else { "missing" }.to_owned(),
        advice: Some("use a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
    }
}

fn cgroup2() -> Finding {
    let mount = cgroup::mount_point();
    Finding {
        what: "cgroup v2",
        good: mount.is_ok(),
        found: match mount {
            Ok(path) => format!("mounted at {}", path.display()),
            Err(error) => error.to_string(),
        },
        advice: None,
    }
}

fn privilege() -> Finding {
    let found = host::privilege();
    Finding {
        what: "privilege",
        good: found.is_ok(),
        found: match found {
            Ok(()) => "enough to load and attach eBPF programs",
            Err(Error::UserNamespace) => {
                "not enough: this is root of a user namespace, not of the host"
            }
            Err(_) => "not enough",
        }
        .to_owned(),
        advice: Some("use sudo on the host, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
    }
}

fn loopback() -> Finding {
    let bound = std::net::TcpListener::bind(("127.0.0.1", 0));
    let up = bound.and_then(|listener| {
        let address = listener.local_addr()?;
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1))
    });
    Finding {
        what: "loopback",
        good: up.is_ok(),
        found: match up {
            Ok(_) => "up".to_owned(),
            Err(error) => error.to_string(),
        },
        advice: Some("bring it up with `ip link set lo up`"),
    }
}

/// Checks for a bpf file system, in which the daemon pins its data path. It is no fault if there is
/// none: `run` does not need it.
fn bpffs() -> Finding {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.contains(" - bpf "));
    Finding {
        what: "bpffs",
        good: true,
        found: if mounted {
            "mounted"
        } else {
            "not mounted; only sidetrackd needs it"
        }
        .to_owned(),
        advice: None,
    }
}

/// Checks whether `run` can notice processes that leave it. It is no fault if not: `run` works without it.
fn departures() -> Finding {
    let watch = Cgroup::root().and_then(|root| DepartureWatch::start(&root, false));
    Finding {
        what: "departures",
        good: true,
        found: match watch {
            Ok(_) => "`run` notices processes that leave it".to_owned(),
            Err(Error::Kernel(_)) => {
                "`run` does not notice processes that leave it on this kernel".to_owned()
            }
            Err(error) => format!("unknown: {error}"),
        },
        advice: None,
    }
}

/// Checks whether proxies can pend connects. It is no fault if not: they accept first then.
fn pended_connects() -> Finding {
    Finding {
        what: "pended connects",
        good: true,
        found: match host::raw_sockets() {
            Ok(()) => "proxies can hold connects until the origin is known".to_owned(),
            Err(error) => format!(
                "proxies accept connects first, because no raw socket can be made: {error}; grant CAP_NET_RAW"
            ),
        },
        advice: None,
    }
}

/// Reports the data path that the daemon has pinned, which outlives the daemon.
fn data_path(installed: &Installation) -> Finding {
    let pins = installed.pins.display();
    Finding {
        what: "data path",
        good: true,
        found: match (installed.is_pinned(), installed.is_running()) {
            (false, _) => format!("none is pinned at {pins}"),
            (true, true) => format!("pinned by sidetrackd at {pins}"),
            (true, false) => format!(
                "pinned by sidetrackd at {pins}; the daemon is not running, but its policy stays \
                 in force (`sidetrack uninstall` removes it)"
            ),
        },
        advice: None,
    }
}

/// Checks for cgroups of runs that were killed together with their watchers.
fn leftover_runs(clean: bool) -> Finding {
    let (dead, alive) = run_cgroup::find_all().unwrap_or_default();
    if clean {
        dead.iter().for_each(|path| {
            if let Ok(cgroup) = Cgroup::at(path) {
                watcher::kill_and_remove(&cgroup);
            }
        });
    }
    let left: Vec<&PathBuf> = dead.iter().filter(|path| path.exists()).collect();
    let found = match (left.first(), dead.len(), alive.len()) {
        (Some(first), _, _) => format!(
            "{} of killed runs, for example {}",
            left.len(),
            first.display()
        ),
        (None, 0, 0) => "none".to_owned(),
        (None, 0, alive) => format!("none; {alive} in use"),
        (None, removed, _) => format!("none; {removed} removed now"),
    };
    Finding {
        what: "left-over cgroups",
        good: left.is_empty(),
        found,
        advice: Some("`sidetrack doctor --clean` removes them"),
    }
}

/// Checks for the IPv6 addresses that killed engines used for datagrams.
fn leftover_networks(clean: bool) -> Finding {
    let removed = match clean {
        true => network::clear_left_over().unwrap_or(0),
        false => 0,
    };
    let left = network::left_over();
    let found = match (&left, removed) {
        (Err(error), _) => format!("unknown: {error}"),
        (Ok(left), _) if !left.is_empty() => {
            format!(
                "{} of killed engines, for example {}/64",
                left.len(),
                left[0]
            )
        }
        (Ok(_), 0) => "none".to_owned(),
        (Ok(_), removed) => format!("none; {removed} removed now"),
    };
    Finding {
        what: "left-over addresses",
        good: left.is_ok_and(|left| left.is_empty()),
        found,
        advice: Some("`sidetrack doctor --clean` removes them"),
    }
}

/// Checks for eBPF programs that belong neither to a running `run`, nor to a running daemon, nor to
/// its pinned data path.
fn leftover_programs(installed: &Installation) -> Finding {
    let has_run = run_cgroup::find_all().is_ok_and(|(_, alive)| !alive.is_empty());
    let pinned = pinned_programs(&installed.pins).unwrap_or_default();
    let (good, found) = match host::programs() {
        Err(error) => (true, format!("unknown: {error}")),
        Ok(programs) if programs.is_empty() => (true, "none".to_owned()),
        // Programs that are not pinned are no evidence here: a running daemon also has programs
        // that are not attached at the moment.
        Ok(programs) if has_run || installed.is_pinned() && installed.is_running() => {
            (true, format!("none; {} in use", programs.len()))
        }
        Ok(programs) => match programs
            .iter()
            .filter(|(id, _)| !pinned.contains(id))
            .count()
        {
            0 => (true, format!("none; {} pinned", programs.len())),
            left => (
                false,
                format!("{left} of no `sidetrack run` and no sidetrackd"),
            ),
        },
    };
    Finding {
        what: "left-over programs",
        good,
        found,
        advice: Some("find what holds them with `bpftool prog show` and `bpftool link show`"),
    }
}

fn print(findings: &[Finding]) -> io::Result<()> {
    let style = TextStyle::stdout();
    let width = findings
        .iter()
        .map(|finding| finding.what.len())
        .max()
        .unwrap_or(0);
    for finding in findings {
        let mark = match finding.good {
            true => style.green("ok"),
            false => style.red("no"),
        };
        let mut line = format!(
            "{mark}  {:width$}  {}",
            finding.what,
            Printable(&finding.found)
        );
        if let (false, Some(advice)) = (finding.good, finding.advice) {
            line.push_str(&format!("; {advice}"));
        }
        writeln!(io::stdout(), "{line}")?;
    }
    Ok(())
}
