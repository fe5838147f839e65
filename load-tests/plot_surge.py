"""Plot reports of surges side by side in one SVG: plot_surge.py OUTPUT.svg "TITLE=reports/load/surge.json" …"""

import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WIDTH, _HEIGHT, _LEFT, _GAP, _TOP = 420, 120, 56, 46, 46
Points = Sequence[tuple[float, float | None]]


class Line(NamedTuple):
    """A series with its name in the legend and its colour."""

    name: str
    colour: str
    points: Points


def panels(report: dict[str, Any]) -> dict[str, list[Line]]:
    """Return the lines of each panel of a report by title."""
    rows, replicas = report["timeline"], report["replicas"]

    def column(name: str) -> Points:
        return [(row["at"], row[name]) for row in rows]

    return {
        "customers": [Line("customers", "#666", column("users"))],
        "replicas of account-service": [
            Line("ready", "#1b6ec2", replicas.get("ready", [])),
            Line("proposed by the dry run", "#999", replicas.get("dry_run", [])),
        ],
        "requests per second": [
            Line("succeeded", "#2a7f3f", column("ok")),
            Line("rejected", "#c98a00", column("rejected")),
            Line("failed", "#c22", column("failed")),
        ],
        "p95 in ms": [Line("p95", "#7a3fb0", column("p95"))],
    }


def _path(points: Points, end: float, maximum: float, left: float, top: float) -> str:
    """Return the SVG path of a line, with gaps where there is no value."""
    parts, pen = [], "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        x, y = left + _WIDTH * min(at / end, 1), top + _HEIGHT * (1 - value / maximum)
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return " ".join(parts)


def _panel(title: str, lines: list[Line], end: float, maximum: float, left: float, top: float) -> list[str]:
    bottom = top + _HEIGHT
    legend = "".join(
        f'<tspan fill="{line.colour}" dx="10">{html.escape(line.name)}</tspan>' for line in lines if line.points
    )
    return [
        f'<text x="{left}" y="{top - 8}">{html.escape(title)}{legend if len(lines) > 1 else ""}</text>',
        f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#ccc"/>',
        f'<text x="{left - 6}" y="{top + 9}" text-anchor="end">{maximum:g}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">0</text>',
        *(
            f'<path d="{_path(line.points, end, maximum, left, top)}" fill="none" stroke="{line.colour}"/>'
            for line in lines
            if line.points
        ),
        f'<text x="{left + _WIDTH}" y="{bottom + 13}" text-anchor="end">{end:.0f} s</text>',
    ]


def plot(reports: dict[str, dict[str, Any]]) -> str:
    """Return the SVG; a panel has the same scale in all reports."""
    columns = {title: panels(report) for title, report in reports.items()}
    end = max([1.0, *(row["at"] for report in reports.values() for row in report["timeline"])])
    names = list(next(iter(columns.values())))
    elements: list[str] = []
    for index, name in enumerate(names):
        values = [
            value
            for column in columns.values()
            for line in column[name]
            for _, value in line.points
            if value is not None
        ]
        top = _TOP + index * (_HEIGHT + _GAP) + 20
        for position, column in enumerate(columns.values()):
            left = _LEFT + position * (_WIDTH + _LEFT)
            elements += _panel(name, column[name], end, max([1.0, *values]), left, top)
    width, height = _LEFT + len(columns) * (_WIDTH + _LEFT), _TOP + len(names) * (_HEIGHT + _GAP)
    titles = [
        f'<text x="{_LEFT + index * (_WIDTH + _LEFT)}" y="24" font-weight="bold">{html.escape(title)}</text>'
        for index, title in enumerate(columns)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    font = ' font-family="sans-serif" font-size="11">'
    background = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head + font, background, *titles, *elements, "</svg>", ""])


def main(arguments: Sequence[str]) -> int:
    """Plot the given reports."""
    output, *sources = arguments
    parts = [source.partition("=") for source in sources]
    reports = {title: json.loads(Path(path).read_text(encoding="utf-8")) for title, _, path in parts}
    Path(output).write_text(plot(reports), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
