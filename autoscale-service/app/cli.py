"""Command line for operators, inside the container: `python -m app.cli COMMAND`.

    status               print the status of the autoscaler
    pause | resume       pause scaling until resumed; resume it
    scale SERVICE COUNT  set the number of replicas; pause first, or the autoscaler may change it again
    check-proxy          check that the socket proxy rejects forbidden Docker API calls

No token is required: anyone who can run this can run any command in the container.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import httpx

from app.scalers import UpdateInProgress, ScalingError
from app.scalers.registry import SCALERS
from app.settings import AutoscaleSettings
from app.state import StateFolder
from shared.runtime.settings import load_or_exit

_TIMEOUT_SECONDS = 30.0
_UNKNOWN_ID = "0" * 64
_PRIVILEGED = {"Image": "alpine", "Cmd": ["sh"], "HostConfig": {"Privileged": True, "Binds": ["/:/host"]}}
FORBIDDEN: Sequence[tuple[str, str, Any]] = (
    ("POST", "/containers/create?name=root", _PRIVILEGED),
    ("GET", f"/containers/{_UNKNOWN_ID}/json", None),
    ("POST", f"/containers/{_UNKNOWN_ID}/start", None),
    ("POST", f"/containers/{_UNKNOWN_ID}/stop", None),
    ("POST", f"/containers/{_UNKNOWN_ID}/kill", None),
    ("POST", f"/containers/{_UNKNOWN_ID}/exec", {"Cmd": ["sh"]}),
    ("POST", f"/containers/{_UNKNOWN_ID}/update", {"Memory": 0}),
    ("GET", f"/containers/{_UNKNOWN_ID}/logs?stdout=1", None),
    ("GET", f"/containers/{_UNKNOWN_ID}/archive?path=/", None),
    ("DELETE", f"/containers/{_UNKNOWN_ID}?force=1", None),
    ("POST", "/containers/prune", None),
    ("POST", "/networks/host/connect", {"Container": _UNKNOWN_ID}),
    ("POST", "/networks/create", {"Name": "own"}),
    ("POST", "/images/create?fromImage=alpine", None),
    ("POST", "/build", None),
    ("GET", "/images/json", None),
    ("GET", "/volumes", None),
    ("GET", "/secrets", None),
    ("GET", "/info", None),
    ("GET", "/events", None),
    ("GET", "/containers/json/../../info", None),
    ("POST", f"/services/{'0' * 25}/update?version=1", {"Name": "other"}),
    ("POST", "/services/create", {"Name": "own"}),
    ("POST", "/swarm/leave?force=1", None),
)


def _status(settings: AutoscaleSettings) -> int:
    response = httpx.get(f"http://127.0.0.1:{settings.port}/status", timeout=_TIMEOUT_SECONDS)
    print(json.dumps(response.json(), indent=2))
    return 0


def _check_proxy(settings: AutoscaleSettings) -> int:
    """Send each forbidden call and print the response; return 1 if one is not rejected."""
    allowed = 0
    url = settings.docker_url.replace("tcp://", "http://")
    with httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS) as client:
        for method, path, body in FORBIDDEN:
            response = client.request(method, path, json=body)
            allowed += response.status_code not in (403, 404)
            reason = response.json().get("message", "").rpartition(": ")[2]
            print(f"{response.status_code}  {method:6} {path[:44]:44} {reason}")
    return int(allowed > 0)


def _scale(settings: AutoscaleSettings, service: str, count: int) -> int:
    scaler = SCALERS[settings.scaler](settings)
    try:
        if service not in scaler.observe():
            print(f"{service} is not a scalable service", file=sys.stderr)
            return 1
        scaler.scale(service, count)
    except (UpdateInProgress, ScalingError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run a command and return the exit code."""
    settings = load_or_exit(AutoscaleSettings)
    match arguments:
        case ["status"]:
            return _status(settings)
        case ["pause"]:
            StateFolder(settings.state_dir).pause("an operator on the host")
        case ["resume"]:
            StateFolder(settings.state_dir).resume()
        case ["scale", service, count] if count.isdecimal() and int(count):
            return _scale(settings, service, int(count))
        case ["check-proxy"]:
            return _check_proxy(settings)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
