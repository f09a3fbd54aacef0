#!/usr/bin/env python3
"""Finds references that lead nowhere, in the documents and comments that git tracks.

    lint/references.py

What is checked:
- links of Markdown files: the file, and the heading or the line that follows `#`;
- paths, in backquotes or bare in a comment: some tracked file has that path, or ends with it;
- names of functions, types and constants in backquotes: they occur in the code, in docs/wfp.md (Windows' names), or in
  lint/external-names.txt;
- manual pages of our commands: `make install` puts them in place;
- sections of docs/wfp.md and rows of ARCHITECTURE.md's "What must always hold".

Prints `file:line: what leads nowhere`, one line each, and exits with 1 if there is any.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = "docs/wfp.md"
EXTERNAL = ROOT / "lint/external-names.txt"
LEFT_OUT = re.compile(
    r"^LICENSE|(^|/)Cargo\.lock$|^docs/bench/|\.svg$|^bpf/kernel\.h$|^lint/|^crates/sidetrack-winsock/include/windows/"
)

# The names below this heading of the glossary no longer exist in the code, so they are not checked.
RETIRED_WORDS = "## Words that are no longer used"

CODE = {".rs", ".h", ".c", ".py", ".proto", ".toml", ".sh", ".service", ""}
C_LIKE = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
RUST = re.compile(r"(?<![:\"'/])//[^\n]*|/\*.*?\*/", re.S)
HASH = re.compile(r"(?<![\w$&\"'{(])#(?![{!\[])[^\n]*")
COMMENT = {".rs": RUST, ".h": C_LIKE, ".c": C_LIKE, ".proto": C_LIKE}

BACKQUOTED = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.S | re.M)
LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
NAME = re.compile(r"^[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*(?:\(\))?!?$")
HUMPS = re.compile(r"^[A-Z][a-z0-9]+[A-Z]")
PATH = re.compile(r"^[\w.-]+(?:/[\w.-]+)*/?$")
FILE_ENDING = re.compile(r"\.(?:rs|h|c|md|py|proto|bpf)$")
BARE_PATH = re.compile(r"(?<![\w/.`<-])((?:[\w-]+/)*[\w-]+(?:\.bpf)?\.(?:rs|h|c|md|proto))\b(?![/(`>])")
NAME_IN_FILE = re.compile(r"`([\w:]+)`(?:\(\))? in\s+(?:[/*#!]+\s*)?\[?`([\w./-]+\.(?:rs|h|c|py|proto))`")
PAGE = re.compile(r"\b(?:man:)?(sidetrackd?(?:-[a-z]+)*)\((\d)\)")
WFP = re.compile(r"docs/wfp\.md(?:,| section| §) ?(\d+(?:\.\d+)+)")
MUST_HOLD = re.compile(r"What must always hold, (\d+)")


def tracked():
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


class Tree:
    """What references can lead to."""

    def __init__(self):
        self.files = tracked()
        self.endings = {
            "/".join(parts[i:])
            for name in self.files
            for parts in [name.split("/")]
            for i in range(len(parts))
        }
        self.folders = {
            "/".join(parts[i:j])
            for name in self.files
            for parts in [name.split("/")[:-1]]
            for i in range(len(parts))
            for j in range(i + 1, len(parts) + 1)
        }
        self.top_folders = {name.split("/")[0] for name in self.files if "/" in name}
        self.names = set(EXTERNAL.read_text().split()) if EXTERNAL.exists() else set()
        self.names.update(re.findall(r"[A-Za-z_]\w*", text_of(WINDOWS)))
        for name in self.files:
            if Path(name).suffix in CODE and not name.startswith("lint/"):
                code = without_comments(name, text_of(name))
                self.names.update(re.findall(r"[A-Za-z_]\w*", code))

    def has_path(self, path, origin):
        path = path.strip("/")
        folder = Path(origin).parent
        return (
            path in self.endings
            or path in self.names
            or path in self.folders
            or (ROOT / folder / path).exists()
            or path.startswith(("linux/", "bpf/bpf_", "sys/", "netinet/"))
        )


@cache
def text_of(name):
    try:
        return (ROOT / name).read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def without_comments(name, text):
    pattern = COMMENT.get(Path(name).suffix, HASH)
    return pattern.sub(" ", text)


FENCE_IN_DOC = re.compile(r"^[ \t]*//[/!] ```.*?^[ \t]*//[/!] ```[ \t]*$", re.S | re.M)


def prose_of(name, text):
    """The text with all but prose blanked out, so that offsets stay."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())
    if name.endswith(".md"):
        text = text.split(RETIRED_WORDS, 1)[0]
        return FENCE.sub(blank, text)
    pattern = COMMENT.get(Path(name).suffix, HASH)
    kept, end = [], 0
    for match in pattern.finditer(text):
        kept += [re.sub(r"[^\n]", " ", text[end : match.start()]), match.group()]
        end = match.end()
    return FENCE_IN_DOC.sub(blank, "".join(kept))


