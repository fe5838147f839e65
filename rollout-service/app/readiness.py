"""What the canaries still lack before a client may meet them."""

from collections.abc import Iterable, Mapping

import httpx

from app.containers import Container, Containers
from app.settings import RolloutSettings
from app.state_machine import SERVICES, Rollout

_SECONDS = 3.0


def lacking(state: Rollout, found: Iterable[Container], measured: Mapping[str, int]) -> list[str]:
    """Return a line for all that is missing: healthy canaries, and their measurements."""
    healthy = [one.service for one in found if one.track == "canary" and one.healthy]
    missing = []
    for service in SERVICES:
        wanted, there, seen = state.canaries[service], healthy.count(service), measured.get(service, 0)
        if there < wanted:
            missing.append(f"{service}: {there} of {wanted} canaries are healthy")
        elif seen < wanted:
            missing.append(f"{service}: Prometheus measures {seen} of {wanted} canaries")
    return missing


def unpromoted(found: Iterable[Container], images: Mapping[str, str]) -> list[str]:
    """Return a line for each service of which stable does not run a new image (its id) at least as often as others."""
    stable = [one for one in found if one.track == "stable" and one.running]
    missing = []
    for service in SERVICES:
        mine = [one for one in stable if one.service == service]
        new = sum(one.healthy and one.image == images.get(service) for one in mine)
        old = sum(one.image != images.get(service) for one in mine)
        if new < max(1, old):
            missing.append(f"{service}: {new} healthy replicas of the new version stand beside {old} others")
    return missing


def measured_canaries(prometheus_url: str) -> dict[str, int]:
    """Return how many canaries of each service Prometheus reaches; none where it does not answer."""
    query = 'count by (service) (up{job="services",track="canary"} == 1)'
    try:
        answer = httpx.get(f"{prometheus_url}/api/v1/query", params={"query": query}, timeout=_SECONDS)
        answer.raise_for_status()
        result = answer.json()["data"]["result"]
        return {series["metric"]["service"]: int(float(series["value"][1])) for series in result}
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return {}


def still_missing(settings: RolloutSettings, state: Rollout) -> list[str]:
    """Return a line for all that has to be there before provisioning or promoting is over. Raises DockerFailed."""
    containers = Containers(settings.docker_url, settings.project)
    if state.phase == "provisioning":
        return lacking(state, containers.observe(), measured_canaries(settings.prometheus_url))
    return unpromoted(containers.observe(), containers.image_ids(state.images))
