"""Logs: what every container says, by level and service, and one request's way through all of them."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring.dashboards.panels import SERVICE, TRACK, Query, board, lines, lines_counted, text_field

# The second filter selects no JSON line while the field is empty: an empty text in quotes is in many of them.
_REQUEST = '{service=~".+"} |= `"$request_id"` != `":$request_id`'
_CHOSEN = '{service=~"$service", track=~"$track"}'


def build() -> Dashboard:
    """Return the dashboard."""
    return board(
        "bank-logs",
        "Logs",
        "Log lines from Loki. A request's id is in every answer (X-Request-ID); a line's trace_id leads to its trace.",
        {
            "How much": [
                lines_counted(
                    "Lines by level",
                    "Lines per minute of the services chosen.",
                    Query(f"sum by (level) (count_over_time({_CHOSEN}[1m]))", "{{level}}"),
                ),
                lines_counted(
                    "Lines by service",
                    "Lines per minute of every container of the stack.",
                    Query('sum by (service) (count_over_time({service=~".+"}[1m]))', "{{service}}"),
                ),
                lines_counted(
                    "Failed requests",
                    "Requests per minute that NGINX answered with a 5xx, by the service's track.",
                    Query('sum by (track) (count_over_time({service="nginx", level="ERROR"}[1m]))', "{{track}}"),
                ),
            ],
            "One request": [
                lines(
                    "Lines of the request",
                    "Every line with the request id entered above, from NGINX to the consumer of its events.",
                    _REQUEST,
                )
            ],
            "Trouble": [
                lines(
                    "Warnings and errors",
                    "Of the services chosen.",
                    '{service=~"$service", track=~"$track", level=~"WARNING|ERROR|CRITICAL"}',
                ),
                lines(
                    "All lines with a text",
                    "Of the services chosen, with the text that is typed in above.",
                    f"{_CHOSEN} |= `$text`",
                ),
            ],
        },
        [SERVICE, TRACK, text_field("request_id", "Request id"), text_field("text", "Text")],
    )
