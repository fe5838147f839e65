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
    assert {x for x, _ in occupied} == set(range(24))
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


def test_dashboards_link_to_each_other_and_to_existing_runbooks():
    settings = (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    assert f"RUNBOOKS_URL={RUNBOOKS_URL}" in settings
    for dashboard in DASHBOARDS.values():
        assert [link["type"] for link in dashboard["links"]] == ["dashboards", "link"]
        for panel in dashboard["panels"]:
            for link in panel.get("links", []):
                assert (ROOT / "docs" / "runbooks" / link["url"].removeprefix(f"{RUNBOOKS_URL}/")).is_file()


def test_names_are_unique():
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in DASHBOARDS.values()]
        assert len(values) == len(set(values))
