"""Render untrusted text as Markdown: it cannot mention users, contain links or break out of its table cell."""

import html
import re


def cell(text: object) -> str:
    """Return the text as one line of plain text for a table or a list."""
    line = " ".join(str(text).split())
    # Escape Markdown syntax, mentions (@name) and URLs.
    line = re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(line, quote=False))
    return line.replace("@", "&#64;").replace("://", "&#58;//")


def table(head: list[str], rows: list[list[object]] | list[list[str]]) -> str:
    """Return a table of plain text cells."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
