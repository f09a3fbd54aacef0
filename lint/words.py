#!/usr/bin/env python3
"""Finds words that docs/glossary.md retires, in every text file that git tracks.

    lint/words.py [FILE…]

Prints `file:line: retired: what to say`, one line for each place, and exits with 1 if there is any.

An entry of the glossary's last table is matched as a sequence of whole words, in any case, in prose and inside of
identifiers: `flow tie` matches "flow tie", `flow_tie` and `FlowTie`, also across a line break in a comment. An entry
that has a capital letter is matched as it stands, as a whole word.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = Path("docs/glossary.md")
HEADING = "## Words that are no longer used"

# Files whose text others wrote, and files that must contain the retired words.
LEFT_OUT = re.compile(
    r"^docs/glossary\.md$|^lint/|(^|/)LICENSE|(^|/)Cargo\.lock$|^docs/bench/|\.svg$|\.proptest-regressions$"
    r"|^crates/sidetrack-winsock/include/windows/"
)
# Words that are right in some files.
ALLOWED = {
    "docs/wfp.md": {"facts"},
}

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# What may stand between two words of a phrase: white space, underscores, and the marks of a comment.
GAP = re.compile(r"^(?:[\s_]|\n[ \t]*(?:///|//!|//|\*|#))*$")


class Retired:
    """One entry: how it is matched, and what to say instead."""

    def __init__(self, text, instead):
        self.text = text
        self.instead = instead
        self.exact = re.compile(rf"\b{re.escape(text)}\b") if text != text.lower() else None
        self.words = [word.lower() for word in WORD.findall(text)]


def retired_words():
    rows = (ROOT / GLOSSARY).read_text().split(HEADING, 1)[1].splitlines()
    entries = []
    for row in rows:
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        if len(cells) == 2:
            entries += [Retired(text, cells[1]) for text in re.findall(r"`([^`]+)`", cells[0])]
    if not entries:
        sys.exit(f"{GLOSSARY}: no table below {HEADING!r}")
    return entries


def places(text, entries):
    """Yields the offset and the entry of each retired word."""
    by_first = {}
    for entry in entries:
        if entry.exact:
            yield from ((match.start(), entry) for match in entry.exact.finditer(text))
        else:
            by_first.setdefault(entry.words[0], []).append(entry)
    tokens = [(m.group().lower(), m.start(), m.end()) for m in WORD.finditer(text)]
    for i, (word, start, _) in enumerate(tokens):
        for entry in by_first.get(word, ()):
            part = tokens[i : i + len(entry.words)]
            gaps = zip(part, part[1:])
            if [token[0] for token in part] == entry.words and all(
                GAP.match(text[a[2] : b[1]]) for a, b in gaps
            ):
                yield start, entry


def tracked():
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return [name for name in listed.split("\0") if name]


def main():
    entries = retired_words()
    found = 0
    for name in sys.argv[1:] or tracked():
        path = ROOT / name
        if LEFT_OUT.search(name) or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        allowed = ALLOWED.get(name, ())
        for start, entry in sorted(places(text, entries), key=lambda place: place[0]):
            if entry.text not in allowed:
                line = text.count("\n", 0, start) + 1
                print(f"{name}:{line}: “{entry.text}” is retired: {entry.instead}")
                found += 1
    if found:
        sys.exit(f"{found} retired words; {GLOSSARY} has the list")


if __name__ == "__main__":
    main()
