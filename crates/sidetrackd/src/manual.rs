//! The manual page sidetrackd(8). Options come from clap, paths from the configuration's defaults,
//! and the settings from the file that `make install` installs, so that the page follows them.

use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use sidetrack_api::config::{CONFIG_FILE, Config};

/// The unit, where `make install` installs it.
const UNIT_FILE: &str = "/etc/systemd/system/sidetrackd.service";
/// The installed configuration file. Its comments describe each setting.
const CONFIG_TEXT: &str = include_str!("../../../packaging/sidetrackd.toml");

/// Returns the page for a command line, in the format of man(7). Errors: none that are expected,
/// since it is written to memory.
pub(crate) fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let man = Man::new(command).section("8").manual("Sidetrack");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    further_sections(&Config::default()).to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// The sections that clap knows nothing about.
fn further_sections(defaults: &Config) -> Roff {
    let mut roff = Roff::new();
    configuration(&mut roff);
    files(&mut roff, defaults);
    environment_and_signals(&mut roff);
    exit_status(&mut roff);
    section(&mut roff, "SEE ALSO");
    roff.text(references(&[
        ("sidetrack", 1),
        ("sidetrack-apply", 1),
        ("sidetrack-state", 1),
        ("sidetrack-events", 1),
        ("sidetrack-uninstall", 1),
        ("systemctl", 1),
        ("systemd.service", 5),
        ("sd_notify", 3),
    ]));
    roff
}

fn configuration(roff: &mut Roff) {
    section(roff, "CONFIGURATION");
    text(
        roff,
        "The configuration is a file in TOML. An unknown key is an error, which is reported with line \
         and column. sidetrackd reads the file once, at its start. This is the file as it is \
         installed: a line that begins with #: shows a setting with its default or an example. To \
         change a setting, remove the #: and edit the value.",
    );
    roff.control("PP", []).control("nf", []);
    for line in CONFIG_TEXT.lines() {
        match line {
            "" => roff.control("sp", []),
            line => roff.text([roman(line)]),
        };
    }
    roff.control("fi", []);
}

fn files(roff: &mut Roff, defaults: &Config) {
    section(roff, "FILES");
    let pended = sidetrack_api::pended::socket(&defaults.socket);
    let files: [(&Path, &str); 6] = [
        (Path::new(CONFIG_FILE), "The configuration."),
        (&defaults.store, "The stored objects (setting store)."),
        (
            &defaults.socket,
            "The Unix socket of the API (setting socket).",
        ),
        (
            &pended,
            "The Unix socket from which proxies get the descriptors for pended connects. It is in the \
             folder of the API's.",
        ),
        (
            &defaults.pins,
            "The folder, on a bpf file system, with the pinned eBPF programs, maps and links (setting \
             pins). It outlives the daemon. sidetrack-uninstall(1) removes it.",
        ),
        (Path::new(UNIT_FILE), "The unit of systemd."),
    ];
    for (path, meaning) in files {
        entry(roff, &path.to_string_lossy(), meaning);
    }
}

fn environment_and_signals(roff: &mut Roff) {
    section(roff, "ENVIRONMENT");
    entry(
        roff,
        "NOTIFY_SOCKET",
        "If it is set, sidetrackd sends READY=1 to this socket once the store and the kernel agree and \
         the API accepts connections, and STOPPING=1 when it stops: see sd_notify(3).",
    );
    section(roff, "SIGNALS");
    entry(
        roff,
        "SIGTERM, SIGINT",
        "sidetrackd notifies the open sessions, completes the commits that it has begun, and exits.",
    );
    text(
        roff,
        "Other signals have their default effect. However sidetrackd ends, the policy stays in force \
         in the kernel, and the next sidetrackd takes it over.",
    );
}