@cache
def anchors(name):
    found, seen = set(), {}
    for title in re.findall(r"^#{1,6} (.*)$", FENCE.sub("", text_of(name)), re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


@cache
def numbered_sections(name):
    return set(re.findall(r"^#{1,6} (\d+(?:\.\d+)*)\b", text_of(name), re.M)) | set(
        re.findall(r"^\s*(?:[-*|] ?)?\**(\d+(?:\.\d+)+)\**[ .|]", text_of(name), re.M)
    )


@cache
def rows_that_must_hold():
    return set(re.findall(r"^\| (\d+)\. ", text_of("ARCHITECTURE.md"), re.M))


def bad_link(tree, name, target):
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    place = (ROOT / name).parent / path if path else ROOT / name
    if not place.exists():
        return f"there is no {target}"
    if not anchor:
        return None
    inside = place.resolve().relative_to(ROOT).as_posix()
    line = re.fullmatch(r"L(\d+)", anchor)
    if line:
        return None if int(line[1]) <= text_of(inside).count("\n") else f"{path} has no line {line[1]}"
    return None if anchor in anchors(inside) else f"{path or name} has no heading #{anchor}"


def bad_backquoted(tree, name, token):
    if NAME.match(token):
        bare = token.removesuffix("!").removesuffix("()")
        segments = bare.split("::")
        is_name = "_" in bare or "::" in bare or token.endswith("()") or HUMPS.match(bare)
        if is_name and any(segment not in tree.names for segment in segments):
            return f"nothing is called `{token}`"
        return None
    path = re.sub(r":\d+$", "", token)
    ours = "/" in path and path.split("/")[0] in tree.top_folders
    if PATH.match(path) and (ours or FILE_ENDING.search(path)) and not tree.has_path(path, name):
        return f"there is no file `{token}`"
    return None


def bad_name_in_file(tree, match):
    """A sentence says that a file has something: `name` in `file`."""
    item, path = match[1].split("::")[-1], match[2]
    for name in tree.files:
        if name == path or name.endswith("/" + path):
            if re.search(rf"\b{re.escape(item)}\b", text_of(name)):
                return None
    return f"`{path}` has no `{item}`"


def problems(tree, name):
    text = text_of(name)
    prose = prose_of(name, text)
    if name.endswith(".md"):
        for match in LINK.finditer(prose):
            yield match.start(), bad_link(tree, name, match[1])
    for match in BACKQUOTED.finditer(prose):
        yield match.start(), bad_backquoted(tree, name, match[1])
    for match in NAME_IN_FILE.finditer(prose):
        yield match.start(), bad_name_in_file(tree, match)
    without_links = LINK.sub(lambda match: " " * len(match.group()), prose)
    for match in BARE_PATH.finditer(without_links):
        if not tree.has_path(match[1], name):
            yield match.start(), f"there is no file {match[1]}"
    for match in PAGE.finditer(text):
        page = f"{match[1]}.{match[2]}"
        known = page in text_of("Makefile") or (match[2] == "1" and "man1" in text_of("Makefile"))
        yield match.start(), None if known else f"make install makes no manual page {page}"
    for match in WFP.finditer(text):
        known = match[1] in numbered_sections(WINDOWS)
        yield match.start(), None if known else f"docs/wfp.md has no section {match[1]}"
    for match in MUST_HOLD.finditer(text):
        known = match[1] in rows_that_must_hold()
        yield match.start(), None if known else f"ARCHITECTURE.md has no row {match[1]} of what must always hold"


def main():
    tree = Tree()
    found = 0
    for name in tree.files:
        if LEFT_OUT.search(name) or Path(name).suffix not in CODE | {".md"}:
            continue
        for start, problem in problems(tree, name):
            if problem:
                print(f"{name}:{text_of(name).count(chr(10), 0, start) + 1}: {problem}")
                found += 1
    if found:
        sys.exit(f"{found} references lead nowhere")


if __name__ == "__main__":
    main()
