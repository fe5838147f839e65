"""Log pipeline: the lines that containers write, the agent parses, and dashboards and links query."""

import json
import logging
import re
from typing import Any

import pytest
import yaml

from monitoring.dashboards.queries import PanelQuery, panel_queries
from shared.testing.paths import ROOT
from scripts.stack.stack_files import nginx_configuration
from shared.logging_config import JsonFormatter
from shared.observability import log_retention

LOW_CARDINALITY = {"project", "service", "track", "version", "level"}
METADATA = {"request_id", "trace_id", "container"}
LOGQL = [pytest.param(query, id=query.panel) for query in panel_queries() if query.language == "logql"]


def load(path: str) -> Any:
    """Return the content of a YAML file."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


(SCRAPE,) = load("monitoring/promtail-config.yml")["scrape_configs"]
STAGES: list[dict[str, Any]] = SCRAPE["pipeline_stages"]


def stages(kind: str) -> list[Any]:
    """Return the settings of all stages of a kind, in order."""
    return [stage[kind] for stage in STAGES if kind in stage]


def fields_of(expression: str) -> set[str]:
    """Return the labels and fields used in a LogQL expression."""
    unquoted = re.sub(r"\"[^\"]*\"|`[^`]*`", '""', expression)
    named = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", unquoted))
    return named.union(*(re.findall(r"\w+", group) for group in re.findall(r"\bby \(([^)]*)\)", unquoted)))


def test_labels_are_few_and_ids_are_metadata():
    labels = set().union(*stages("labels")) | SCRAPE["static_configs"][0]["labels"].keys() - {"__path__"}
    (metadata,) = stages("structured_metadata")
    assert labels == LOW_CARDINALITY
    assert metadata.keys() == METADATA
    assert stages("labeldrop") == [["filename"]]


@pytest.mark.parametrize("query", LOGQL)
def test_queries_use_labels_that_the_agent_sets(query: PanelQuery):
    names = fields_of(query.expr)
    assert names and names <= LOW_CARDINALITY | METADATA


def test_links_between_logs_and_traces_use_labels_that_the_agent_sets():
    sources = {
        source["uid"]: source["jsonData"] for source in load("monitoring/grafana-datasources.yml")["datasources"]
    }
    (derived,) = sources["loki"]["derivedFields"]
    assert (derived["matcherType"], derived["datasourceUid"]) == ("label", "tempo")
    assert derived["matcherRegex"] in METADATA
    to_logs = sources["tempo"]["tracesToLogsV2"]
    assert to_logs["datasourceUid"] in sources
    assert fields_of(to_logs["query"]) <= LOW_CARDINALITY | METADATA


def test_services_and_nginx_write_the_fields_that_the_agent_parses():
    parsed = stages("json")[-1]["expressions"].values()
    formatter = JsonFormatter({"service": "account-service", "version": "v1", "track": "stable"})
    line = json.loads(formatter.format(logging.makeLogRecord({"levelname": "INFO", "msg": "text"})))
    assert set(parsed) - line.keys() == {"status"}
    log_format = "".join(re.findall(r"^\s*'(.*)'", nginx_configuration(tls=False), re.MULTILINE))
    assert {"service", "request_id", "status", "track", "version"} <= set(re.findall(r'"(\w+)":', log_format))


def test_docker_adds_project_service_and_container_to_each_line():
    envelope = stages("json")[1]["expressions"]
    services = load("docker-compose.yml")["services"]
    assert len(services) > 15
    for name, service in services.items():
        options = service["logging"]["options"]
        assert {f'"{label}"' for label in options["labels"].split(",")} == {
            envelope["project"],
            envelope["compose_service"],
        }, name
        assert (options["tag"], envelope["container"]) == ("{{.Name}}", "tag")


def test_lines_of_other_containers_are_dropped_before_parsing():
    kinds = [next(iter(stage)) for stage in STAGES]
    (dropped,) = stages("match")
    assert (dropped["selector"], dropped["action"]) == ('{project=""}', "drop")
    assert kinds.index("labels") < kinds.index("match") < kinds.index("output")


def test_retention_by_age_and_by_size():
    loki, tempo = load("monitoring/loki-config.yml"), load("monitoring/tempo-config.yml")
    services = load("docker-compose.yml")["services"]
    compactor, limits = loki["compactor"], loki["limits_config"]
    assert compactor["retention_enabled"] and limits["retention_period"] == limits["max_query_length"] == "${RETENTION}"
    assert "-config.expand-env=true" in services["loki"]["entrypoint"]
    assert services["loki"]["environment"] == {"RETENTION": "${LOKI_RETENTION_TIME}"}
    # Deletes through the API need a store of requests.
    assert compactor["delete_request_store"] == "filesystem"
    assert str(log_retention.CHUNKS) == loki["common"]["storage"]["filesystem"]["chunks_directory"]
    assert log_retention.ADDRESS == f"loki:{loki['server']['http_listen_port']}"
    assert services["loki-retention"]["command"][-1] == log_retention.__name__
    assert {name for name in services["prometheus"]["entrypoint"] if "retention" in name} == {
        "--storage.tsdb.retention.time=${PROMETHEUS_RETENTION_TIME}",
        "--storage.tsdb.retention.size=${PROMETHEUS_RETENTION_SIZE}",
    }
    assert tempo["backend_worker"]["compaction"]["block_retention"] == "168h"