fn exit_status(roff: &mut Roff) {
    section(roff, "EXIT STATUS");
    entry(
        roff,
        "0",
        "A signal has stopped sidetrackd; or the configuration is valid (--check).",
    );
    entry(
        roff,
        "2",
        "sidetrackd could not start or has failed, or the options or the configuration are not valid. \
         It has printed the reason to standard error.",
    );
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

/// Adds a paragraph.
fn text(roff: &mut Roff, text: &str) {
    roff.control("PP", []).text([roman(text)]);
}

/// Adds a term, in bold, and its meaning.
fn entry(roff: &mut Roff, term: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]).text([roman(meaning)]);
}

/// Returns a line with references to other pages.
fn references(pages: &[(&str, u8)]) -> Vec<Inline> {
    let mut line = Vec::new();
    for (name, number) in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(*name), roman(format!("({number})"))]);
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Arguments;

    const UNIT: &str = include_str!("../../../packaging/sidetrackd.service");
    const MAKEFILE: &str = include_str!("../../../Makefile");

    /// The page without roff's escapes of hyphens and quotes.
    fn plain_page() -> String {
        let page = String::from_utf8(page(Arguments::command()).unwrap()).unwrap();
        page.replace("\\-", "-").replace("\\*(Aq", "'")
    }

    fn unit_setting(name: &str) -> &'static str {
        let mut lines = UNIT.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap()
    }

    #[test]
    fn the_page_is_in_section_8_and_has_all_sections() {
        let page = plain_page();
        assert!(page.contains(".TH sidetrackd 8 "), "{page}");
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "CONFIGURATION",
            "FILES",
            "ENVIRONMENT",
            "SIGNALS",
            "\"EXIT STATUS\"",
            "\"SEE ALSO\"",
            "VERSION",
        ] {
            assert_eq!(
                page.matches(&format!(".SH {section}\n")).count(),
                1,
                "{section}"
            );
        }
    }

    #[test]
    fn the_page_names_every_option_and_setting() {
        let page = plain_page();
        let mut command = Arguments::command();
        command.build();
        for option in command.get_arguments() {
            let long = format!("--{}", option.get_long().unwrap());
            assert!(page.contains(&long), "{long}");
        }
        for line in CONFIG_TEXT.lines() {
            assert!(page.contains(line), "{line}");
        }
    }

    #[test]
    fn the_page_names_the_files_that_are_used() {
        let page = plain_page();
        let Config {
            socket,
            store,
            pins,
            ..
        } = Config::default();
        for path in [&socket, &store, &pins] {
            assert!(page.contains(path.to_str().unwrap()), "{}", path.display());
        }
        let command = unit_setting("ExecStart");
        assert!(
            command.ends_with(&format!("/sidetrackd --config {CONFIG_FILE}")),
            "{command}"
        );
        assert!(page.contains(CONFIG_FILE) && page.contains(UNIT_FILE));
        assert!(MAKEFILE.contains(&format!("CONFIG   := $(DESTDIR){CONFIG_FILE}\n")));
        let (units, _) = UNIT_FILE.rsplit_once('/').unwrap();
        assert!(MAKEFILE.contains(&format!("UNITS    := $(DESTDIR){units}\n")));
    }

    /// `systemctl help sidetrackd` opens the page that the unit names as its documentation.
    #[test]
    fn the_page_that_the_unit_names_is_installed_and_uninstalled() {
        assert_eq!(unit_setting("Documentation"), "man:sidetrackd(8)");
        let recipe = |target: &str| {
            let (_, rest) = MAKEFILE.split_once(&format!("\n{target}:")).unwrap();
            rest.split("\n\n").next().unwrap()
        };
        let install = recipe("install");
        assert!(
            install.contains("sidetrackd --man target/man/sidetrackd.8"),
            "{install}"
        );
        assert!(
            install.contains("$(PREFIXED)/share/man/man8 target/man/sidetrackd.8"),
            "{install}"
        );
        assert!(recipe("uninstall").contains("$(PREFIXED)/share/man/man8/sidetrackd.8"));
    }
}
