"""Markdown out of data that others wrote: nothing in it may call people, open links, or leave its cell."""

import html
import re


def cell(text: object) -> str:
    """Return one line of plain text, as it stands, for a table or a list."""
    line = " ".join(str(text).split())
    # Signs with a meaning in Markdown; an @ before a name would call that person, and an address would become a link.
    line = re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(line, quote=False))
    return line.replace("@", "&#64;").replace("://", "&#58;//")


def table(head: list[str], rows: list[list[object]] | list[list[str]]) -> str:
    """Return a table of plain texts."""
    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
