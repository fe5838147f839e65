"""The glossary names existing files, and no text of the project uses phrases that it replaced."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.testing.documents import ROOT, tracked

GLOSSARY = ROOT / "docs" / "glossary.md"
# Regular expressions, ignoring case, each with a suggestion.
REPLACED = {
    r"\bwhoever\b": "name the role: driver, client, operator",
    r"\b(nobody is told|told to nobody)\b": "no receiver is configured",
    r"\bnobody watches\b": "rollout-service down",
    r"\bso (long|often)\b": "name the duration or interval",
    r"\b(what|that) is asked\b": "a noun: the request, the check",
    r"\b(least level|fewest replicas|most replicas)\b": "minimum, maximum",
    r"\bmay (come|go) at most\b": "scaling policy: maximum change per period",
    r"\bhas stayed so\b": "stabilization window",
    r"\bis full soon\b": "filesystem almost full",
    r"\b(sets?|has set|setting) (\w+ )?aside\b": "dead-letter",
    r"\b(bury|buried|buries)\b": "dead-letter",
    r"\bgive[sn]?[_ ]back\b": "nack, redeliver",
    r"\ball is well\b": "all systems operational, healthy",
    r"\bthe canary serves\b": "canary receiving traffic",
    r"\bit decides\.": "active",
    r"\bwhat was tried\b": "test coverage",
    r"\bgoes away\b": "disconnects, is removed",
    r"forsaken": "abandoned",
    r"uninterrupted": "shield",
    r"\bheard of\b": "lease expired, no heartbeat",
    r"\bgoes before\b": "takes precedence over",
    r"\bthe version before\b": "the previous version",
    r"\btake[sn]?( \w+)? back\b": "roll back, revert",
    r"\bcannot be had\b": "is not available",
    r"\bhow to mend\b": "mitigation",
    r"\blines above say why\b": "see the output above",
    r"\bnobody (had thought|expected)\b": "unexpected error",
    r"\b(AccountIs|HoldIs|Overtaken)\b": "AccountResult, HoldResult, StaleOffset",
    r"\b(at_once\.sh|tell_slack|keep_issue|on_stack|stack_host)\b": "the names that the files have now",
    r"name: (have|know|bring) ": "Install, Read, Copy",
}
_PHRASES = re.compile("|".join(f"(?:{phrase})" for phrase in REPLACED), re.IGNORECASE)
# Historical records, and this file.
_EXEMPT = ("CHANGELOG.md", "docs/reports/", "scripts/tests/test_glossary.py")
_BINARY = {".png", ".ico"}


def rows(text: str) -> list[list[str]]:
    """Return the cells of each concept's row."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| word |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def replaced_phrases(file: Path, lines: Iterable[str]) -> Iterator[str]:
    """Yield `file:line: phrase → replacement` for each replaced phrase."""
    for number, line in enumerate(lines, 1):
        for match in _PHRASES.finditer(line):
            better = [text for phrase, text in REPLACED.items() if re.fullmatch(phrase, match[0], re.IGNORECASE)]
            yield f"{file}:{number}: {match[0]!r} → {better[0]}"


def test_every_path_in_the_glossary_exists() -> None:
    paths = [path for row in rows(GLOSSARY.read_text(encoding="utf-8")) for path in re.findall(r"`([^`]+)`", row[2])]
    assert len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_concept_has_a_meaning_a_place_and_a_source_and_appears_once() -> None:
    concepts = rows(GLOSSARY.read_text(encoding="utf-8"))
    assert [row for row in concepts if len(row) != 4 or not all(row)] == []
    words = [word for row in concepts for word in row[0].split(", ")]
    assert sorted({word for word in words if words.count(word) > 1}) == []


def test_replaced_phrases_are_found_with_file_and_line() -> None:
    text = ["fine", "Whoever drives takes it back."]
    assert [found.split(" → ")[0] for found in replaced_phrases(Path("a.md"), text)] == [
        "a.md:2: 'Whoever'",
        "a.md:2: 'takes it back'",
    ]


def test_no_text_uses_a_replaced_phrase() -> None:
    files = [file for file in tracked() if not str(file).startswith(_EXEMPT) and file.suffix not in _BINARY]
    found = [
        line
        for file in files
        for line in replaced_phrases(file, (ROOT / file).read_text(encoding="utf-8", errors="replace").splitlines())
    ]
    assert not found, "\n".join([f"{len(found)} replaced phrases:", *found])
