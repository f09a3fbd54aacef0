//! One command, run straight and through chains of built-in proxies. All must see the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::{Command, Stdio};

use crate::client::Outcome;
use crate::run::{FinishedRun, Run};

/// The numbers of proxies with which a command is run; 0 is without Sidetrack.
const PROXIES: [usize; 4] = [0, 1, 2, 8];

/// How long one run of a command may take, in seconds. Some time-outs of clients are part of it.
const TIMEOUT: &str = "50";

/// Number of lines of standard error that are shown if a column is not as expected.
const LINES_SHOWN: usize = 5;

/// Functions for the commands of a comparison, in bash.
///
/// - `row NAME COMMAND…` runs a command, and prints a row with the last line of its output.
/// - `tries NUMBER COMMAND…` runs a command so often, and prints how often it succeeded.
/// - `timed FROM TO COMMAND…` runs a command, and prints its exit code, and whether it took at
///   least FROM and less than TO milliseconds.
const FUNCTIONS: &str = r#"
row() { local name=$1; shift; printf '%s: %s\n' "$name" "$("$@" 2>&1 </dev/null | tail -n 1)"; }
tries() {
	local number=$1 good=0 try; shift
	for try in $(seq "$number"); do "$@" >/dev/null 2>&1 </dev/null && good=$((good + 1)); done
	echo "$good of $number"
}
timed() {
	local from=$1 to=$2 start=${EPOCHREALTIME/./} code took; shift 2
	"$@" >/dev/null 2>&1 </dev/null; code=$?
	took=$(((${EPOCHREALTIME/./} - start) / 1000))
	if [ "$took" -ge "$from" ] && [ "$took" -lt "$to" ]
	then echo "exit $code in time"; else echo "exit $code after $took ms"; fi
}
"#;

/// The outcomes of one command.
pub struct Comparison {
    columns: Vec<Column>,
}

/// The outcome of one run of the command.
pub struct Column {
    /// Number of proxies; 0 is without Sidetrack.
    pub proxies: usize,
    /// What the command printed, as NAME: VALUE.
    pub rows: BTreeMap<String, String>,
    /// How it ended, with the flow lines.
    pub ended: FinishedRun,
}

/// What a row must be.
pub struct Row<'a> {
    name: &'a str,
    straight: &'a str,
    redirected: &'a str,
}

/// A row that is the same with and without Sidetrack.
pub fn same<'a>(name: &'a str, value: &'a str) -> Row<'a> {
    documented(name, value, value)
}

/// A row that is another one with Sidetrack, which its documentation says.
pub fn documented<'a>(name: &'a str, straight: &'a str, redirected: &'a str) -> Row<'a> {
    Row {
        name,
        straight,
        redirected,
    }
}

impl Comparison {
    /// Runs a script for bash, which may use the functions `row`, `tries` and `timed`: first without
    /// Sidetrack, then through one, two and eight proxies. Its rows are compared; it may also print
    /// them itself.
    pub fn of(script: &str) -> Self {
        let script = format!("{FUNCTIONS}\n{script}");
        let columns = PROXIES.map(|proxies| run(proxies, &[], &script));
        Self {
            columns: columns.into(),
        }
    }

    /// Runs a script through one, two and eight proxies, with these options of `sidetrack run`.
    pub fn redirected_with(options: &[&str], script: &str) -> Self {
        let script = format!("{FUNCTIONS}\n{script}");
        let numbers = PROXIES.iter().filter(|number| **number > 0);
        let columns = numbers.map(|&proxies| run(proxies, options, &script));
        Self {
            columns: columns.collect(),
        }
    }

