"""The NATS streams and their configuration.

Services create missing streams, as after the loss of the broker's disk. Only `python -m shared.nats_setup`, which every
deployment runs before the services start, updates existing ones.
"""

import logging

from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

log = logging.getLogger(__name__)

STREAM = "BANK"
DEAD_LETTERS = "BANK_DEAD_LETTERS"
# Longer than a relay needs to republish events after a crash.
_DUPLICATE_WINDOW_SECONDS = 600


def _configuration(name: str, subjects: str) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=[subjects],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
    )


CONFIGURATIONS = {
    STREAM: _configuration(STREAM, "bank.>"),
    DEAD_LETTERS: _configuration(DEAD_LETTERS, "dead.bank.>"),
}


async def ensure(jetstream: JetStreamContext, name: str) -> str:
    """Create the stream if it does not exist; return its creation time."""
    try:
        found = await jetstream.stream_info(name)
    except NotFoundError:
        log.warning("stream %s does not exist, creating it", name)
        found = await jetstream.add_stream(CONFIGURATIONS[name])
    return found.created.isoformat() if found.created else ""


async def update(jetstream: JetStreamContext, name: str) -> list[str]:
    """Update an existing stream to its configuration; return the names of the changed fields.

    Raises the errors of JetStream, e.g. for fields that cannot be changed.
    """
    found = (await jetstream.stream_info(name)).config
    wanted = {field: value for field, value in vars(CONFIGURATIONS[name]).items() if value is not None}
    changed = {field: value for field, value in wanted.items() if getattr(found, field) != value}
    if changed:
        await jetstream.update_stream(found.evolve(**changed))
    return sorted(changed)
