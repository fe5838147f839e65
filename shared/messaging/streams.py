"""The streams of the event bus, and what they are configured to be.

Services create a stream that is not there, as after the loss of the broker's disk. One that is there is changed in one
place only: `python -m shared.nats_setup`, which every deployment runs before the services start.
"""

import logging

from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

log = logging.getLogger(__name__)

STREAM = "BANK"
DEAD_LETTERS = "BANK_DEAD_LETTERS"
# Longer than a relay needs to publish again what a crash kept it from remembering.
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
    """Create the stream if it is not there; return the time when it was created."""
    try:
        found = await jetstream.stream_info(name)
    except NotFoundError:
        log.warning("there is no stream %s, creating it", name)
        found = await jetstream.add_stream(CONFIGURATIONS[name])
    return found.created.isoformat() if found.created else ""


async def update(jetstream: JetStreamContext, name: str) -> list[str]:
    """Bring a stream that is there to its configuration; return the names of what changed.

    Raises what JetStream raises, as for something that cannot be changed once a stream is there.
    """
    found = (await jetstream.stream_info(name)).config
    wanted = {field: value for field, value in vars(CONFIGURATIONS[name]).items() if value is not None}
    changed = {field: value for field, value in wanted.items() if getattr(found, field) != value}
    if changed:
        await jetstream.update_stream(found.evolve(**changed))
    return sorted(changed)