    /// The columns with Sidetrack.
    pub fn redirected(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.proxies > 0)
    }

    /// Panics with the whole table unless each row is in each column, and as expected.
    pub fn assert_rows(&self, expected: &[Row]) {
        let good = |column: &Column| {
            column.rows.len() == expected.len()
                && expected.iter().all(|row| column.is_expected(row))
        };
        let bad: Vec<_> = self.columns.iter().filter(|column| !good(column)).collect();
        if bad.is_empty() {
            return;
        }
        let mut message = self.table(expected);
        for column in bad {
            message += &column.end();
        }
        panic!("what a client sees is not the same (rows with * differ):\n{message}");
    }

    fn table(&self, expected: &[Row]) -> String {
        let mut lines = vec![self.heading()];
        for row in expected {
            let mark = |column: &Column| match column.is_expected(row) {
                true => column.value(row.name).to_owned(),
                false => format!("*{}", column.value(row.name)),
            };
            let mut line = vec![row.name.to_owned(), row.wanted()];
            line.extend(self.columns.iter().map(mark));
            lines.push(line);
        }
        for name in self.unexpected(expected) {
            let mut line = vec![name.to_owned(), "nothing".to_owned()];
            let values = self.columns.iter().map(|column| column.value(name));
            line.extend(values.map(|value| format!("*{value}")));
            lines.push(line);
        }
        aligned(&lines)
    }

    fn heading(&self) -> Vec<String> {
        let titles = self.columns.iter().map(Column::title);
        ["", "expected"]
            .map(str::to_owned)
            .into_iter()
            .chain(titles)
            .collect()
    }

    /// The names of rows that nobody expects.
    fn unexpected(&self, expected: &[Row]) -> BTreeSet<&str> {
        let names = self.columns.iter().flat_map(|column| column.rows.keys());
        let is_expected = |name: &str| expected.iter().any(|row| row.name == name);
        names
            .map(String::as_str)
            .filter(|name| !is_expected(name))
            .collect()
    }
}

impl Column {
    /// The names of its services, in order.
    pub fn services(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.proxies).map(|number| format!("p{number}"))
    }

    /// The flow lines for TCP that this service wrote.
    pub fn lines_of(&self, service: &str) -> Vec<&serde_json::Value> {
        let lines = self.ended.flows.iter();
        lines
            .filter(|line| line["service"] == service && line["protocol"] == "tcp")
            .collect()
    }

    /// Its heading in tables.
    pub fn title(&self) -> String {
        match self.proxies {
            0 => "straight".to_owned(),
            1 => "1 proxy".to_owned(),
            number => format!("{number} proxies"),
        }
    }

    /// Its exit code, and the end of its standard error.
    fn end(&self) -> String {
        let outcome = &self.ended.outcome;
        let lines: Vec<_> = outcome.stderr.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
        let (title, code) = (self.title(), outcome.code);
        format!(
            "\n{title} ended with {code:?}; standard error:\n{}\n",
            last.join("\n")
        )
    }

    fn value(&self, name: &str) -> &str {
        self.rows.get(name).map_or("-", String::as_str)
    }

    fn is_expected(&self, row: &Row) -> bool {
        let wanted = match self.proxies {
            0 => row.straight,
            _ => row.redirected,
        };
        self.rows.get(row.name).is_some_and(|value| value == wanted)
    }
}

impl Row<'_> {
    fn wanted(&self) -> String {
        match self.straight == self.redirected {
            true => self.straight.to_owned(),
            false => format!("{}; redirected: {}", self.straight, self.redirected),
        }
    }
}

/// Runs the script through this number of proxies with these options. The proxies are called p1, p2 and so on.
fn run(proxies: usize, options: &[&str], script: &str) -> Column {
    let command = ["timeout", TIMEOUT, "bash", "-c", script];
    let services: Vec<_> = (1..=proxies)
        .map(|number| format!("inspect:p{number}"))
        .collect();
    let vias = services.iter().flat_map(|service| ["--via", service]);
    let options: Vec<_> = vias.chain(options.iter().copied()).collect();
    let ended = match proxies {
        0 => straight(&command),
        _ => Run::new(&options, &command).wait(),
    };
    let lines = ended.outcome.stdout.lines();
    let rows = lines.map(|line| line.split_once(": ").unwrap_or((line, "")));
    let rows = rows.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Column {
        proxies,
        rows: rows.collect(),
        ended,
    }
}

fn straight(command: &[&str]) -> FinishedRun {
    let output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output();
    FinishedRun {
        outcome: Outcome::from(output.expect("bash is installed")),
        flows: Vec::new(),
    }
}

/// The lines with their cells in columns.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |index: usize| {
        let cells = lines.iter().map(|line| line[index].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
