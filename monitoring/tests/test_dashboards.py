"""Dashboards match their source; their queries select existing series; panels have descriptions and links."""

import json
import re
from typing import Any

import pytest

from monitoring.dashboards import FOLDER, rendered
from monitoring.dashboards.panels import RUNBOOKS_URL
from monitoring.dashboards.queries import PanelQuery, panel_queries
from monitoring.tests.series import known, selected
from shared.testing.paths import ROOT

DASHBOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
PROMQL = [pytest.param(query, id=query.panel) for query in panel_queries() if query.language == "promql"]


def test_rendered_files_match_their_source():
    wanted = dict(rendered())
    assert set(FOLDER.glob("*.json")) == wanted.keys(), "make dashboards"
    differing = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    assert not differing, "make dashboards"


@pytest.mark.parametrize("query", PROMQL)
def test_queries_parse_and_select_existing_metrics(query: PanelQuery):
    unknown = selected(query.expr) - known()
    assert not unknown


@pytest.mark.parametrize("panel", PANELS)
def test_panels_have_a_unit_a_description_and_named_queries(panel: dict[str, Any]):
    assert panel["description"].endswith(".")
    assert panel["type"] == "logs" or panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert references == sorted(set(references)) and all(references)


def _finds(expr: str, line: str) -> bool:
    return all((text in line) == (operator == "|=") for operator, text in re.findall(r"(\|=|!=) `([^`]*)`", expr))


def test_an_empty_request_id_selects_no_line():
    (panel,) = (panel for panel in DASHBOARDS["logs"]["panels"] if panel["title"] == "Lines of one request")
    expr = panel["targets"][0]["expr"]
    for line in ('{"user_agent":"","request_id":"abc"}', '{"message": "consumed", "request_ids": ["abc", "def"]}'):
        assert _finds(expr.replace("$request_id", "abc"), line)
        assert not _finds(expr.replace("$request_id", ""), line)


def test_every_dashboard_marks_rollouts():
    for dashboard in DASHBOARDS.values():
        (annotation,) = dashboard["annotations"]["list"]
        assert not selected(annotation["expr"]) - known()


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_panels_fill_rows_without_overlapping(name: str):
    occupied: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & occupied and place["x"] + place["w"] <= 24, panel["title"]
        occupied |= cells
    tops = {panel["gridPos"]["y"] for panel in DASHBOARDS[name]["panels"]}
    assert all({x for x, y in occupied if y == top} == set(range(24)) for top in tops)
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


def test_dashboards_link_to_each_other_and_to_existing_runbooks():
    settings = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    assert f"RUNBOOKS_URL={RUNBOOKS_URL}" in settings
    for dashboard in DASHBOARDS.values():
        assert [link["type"] for link in dashboard["links"]] == ["dashboards", "link"]


@pytest.mark.parametrize("panel", PANELS)
def test_panels_link_to_a_runbook_and_to_the_logs(panel: dict[str, Any]):
    runbook, *more = (link["url"] for link in panel["links"])
    assert runbook == RUNBOOKS_URL or (ROOT / "docs/runbooks" / runbook.removeprefix(f"{RUNBOOKS_URL}/")).is_file()
    if panel["type"] != "logs":
        # Whatever has a threshold has a runbook of its own; alerts have one each.
        thresholds = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        assert runbook != RUNBOOKS_URL or len(thresholds) < 2 or panel["title"] == "Firing alerts"
        (logs,) = more
        assert logs.startswith(f"/d/{DASHBOARDS['logs']['uid']}?") and "${__url_time_range}" in logs


def test_the_first_screen_answers_the_questions_of_an_incident():
    """At 1366 × 768 Grafana shows 16 grid units: is money moving, is anybody hurt, since when, what changed."""
    panels = DASHBOARDS["overview"]["panels"]
    first = {panel["title"] for panel in panels if panel["gridPos"]["y"] + panel["gridPos"]["h"] <= 16}
    assert {"Transactions", "Failed requests", "Ledger errors", "Firing alerts"} <= first
    assert {"Transactions by type", "Failed requests by service", "Versions in service"} <= first


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_titles_of_narrow_panels_are_short(name: str):
    # At 1366 px a column is 55 px wide, and the title has 7.5 px per character.
    panels = [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]
    assert not [panel["title"] for panel in panels if len(panel["title"]) * 7.5 > panel["gridPos"]["w"] * 55 - 40]


def test_names_are_unique():
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in DASHBOARDS.values()]
        assert len(values) == len(set(values))
