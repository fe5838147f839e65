"""What makes a container a replica of a compose service, and the request that makes one more like it.

Both the scaler, which sends the request, and the socket proxy, which lets only this request pass, compute it here from
what `GET /containers/{id}/json` says of a replica that is there (Docker Engine API 1.41).
"""

from collections.abc import Mapping
from typing import Any

from app.scalers import is_stable

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
ONE_OFF = "com.docker.compose.oneoff"
# On the replicas that were started here: only these are taken back when they do not become ready.
MADE = "banking.autoscale.made"

_NOT_COPIED = {"com.docker.compose.replace"}


def is_ours(labels: Mapping[str, str], project: str) -> bool:
    """Tell whether labels are those of a stable replica that may be scaled."""
    return labels.get(PROJECT) == project and is_stable(labels) and labels.get(ONE_OFF, "False") == "False"


def name_of(labels: Mapping[str, str]) -> str:
    """Return the name that compose gives the container with these labels."""
    return f"{labels[PROJECT]}-{labels[SERVICE]}-{labels[NUMBER]}"


def copy_of(replica: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the body of `POST /containers/create` for one more replica, the same but for its number.

    The image is named by its id: a tag may have moved on. Of the networks it has the first; an Engine before 25 takes
    one only, the others are connected before the start.
    """
    config = dict(replica["Config"])
    labels = {name: value for name, value in config["Labels"].items() if name not in _NOT_COPIED}
    config["Labels"] = labels | {NUMBER: str(number), MADE: "true"}
    config["Image"] = replica["Image"]
    # Docker's own choice, unless the service has set it.
    if config.get("Hostname") == replica["Id"][:12]:
        del config["Hostname"]
    first, *_ = endpoints_of(replica, number).items()
    body = {**config, "HostConfig": replica["HostConfig"], "NetworkingConfig": {"EndpointsConfig": dict([first])}}
    # The SDK sends no top-level null.
    return {name: value for name, value in body.items() if value is not None}


def endpoints_of(replica: Mapping[str, Any], number: int) -> dict[str, dict[str, Any]]:
    """Return network and endpoint of the replica with this number; the network that it is created with comes first."""
    labels = replica["Config"]["Labels"]
    endpoint = {"Aliases": [name_of({**labels, NUMBER: str(number)}), labels[SERVICE]]}
    created_with = replica["HostConfig"]["NetworkMode"]
    return {
        name: endpoint for name in sorted(replica["NetworkSettings"]["Networks"], key=lambda name: name != created_with)
    }
