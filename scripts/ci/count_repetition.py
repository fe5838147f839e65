"""Count runs of equal lines: `python -m scripts.ci.count_repetition [--revision REV] [--minimum 6] [--list]`.

A run is at least six consecutive lines that also occur elsewhere, in the same file or another one, ignoring blank lines
and indentation. It reads the source and configuration files under version control that are not generated.
"""

import argparse
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

_SUFFIXES = {".py", ".sh", ".js", ".css", ".html", ".sql", ".lua", ".yml", ".yaml", ".j2", ".conf", ".toml", ".env"}
_NAMES = {"Dockerfile", "Makefile"}
_GENERATED = ("clients/python/banking_client/api/", "clients/python/banking_client/models/")


@dataclass(frozen=True, order=True)
class Run:
    """Lines of a file, from `first` to `last`, that also occur elsewhere; `lines` of them are not blank."""

    file: str
    first: int
    last: int
    lines: int


def repeated_runs(files: Mapping[str, str], minimum: int) -> list[Run]:
    """Return the runs of at least `minimum` repeated lines, in the order of the files; adjacent runs are one."""
    numbered = {file: _content(text) for file, text in files.items()}
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for file, lines in numbered.items():
        for start in range(len(lines) - minimum + 1):
            places[tuple(line for _, line in lines[start : start + minimum])].append((file, start))
    repeated: dict[str, set[int]] = defaultdict(set)
    for positions in places.values():
        for file, start in positions if len(positions) > 1 else ():
            repeated[file].update(range(start, start + minimum))
    return [run for file in sorted(repeated) for run in _runs(file, numbered[file], sorted(repeated[file]))]


def _content(text: str) -> list[tuple[int, str]]:
    """Return number and content of the lines that are not blank."""
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _runs(file: str, lines: Sequence[tuple[int, str]], indices: Sequence[int]) -> list[Run]:
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [Run(file, lines[run[0]][0], lines[run[-1]][0], len(run)) for run in runs]


def _is_source(file: str) -> bool:
    path = PurePath(file)
    return (path.suffix in _SUFFIXES or path.name in _NAMES) and not file.startswith(_GENERATED)


def tracked_files(revision: str) -> dict[str, str]:
    """Return the source files of a commit."""
    names = _git("ls-tree", "-r", "-z", "--name-only", revision).split("\0")
    return {name: _git("show", f"{revision}:{name}") for name in names if _is_source(name)}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True)  # nosec B607  # from the PATH
    return done.stdout.decode(errors="replace")


def main() -> None:
    """Print the number of runs and of repeated lines by area."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--revision", default="HEAD", help="commit to read (default HEAD)")
    parser.add_argument("--minimum", type=int, default=6, help="lines that make a run (default 6)")
    parser.add_argument("--list", action="store_true", help="also print each run")
    arguments = parser.parse_args()
    files = tracked_files(arguments.revision)
    runs = repeated_runs(files, arguments.minimum)
    areas: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        areas[run.file.split("/")[0]].append(run)
        if arguments.list:
            print(f"{run.file}:{run.first}-{run.last} {run.lines}")
    for area, runs_of_area in sorted(areas.items()):
        print(f"{area:24} {len(runs_of_area):4} runs {sum(run.lines for run in runs_of_area):6} lines")
    total = sum(len(_content(text)) for text in files.values())
    print(f"{'total':24} {len(runs):4} runs {sum(run.lines for run in runs):6} lines of {total} in {len(files)} files")


if __name__ == "__main__":
    main()
