"""Settings that have a new name; a start with an old name fails, because a default would silently take its place.

    python3 -m shared.runtime.renamed_settings NAME …   prints one line per old name, and exits with 1 if there are any

`make up` and the role banking_app check the variables of docker-compose.yml with it. It needs no package.
"""

import sys
from collections.abc import Iterable

RENAMED = {
    "UP_WINDOW": "SCALE_UP_STABILIZATION_SECONDS",
    "DOWN_WINDOW": "SCALE_DOWN_STABILIZATION_SECONDS",
    "UP_RATE": "SCALE_UP_POLICY",
    "DOWN_RATE": "SCALE_DOWN_POLICY",
    "FALLBACK_PERIOD": "FALLBACK_PERIOD_SECONDS",
    "ACTIVE_INTERVAL": "ACTIVE_INTERVAL_SECONDS",
    "IDLE_INTERVAL": "IDLE_INTERVAL_SECONDS",
    "ALERT_MEMORY": "ALERT_RESOLVE_TIMEOUT_SECONDS",
    "START_TIMEOUT": "START_TIMEOUT_SECONDS",
    "BACKOFF": "BACKOFF_SECONDS",
    "PANIC_SECONDS": "PANIC_DURATION_SECONDS",
    "REPLAY_WINDOW": "REPLAY_WINDOW_SECONDS",
    "LATENCY_CEILING": "MAX_P95_LATENCY_SECONDS",
    "JUDGE_SECONDS": "ANALYSIS_INTERVAL_SECONDS",
    "POLL_SECONDS": "POLL_INTERVAL_SECONDS",
    "EDGE_URL": "NGINX_URL",
}
# Variables of docker-compose.yml that set some of them.
PREFIX = "AUTOSCALE_"
VARIABLES = {PREFIX + old: PREFIX + RENAMED[old] for old in ("DOWN_WINDOW", "UP_RATE", "DOWN_RATE")}


def renamed(names: Iterable[str], fields: Iterable[str]) -> list[str]:
    """Return a message for each name, in any case and also with _FILE, that a setting with this field once had."""
    current = {name.upper() for name in fields}
    renames = {old: new for old, new in RENAMED.items() if new in current}
    renames |= {f"{old}_FILE": f"{new}_FILE" for old, new in renames.items()}
    return [f"{name} was renamed to {renames[name.upper()]}" for name in sorted(names) if name.upper() in renames]


def main(names: Iterable[str]) -> int:
    """Print a message for each old variable of docker-compose.yml."""
    messages = [f"{name} was renamed to {VARIABLES[name]}" for name in sorted(names) if name in VARIABLES]
    print(*messages, sep="\n", end="\n" if messages else "", file=sys.stderr)
    return int(bool(messages))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
