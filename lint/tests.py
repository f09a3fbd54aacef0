#!/usr/bin/env python3
"""Tests of words.py and references.py: what they must find, and what they must let pass."""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import references  # noqa: E402
import words  # noqa: E402


def found(text, *entries):
    retired = [words.Retired(entry, "") for entry in entries]
    return [entry.text for _, entry in sorted(words.places(text, retired), key=lambda place: place[0])]


class Words(unittest.TestCase):
    def test_prose_and_identifiers(self):
        self.assertEqual(found("a Desk, desk_take, DeskPool", "desk"), ["desk"] * 3)
        self.assertEqual(found("flow_tie(), FlowTie, a flow tie", "flow tie"), ["flow tie"] * 3)

    def test_a_phrase_across_a_line_break_of_a_comment(self):
        for mark in ["/// ", "//! ", "// ", " * ", "# ", ""]:
            self.assertEqual(found(f"a map of\n\t{mark}its own", "of its own"), ["of its own"])

    def test_parts_of_words_and_words_apart_pass(self):
        self.assertEqual(found("desktop, besides, lifetime, foretold", "desk", "beside", "life", "told"), [])
        self.assertEqual(found("the flow, a tie; flow-tie", "flow tie"), [])

    def test_capital_letters_are_exact(self):
        self.assertEqual(found("Turn::Again, turn, Turning", "Turn"), ["Turn"])

    def test_the_glossary_has_a_table(self):
        self.assertGreater(len(words.retired_words()), 40)


class References(unittest.TestCase):
    def problems(self, name, text, **files):
        """What is wrong with a file in a small repository."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for path, content in {
                "docs/page.md": "# A page\n\n## The `second` part\n\n## The `second` part\n",
                "docs/wfp.md": "## 4.7 Arbitration\n",
                "bpf/flow.h": "static int flow_find(void);\n",
                "Makefile": "install:\n\tinstall -t man8 tool.8 sidetrackd.8\n",
                "ARCHITECTURE.md": "| 1. Never twice. | `flow_find` | |\n",
                name: text,
            }.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(content)
            subprocess.check_call(["git", "init", "-q", folder])
            before = references.ROOT
            references.ROOT = root
            for cached in (references.text_of, references.anchors, references.numbered_sections):
                cached.cache_clear()
            references.rows_that_must_hold.cache_clear()
            try:
                return [problem for _, problem in references.problems(references.Tree(), name) if problem]
            finally:
                references.ROOT = before

    def assert_fine(self, name, text):
        self.assertEqual(self.problems(name, text), [])

    def assert_one(self, name, text):
        self.assertEqual(len(self.problems(name, text)), 1, text)

    def test_links(self):
        self.assert_fine("README.md", "[a](docs/page.md) [b](docs/page.md#the-second-part-1) [c](https://a.example/)")
        self.assert_one("README.md", "[a](docs/none.md)")
        self.assert_one("README.md", "[a](docs/page.md#none)")
        self.assert_one("README.md", "[a](bpf/flow.h#L100)")

    def test_paths(self):
        self.assert_fine("a.rs", "//! See `bpf/flow.h`, flow.h and `linux/magic.h`.\n")
        self.assert_one("a.rs", "//! See `bpf/none.h`.\n")
        self.assert_one("a.rs", "fn a() {} // as in none.h\n")
        self.assert_fine("a.rs", 'fn a() { b("none.h") }\n')

    def test_names(self):
        self.assert_fine("README.md", "`flow_find` and `flow_find()` and `plain`")
        self.assert_one("README.md", "`flow_lose`")
        self.assert_one("README.md", "`flow_lose()`")
        self.assert_fine("README.md", "```\n`flow_lose`\n```\n")
        self.assert_fine("README.md", "`flow_find` in `bpf/flow.h`")
        self.assert_one("README.md", "`find` in `bpf/flow.h`")

    def test_pages_sections_and_rows(self):
        self.assert_fine("unit.service", "Documentation=man:sidetrackd(8)\n")
        self.assert_one("unit.service", "Documentation=man:sidetrackd(5)\n")
        self.assert_fine("a.rs", "//! docs/wfp.md, 4.7; What must always hold, 1\n")
        self.assert_one("a.rs", "//! docs/wfp.md, 4.8\n")
        self.assert_one("a.rs", "//! What must always hold, 2\n")


class Where(unittest.TestCase):
    def test_questions_are_answered_by_files_that_exist(self):
        text = (Path(__file__).parent.parent / "docs/where.md").read_text()
        questions = re.findall(r"^.*\?.*$", text, re.M)
        self.assertGreaterEqual(len(questions), 20)


if __name__ == "__main__":
    unittest.main()
