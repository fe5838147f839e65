"""Checks that canaries, or promoted stable replicas, are ready before the rollout continues."""

from collections.abc import Iterable, Mapping

import httpx

from app.containers import Container, Containers
from app.rollout_request import SERVICES
from app.settings import RolloutSettings
from app.state_machine import Rollout

_TIMEOUT_SECONDS = 3.0


def missing_canaries(state: Rollout, replicas: Iterable[Container], scraped: Mapping[str, int]) -> list[str]:
    """Return a line for each service that lacks healthy canaries, or canaries scraped by Prometheus."""
    healthy = [replica.service for replica in replicas if replica.track == "canary" and replica.healthy]
    missing = []
    for service in SERVICES:
        required, ready, scraped_count = state.canaries[service], healthy.count(service), scraped.get(service, 0)
        if ready < required:
            missing.append(f"{service}: {ready} of {required} canaries are healthy")
        elif scraped_count < required:
            missing.append(f"{service}: Prometheus scrapes {scraped_count} of {required} canaries")
    return missing


def missing_stable_replicas(
    replicas: Iterable[Container], images: Mapping[str, str], revisions: Mapping[str, str]
) -> list[str]:
    """Return a line for each service with more stable replicas of other versions than healthy ones of the new version.

    `images` are the ids of the new images; a service without a revision is compared by its image only.
    """
    stable = [replica for replica in replicas if replica.track == "stable" and replica.running]
    missing = []
    for service in SERVICES:
        running = [replica for replica in stable if replica.service == service]
        new_version = images.get(service), revisions.get(service, "")
        versions = [(replica.image, replica.revision if new_version[1] else "") for replica in running]
        same = [replica for replica, version in zip(running, versions) if version == new_version]
        new = sum(replica.healthy for replica in same)
        old = len(running) - len(same)
        if new < max(1, old):
            missing.append(f"{service}: {new} healthy replicas of the new version, {old} of other versions")
    return missing


def scraped_canaries(prometheus_url: str) -> dict[str, int]:
    """Return the number of canaries of each service that Prometheus scrapes; empty when the query fails."""
    query = 'count by (service) (up{job="services",track="canary"} == 1)'
    try:
        response = httpx.get(f"{prometheus_url}/api/v1/query", params={"query": query}, timeout=_TIMEOUT_SECONDS)
        response.raise_for_status()
        result = response.json()["data"]["result"]
        return {series["metric"]["service"]: int(float(series["value"][1])) for series in result}
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return {}


def unmet_conditions(settings: RolloutSettings, state: Rollout) -> list[str]:
    """Return a line for each condition that provisioning or promoting still waits for. Raises DockerError."""
    containers = Containers(settings.docker_url, settings.project)
    if state.phase == "provisioning":
        # Without an analysis Prometheus is not needed, and may be the reason for it.
        scraped = state.canaries if state.skip_analysis else scraped_canaries(settings.prometheus_url)
        return missing_canaries(state, containers.observe(), scraped)
    return missing_stable_replicas(containers.observe(), containers.image_ids(state.images), state.revisions)
