"""Labels of replicas of a compose service, and the request that creates another replica.

The scaler, which sends the request, and the socket proxy, which allows only this request, both derive it from
`GET /containers/{id}/json` of an existing replica (Docker Engine API 1.41).
"""

from collections.abc import Mapping
from typing import Any

from app.scalers import is_stable

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"
# Label with the revision of environment and secrets (docs/adr/0020).
CONFIGURATION = "banking.configuration"
ONE_OFF = "com.docker.compose.oneoff"
# Label of replicas that the autoscaler created: only these are removed if they do not become ready.
CREATED = "banking.autoscale.created"

_NOT_COPIED = {"com.docker.compose.replace"}


def belongs_to(labels: Mapping[str, str], project: str) -> bool:
    """Return whether the labels belong to a scalable stable replica of the project."""
    return labels.get(PROJECT) == project and is_stable(labels) and labels.get(ONE_OFF, "False") == "False"


def name_of(labels: Mapping[str, str]) -> str:
    """Return the name that compose gives a container with these labels."""
    return f"{labels[PROJECT]}-{labels[SERVICE]}-{labels[NUMBER]}"


def copy_of(replica: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the body of `POST /containers/create` for another replica, equal except for its number.

    The image is given by its id, because a tag may have moved. Only the first network is included: an Engine before 25
    accepts one only, and the others are connected before the start.
    """
    config = dict(replica["Config"])
    labels = {name: value for name, value in config["Labels"].items() if name not in _NOT_COPIED}
    config["Labels"] = labels | {NUMBER: str(number), CREATED: "true"}
    config["Image"] = replica["Image"]
    # Docker's default, not set by the service.
    if config.get("Hostname") == replica["Id"][:12]:
        del config["Hostname"]
    first, *_ = endpoints_of(replica, number).items()
    body = {**config, "HostConfig": replica["HostConfig"], "NetworkingConfig": {"EndpointsConfig": dict([first])}}
    # The SDK omits top-level nulls.
    return {name: value for name, value in body.items() if value is not None}


def endpoints_of(replica: Mapping[str, Any], number: int) -> dict[str, dict[str, Any]]:
    """Return the endpoints by network of the replica with this number; the network it is created with is first."""
    labels = replica["Config"]["Labels"]
    endpoint = {"Aliases": [name_of({**labels, NUMBER: str(number)}), labels[SERVICE]]}
    created_with = replica["HostConfig"]["NetworkMode"]
    return {
        name: endpoint for name in sorted(replica["NetworkSettings"]["Networks"], key=lambda name: name != created_with)
    }
