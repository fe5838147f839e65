"""Parser for the project's Markdown: commands, their output, links and names, for the tests of the documentation.

A shell block that a test runs has a comment before it and may be followed by its output:

    <!-- runnable: embedded -->        run on the local stack that the block marked `starts: embedded` starts
    <!-- runnable: docker -->          run on the composed stack of the tests
    <!-- not run: why not -->
    <!-- output -->                    output of the previous block; `…` matches anything, ids and times may differ
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from shared.testing.paths import ROOT

SHELL = ("sh", "bash")

_MARKER = re.compile(r"<!--\s*([a-z ]+?)(?::\s*(.+?))?\s*-->")
_HTTP = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: first line, language, text, and the marker and value of the comment before it."""

    line: int
    language: str
    text: str
    marker: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """A runnable block and its output, if documented."""

    block: Block
    output: Block | None


def documents() -> list[Path]:
    """Return all Markdown files that are tracked by git or new and not ignored."""
    return [file for file in tracked() if file.suffix == ".md"]


@cache
def tracked() -> tuple[Path, ...]:
    """Return all files of the project, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(Path(line) for line in sorted(set(listed)) if (ROOT / line).is_file())


def parse(text: str) -> list[Token]:
    """Return the tokens of a document, tables included."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(text: str) -> list[Block]:
    """Return the code blocks of a document in order; a marker applies to the block directly after it."""
    shell_blocks: list[Block] = []
    marker, value = "", ""
    for token in parse(text):
        if token.type == "html_block" and (match := _MARKER.fullmatch(token.content.strip())):
            marker, value = match[1], match[2] or ""
            continue
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            language = token.info.strip() if token.type == "fence" else "indented"
            shell_blocks.append(Block(line, language, token.content, marker, value))
        marker, value = "", ""
    return shell_blocks


def examples(text: str, value: str) -> list[Example]:
    """Return the blocks of a document marked `runnable: <value>`, each with its output."""
    every = blocks(text)
    followers: list[Block | None] = [*every[1:], None]
    return [
        Example(block, follower if follower is not None and follower.marker == "output" else None)
        for block, follower in zip(every, followers)
        if (block.marker, block.value) == ("runnable", value)
    ]


def links(text: str) -> Iterator[str]:
    """Yield the targets of the links and images of a document."""
    for token in _inline(text):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if token.type in ("link_open", "image") and target is not None:
            yield str(target)
    yield from re.findall(r'<(?:img|source)[^>]*\bsrc(?:set)?="([^"]+)"', text)


def code(text: str) -> Iterator[str]:
    """Yield every code span and every line of the code blocks of a document."""
    for token in _inline(text):
        if token.type == "code_inline":
            yield token.content
    for block in blocks(text):
        # Not of output and data, which may contain any names.
        if block.language in (*SHELL, "indented"):
            yield from block.text.splitlines()


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub generates from the headings of a document."""
    tokens = parse(text)
    titles = [after.content for token, after in zip(tokens, tokens[1:]) if token.type == "heading_open"]
    names: set[str] = set()
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]|\]\([^)]*\)", "", title).lower()).replace(" ", "-")
        # Repeated headings get a number.
        same = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in names)
        names.add(f"{slug}-{same}" if same else slug)
    return names


def broken_links(file: Path, text: str) -> list[str]:
    """Return the broken links of a document; of web links only the syntax is checked."""
    broken = []
    for target in links(text):
        if target.startswith(_HTTP):
            if not re.fullmatch(r"https?://(?:[\w-]+\.)+[\w-]+(?::\d+)?(?:[/?#]\S*)?", target):
                broken.append(target)
            continue
        path, _, anchor = target.partition("#")
        destination = (ROOT / file.parent / path).resolve()
        if path and (not destination.exists() or ROOT not in (destination, *destination.parents)):
            broken.append(target)
        elif anchor and anchor not in anchors(destination.read_text(encoding="utf-8") if path else text):
            broken.append(target)
    return broken


def _inline(text: str) -> Iterator[Token]:
    for token in parse(text):
        yield from token.children or ()


def documented_paths(service: str) -> list[str]:
    """Return the paths of a service's public operations, from docs/api.md, which is generated from the routes."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    part = text.partition(f"<!-- generated: {service} -->")[2].partition(f"<!-- end of {service} -->")[0]
    return re.findall(r"^\| `[A-Z]+ (/\S+)`", part, re.MULTILINE)
