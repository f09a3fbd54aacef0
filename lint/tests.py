#!/usr/bin/env python3
"""Tests of the scripts next to this one: what they must find, and what they must let pass."""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import circles  # noqa: E402
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


class Circles(unittest.TestCase):
    def graph(self, **files):
        """The dependencies in a small crate, whose files are given by module: a__b stands for a/b.rs."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder).resolve()
            for module, text in files.items():
                file = root / "src" / (module.replace("__", "/") + ".rs")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            before, circles.ROOT = circles.ROOT, root
            try:
                return circles.without_parents(circles.Crate("src/lib.rs").graph())
            finally:
                circles.ROOT = before

    def test_two_files_that_use_each_other(self):
        graph = self.graph(
            lib="mod a; mod b;", a="use crate::b::B; pub struct A;", b="use super::a::A; pub struct B;"
        )
        self.assertEqual(circles.circles(graph), [{"src/a.rs", "src/b.rs"}])

    def test_a_path_in_the_code_counts_and_a_comment_or_a_test_does_not(self):
        by_path = self.graph(lib="mod a; mod b;", a="fn f() { crate::b::g() }", b="fn g() { crate::a::f() }")
        self.assertEqual(len(circles.circles(by_path)), 1)
        apart = self.graph(
            lib="mod a; mod b;",
            a="use crate::b::B;",
            b="// crate::a::f\npub struct B;\n#[cfg(test)]\nmod tests {\n    use crate::a::f;\n}\n",
        )
        self.assertEqual(circles.circles(apart), [])

    def test_a_re_export_is_followed_to_the_definition(self):
        graph = self.graph(
            lib="mod a; mod b; pub use b::B;", a="use crate::B; pub struct A;", b="use crate::a::A; pub struct B;"
        )
        self.assertEqual(circles.circles(graph), [{"src/a.rs", "src/b.rs"}])

    def test_a_child_may_use_its_parent_and_siblings_may_not_use_each_other(self):
        with_child = self.graph(lib="mod a;", a="mod c; use c::C; pub struct A;", a__c="use super::A; pub struct C;")
        self.assertEqual(circles.circles(with_child), [])
        siblings = self.graph(
            lib="mod a;",
            a="mod c; mod d;",
            a__c="use super::d::D; pub struct C;",
            a__d="use super::c::C; pub struct D;",
        )
        self.assertEqual(circles.circles(siblings), [{"src/a/c.rs", "src/a/d.rs"}])

    def test_headers_depend_by_what_they_name(self):
        self.assertIn("bpf/maps.h", circles.kernel_graph()["bpf/flow.h"])
        self.assertEqual(circles.kernel_graph()["bpf/policy.h"], set())


class Where(unittest.TestCase):
    def test_questions_are_answered_by_files_that_exist(self):
        text = (Path(__file__).parent.parent / "docs/where.md").read_text()
        questions = re.findall(r"^\| [^|]*\? \|.*$", text, re.M)
        self.assertGreaterEqual(len(questions), 20)
        for row in questions:
            files = re.findall(r"\]\(([^)#]+)\)", row)
            self.assertTrue(1 <= len(files) <= 3, row)
            for file in files:
                self.assertTrue((Path(__file__).parent.parent / "docs" / file).exists(), file)


if __name__ == "__main__":
    unittest.main()
