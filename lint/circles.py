#!/usr/bin/env python3
"""Finds circles of source files: sets of files of which each depends on all others, directly or not.

    lint/circles.py [--graph CRATE]

For Rust, a file depends on the files whose items it names by `use` or by a path that begins with `crate`, `super`, `self`
or a child module. A re-export is followed to the file that defines the item. `mod child;` is no dependency by itself.
For `bpf/`, a header depends on the headers that define the functions, structures, maps and constants that it names.

A module's file may use what its parent's file defines, while the parent uses the module: that is not counted. Every
other circle is printed, and the exit code is 1.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
STRINGS = re.compile(r'b?r?#*"(?:\\.|[^"\\])*"#*', re.S)
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
TESTS = re.compile(r"#\[cfg\((?:all\()?test\b.*?\)\]\s*(?:#\[[^\]]*\]\s*)*mod\s+\w+\s*(\{|;)", re.S)


def tracked(*patterns):
    listed = subprocess.check_output(["git", "ls-files", "-z", *patterns], cwd=ROOT, text=True)
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# ---- Rust ------------------------------------------------------------------------------------


def without_tests(code):
    """The code without its test modules, whose dependencies are no matter of design."""
    while match := TESTS.search(code):
        end = match.end()
        if match[1] == "{":
            depth = 1
            while depth and end < len(code):
                depth += {"{": 1, "}": -1}.get(code[end], 0)
                end += 1
        code = code[: match.start()] + code[end:]
    return code


def expand(tree, prefix=()):
    """The paths of a `use` tree, each with the name that it gets."""
    tree = tree.strip()
    group = re.fullmatch(r"(?:(.*?)::)?\s*\{(.*)\}", tree, re.S)
    if group:
        inner = tuple(prefix) + tuple(part.strip() for part in (group[1] or "").split("::") if part.strip())
        depth, start, body = 0, 0, group[2] + ","
        for i, char in enumerate(body):
            depth += {"{": 1, "}": -1}.get(char, 0)
            if char == "," and depth == 0:
                if body[start:i].strip():
                    yield from expand(body[start:i], inner)
                start = i + 1
        return
    path, _, alias = tree.partition(" as ")
    parts = tuple(prefix) + tuple(part.strip() for part in path.split("::") if part.strip())
    if parts[-1] == "self":
        parts = parts[:-1]
    yield parts, (alias.strip() or parts[-1])


class Crate:
    """A target's modules: module path (a tuple) to file, and what each file names."""

    def __init__(self, root_file):
        self.files, self.code, self.exports = {}, {}, {}
        self.load((), ROOT / root_file)
        for module in self.files:
            self.exports[module] = {
                name: path
                for match in USE.finditer(self.code[module])
                for path, name in expand(match[2])
            }

    def load(self, module, file):
        text = STRINGS.sub('""', COMMENTS.sub("", file.read_text()))
        code = without_tests(text)
        self.files[module], self.code[module] = file.relative_to(ROOT).as_posix(), code
        is_root = file.name in ("lib.rs", "main.rs", "mod.rs") or not module
        folder = file.parent if is_root else file.with_suffix("")
        declared = re.finditer(r"\bmod\s+(\w+)\s*;", code)
        for child in (match[1] for match in declared):
            for candidate in (folder / f"{child}.rs", folder / child / "mod.rs"):
                if candidate.exists():
                    self.load(module + (child,), candidate)

    def resolve(self, module, path, seen=()):
        """The module whose file defines what a path, as written in `module`, names; None: outside of the crate."""
        here = module
        if path[0] == "crate":
            here, path = (), path[1:]
        elif path[0] == "self":
            path = path[1:]
        elif path[0] == "super":
            while path and path[0] == "super":
                here, path = here[:-1], path[1:]
        elif here + (path[0],) not in self.files and path[0] not in self.exports.get(here, {}):
            return None
        while path and here + (path[0],) in self.files:
            here, path = here + (path[0],), path[1:]
        if path:
            exported = self.exports[here].get(path[0])
            step = (here, path[0])
            if exported and step not in seen and exported != path:
                defined = self.resolve(here, exported + path[1:], (*seen, step))
                return here if defined is None else defined  # () is the crate's root
        return here

    def dependencies(self, module):
        code = self.code[module]
        paths = [path for match in USE.finditer(code) for path, _ in expand(match[2])]
        body = USE.sub("", code)
        paths += [tuple(m.split("::")) for m in re.findall(r"(?<![\w:])((?:\w+::)+\w+)", body)]
        found = set()
        for path in paths:
            target = self.resolve(module, path)
            if target is not None and target != module:
                found.add(self.files[target])
        return found

    def graph(self):
        return {self.files[module]: self.dependencies(module) for module in self.files}


def is_parent(parent, child):
    parent, child = Path(parent), Path(child)
    folder = parent.parent if parent.name in ("lib.rs", "main.rs") else parent.with_suffix("")
    return child.parent == folder


def rust_graphs():
    for name in tracked("*/src/lib.rs", "*/src/main.rs", "*/src/bin/*.rs"):
        yield name, Crate(name).graph()


# ---- The kernel side ---------------------------------------------------------------------------

DEFINED = re.compile(
    r"^#define (\w+)|^(?:static |__noinline |__always_inline |const |volatile )*[\w ]+?\*?\s?\*?(\w+)\([^;{]*\)\s*\{"
    r"|^(?:struct|union|enum) (\w+)\s*\{|^\} (\w+) SEC|^(?:const volatile )?__[us]\d\d (\w+)(?:\[\d\])?(?: =[^;]*)?;"
    r"|^typedef .*?\(?\*?(\w+)\)?\(",
    re.M,
)


def kernel_graph():
    code = {name: COMMENTS.sub("", (ROOT / name).read_text()) for name in tracked("bpf/*.h")}
    home = {}
    for name, text in code.items():
        for match in DEFINED.finditer(text):
            word = next(group for group in match.groups() if group)
            if not word.endswith("_H"):
                home.setdefault(word, name)
    named = r"\b([A-Z]\w+)\b|\b(\w+)(?=\()|\b(?:struct|union|enum) (\w+)|\b(sidetrack_\w+|flows?_\w+|\w+_fn)\b"
    return {
        name: {
            home[word]
            for groups in re.findall(named, text)
            for word in groups
            if home.get(word, name) != name
        }
        for name, text in code.items()
    }


# ---- Circles -------------------------------------------------------------------------------------


def circles(graph):
    """Strongly connected components of more than one file, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = set()
            while node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def without_parents(graph):
    return {file: {other for other in uses if not is_parent(other, file)} for file, uses in graph.items()}


def main():
    sys.setrecursionlimit(10_000)
    graphs = [*rust_graphs(), ("bpf/", kernel_graph())]
    if sys.argv[1:2] == ["--graph"]:
        for name, graph in graphs:
            if name.startswith(sys.argv[2]):
                for file in sorted(graph):
                    print(file, "->", " ".join(sorted(graph[file])))
        return
    graphs = [(name, without_parents(graph)) for name, graph in graphs]
    bad = [(name, graph, component) for name, graph in graphs for component in circles(graph)]
    for name, edges, component in bad:
        print(f"{name}: {len(component)} files depend on one another:")
        for file in sorted(component):
            print(f"    {file} -> {' '.join(sorted(edges[file] & component))}")
    if bad:
        sys.exit(f"{len(bad)} circles of files")


if __name__ == "__main__":
    main()
