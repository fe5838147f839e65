"""Logs: lines by level and service, and all lines of one request."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, TRACK, Query, build_dashboard, log_volume_panel, logs_panel, text_box

# The second filter excludes every JSON line while the field is empty: many lines contain an empty string in quotes.
_REQUEST = '{service=~".+"} |= `"$request_id"` != `":$request_id`'
_SELECTED = '{service=~"$service", track=~"$track"}'


def build() -> Dashboard:
    """Return the dashboard."""
    return build_dashboard(
        "bank-logs",
        "Logs",
        "Logs from Loki. Responses have their request id in X-Request-ID; the trace_id of a line links to its trace.",
        {
            "Volume": [
                log_volume_panel(
                    "Lines by level",
                    "Lines per minute of the selected services.",
                    Query(f"sum by (level) (count_over_time({_SELECTED}[1m]))", "{{level}}"),
                ),
                log_volume_panel(
                    "Lines by service",
                    "Lines per minute of every container of the stack.",
                    Query('sum by (service) (count_over_time({service=~".+"}[1m]))', "{{service}}"),
                ),
                log_volume_panel(
                    "Failed requests",
                    "Requests per minute that NGINX answered with a 5xx, by track.",
                    Query('sum by (track) (count_over_time({service="nginx", level="ERROR"}[1m]))', "{{track}}"),
                ),
            ],
            "One request": [
                logs_panel(
                    "Lines of one request",
                    "Every line with the request id entered above, from NGINX to the event consumers.",
                    _REQUEST,
                )
            ],
            "Search": [
                logs_panel(
                    "Warnings and errors",
                    "Warnings and errors of the selected services.",
                    '{service=~"$service", track=~"$track", level=~"WARNING|ERROR|CRITICAL"}',
                ),
                logs_panel(
                    "Full-text search",
                    "Lines of the selected services that contain the text entered above.",
                    f"{_SELECTED} |= `$text`",
                ),
            ],
        },
        [SERVICE, TRACK, text_box("request_id", "Request id"), text_box("text", "Text")],
    )
