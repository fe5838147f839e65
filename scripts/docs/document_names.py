"""Find names in documents that do not exist: make targets, drills, files, modules, variables, metrics and tests.

Only code spans and commands are checked (shared.testing.documents.code); words that look like none of these names are
ignored.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

from scripts.docs import environment
from shared.testing.documents import code, tracked
from shared.testing.paths import ROOT
from shared.runtime.settings import ProcessSettings, ServiceSettings

# A word with one of these extensions is a file name.
_ENDINGS = r"(?:py|sh|ya?ml|md|json|txt|in|toml|ini|j2|png|svg|sql|mod|sum|conf|env|tmpl)"
_PATH = re.compile(
    r"(?<![\w@$=:~<*/.-])(?:\./)?"
    rf"((?:[\w*.-]+/)*[\w*-][\w*.-]*\.{_ENDINGS}|\.env|(?:[\w*.-]+/)+[\w*.-]*)"
    r"(?![\w(<>@]|:(?!:))"
)
_MODULE = re.compile(r"(?:python3? -m |(?<![\w./-]))((?:scripts|shared|app|monitoring)(?:\.[a-z_]+)+)\b")
# A make command: the variables before it, and its arguments.
_MAKE = re.compile(r"(?:^|[;&|(`])\s*((?:[A-Z][A-Z0-9_]*=(?:\"[^\"]*\"|\S*) )*)make((?: [^;|)&#`]*)?)")
_ASSIGNED = re.compile(r"(?<![\w$.-])([A-Z][A-Z0-9_]+)=")
_VARIABLE = re.compile(r"(?<![\w<.$%-])([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?![\w(])")
_DRILL = re.compile(r"\bDRILL=([\w-]+)")
_SUITES = re.compile(r"\bSUITES=(?:\"([^\"]*)\"|(\S+))")
_METRIC = re.compile(r"(?<![\w:.-])([a-z][a-z0-9_]*(?::[a-z][a-z0-9_]*){2}|bank_[a-z_]+)(?![\w:./(=-])")
# Names in code, roles, databases and foreign metrics: any file may contain the word.
_WORD = re.compile(r"(?<![\w.:/-])([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?![\w:/-]|\.py)")
# The name of a test or an abbreviation of it: `test_a_path…`, `…leads_nowhere`.
_TEST = re.compile(r"(?<!\w)(?:(?<=…)|(?=test_))([a-z0-9]+(?:_[a-z0-9]+)+)(?![\w/]|\.py)(…?)")

# Files that are generated at run time or on hosts.
_ELSEWHERE = (
    "var/",
    "reports/",
    ".venv",
    "verdicts/",
    "prepared/",
    "selected/",
    "deployed.json",
    "rollout-record.json",
    "rollout.json",
    ".tools/",
    "issuer.jwks.json",
    "keys/",
    "nginx.conf",
)
# Names of PostgreSQL, exporters, uvicorn, OpenSSL, Loki and Grafana that no file of the project contains.
_FOREIGN = {
    *("pg_snapshot_xmin", "pg_locks", "xact_start", "wait_event", "probe_http_status_code"),
    *("limit_concurrency", "s_client", "service_name", "preinstall_disabled"),
}


@cache
def make_targets() -> frozenset[str]:
    """Return the targets of the Makefile."""
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def drills() -> frozenset[str]:
    """Return the values of DRILL for `make drills`."""
    files = (ROOT / "integration-tests" / "drills").glob("*/*.py")
    return frozenset(file.stem for file in files if "\ndef main" in file.read_text(encoding="utf-8"))


@cache
def suites() -> frozenset[str]:
    """Return the values of SUITES for `make unit` and `make integration`: folders with tests, and their subfolders."""
    at_root = {file.parts[0] for file in tracked() if len(file.parts) > 2 and file.parts[1] == "tests"}
    inside = {file.parts[1] for file in tracked() if file.parts[0] == "integration-tests" and len(file.parts) > 2}
    parts = {
        "-".join(file.parts[1:3]) for file in tracked() if file.parts[0] == "integration-tests" and len(file.parts) > 3
    }
    return frozenset(at_root | inside | parts)


@cache
def variables() -> frozenset[str]:
    """Return all documented environment variables."""
    names = {variable.name for group in environment.other_variables() for variable in group.variables}
    env_file = environment.env_file_variables((ROOT / ".env").read_text(encoding="utf-8"))
    names |= {variable.name for group in env_file for variable in group.variables}
    names |= {name.upper() for kind in (ProcessSettings, ServiceSettings) for name in kind.model_fields}
    for service in environment.SERVICES:
        names |= {setting["name"] for setting in environment.service_description(service)["settings"]}
    return frozenset(names | {f"{name}_FILE" for name in names})


@cache
def words() -> frozenset[str]:
    """Return all words in files that are neither documents nor tests."""
    names = set(_FOREIGN)
    for file in tracked():
        if (
            file.suffix not in (".md", ".png")
            and "tests" not in file.parts
            and not file.name.startswith("requirements")
        ):
            names.update(re.findall(r"\w+", (ROOT / file).read_text(encoding="utf-8", errors="replace")))
    return frozenset(names)


@cache
def tests() -> frozenset[str]:
    """Return the names of all tests."""
    files = [file for file in tracked() if file.name.startswith("test_") and file.suffix == ".py"]
    return frozenset(
        name for file in files for name in re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
    )


def unknown(text: str, metrics: Collection[str]) -> list[str]:
    """Return the names in a document that do not exist, each with its kind."""
    lines = list(code(text))
    assigned = {name for line in lines for name in _ASSIGNED.findall(_MAKE.sub("", line))}
    names = [name for line in lines for name in _unknown_in(line, assigned, metrics)]
    return list(dict.fromkeys(names))


def _unknown_in(line: str, assigned: Collection[str], metrics: Collection[str]) -> Iterator[str]:
    arguments: set[str] = set()
    for before, after in _MAKE.findall(line):
        arguments |= {*_ASSIGNED.findall(before), *_ASSIGNED.findall(after)}
        targets = re.findall(r"(?<=\s)[a-z][a-z-]*(?=\s|$)", re.sub(r"\"[^\"]*\"", "", after))
        yield from (f"make target {target}" for target in targets if target not in make_targets())
    yield from (f"drill {drill}" for drill in _DRILL.findall(line) if drill not in drills())
    for quoted, bare in _SUITES.findall(line):
        yield from (f"suite {suite}" for suite in (quoted or bare).split() if suite not in suites())
    yield from (f"variable {name}" for name in sorted(arguments - variables()))
    # Constants in code are accepted, and variables that the document itself sets.
    named = set(_VARIABLE.findall(line)) - arguments - variables() - set(assigned)
    yield from (f"variable {name}" for name in sorted(named) if f"{name}=" in line or name not in words())
    yield from (f"file {path}" for path in _PATH.findall(line) if not _exists(path))
    yield from (f"module {module}" for module in _MODULE.findall(line) if not _is_module(module))
    yield from (f"metric {metric}" for metric in _METRIC.findall(line) if not _is_metric(metric, metrics))
    tested = {name: bool(rest) for name, rest in _TEST.findall(line)}
    yield from (f"test {name}" for name, shortened in tested.items() if not _is_test(name, shortened))
    names = set(_WORD.findall(line)) - tested.keys() - words()
    yield from (f"name {name}" for name in sorted(names) if not _is_metric(name, metrics))


def _exists(path: str) -> bool:
    """Return whether files have this name or path suffix, or are in a folder of this name."""
    if path.startswith(_ELSEWHERE) or not re.search(r"[a-z]", path):
        return True
    if "/" in path and not re.search(rf"\.{_ENDINGS}$", path) and path.split("/")[0] not in _folders():
        # Something like `read/write` is not a path.
        return True
    wanted = re.escape(path.rstrip("/")).replace(r"\*", "[^/]*").replace("NAME", "[^/]*")
    pattern = re.compile(rf"(?:.*/)?{wanted}(?:/.*)?")
    return any(pattern.fullmatch(str(file)) for file in tracked())


@cache
def _folders() -> frozenset[str]:
    return frozenset(file.parts[0] for file in tracked() if len(file.parts) > 1)


def _is_module(name: str) -> bool:
    """Return whether a dotted name is a module or a name in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = Path(*parts[:length])
        files = [
            file
            for file in tracked()
            if str(file).endswith((f"{path}.py", f"{path}/__init__.py")) and file.parts[0] != "integration-tests"
        ]
        if files:
            rest = parts[length:]
            return not rest or any(
                re.search(rf"\b{rest[0]}\b", (ROOT / file).read_text(encoding="utf-8")) for file in files
            )
    return False


def _is_test(name: str, shortened: bool) -> bool:
    """Return whether a test has this name, starts with it, or (without `test_`) contains it."""
    if not name.startswith("test_"):
        return any(name in test for test in tests())
    return any(test.startswith(name) for test in tests()) if shortened else name in tests()


def _is_metric(name: str, metrics: Collection[str]) -> bool:
    """Return whether a series has this name, with or without the suffix of a counter or histogram."""
    return any(f"{name}{ending}" in metrics for ending in ("", "_total", "_count"))
