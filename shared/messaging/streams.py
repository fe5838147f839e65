"""The NATS streams and their configuration.

Services create missing streams, as after the loss of the broker's disk. Only `python -m shared.nats_setup`, which every
deployment runs before the services start, updates existing ones.
"""

import logging

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from shared.runtime.settings import STREAM_DAYS

log = logging.getLogger(__name__)

STREAM = "BANK"
DEAD_LETTERS = "BANK_DEAD_LETTERS"
_DEAD_LETTERS_BYTES = 64 * 2**20
_MAX_AGE_SECONDS = STREAM_DAYS * 86400
# Longer than a relay needs to publish batches again after a crash.
_DUPLICATE_WINDOW_SECONDS = 600


def batch_subject(source: str) -> str:
    """Return the subject of the batches of a service."""
    return f"events.{source}"


def configurations(max_bytes: int, replicas: int = 1) -> list[StreamConfig]:
    """Return the configurations of the streams; `max_bytes` limits the stream of events.

    `replicas` is the number of servers that store each message. Durable consumers have as many as their stream.
    The server refuses streams whose sum exceeds its max_file_store (docker/nats/nats.conf).
    """
    return [
        # Earlier releases publish single events as bank.<type>.
        _configuration(STREAM, [batch_subject("*"), "bank.>"], max_bytes, _MAX_AGE_SECONDS, replicas),
        # Dead letters are also in the consumers' databases.
        _configuration(DEAD_LETTERS, ["dead.bank.>"], _DEAD_LETTERS_BYTES, 0, replicas),
    ]


def _configuration(name: str, subjects: list[str], max_bytes: int, max_age: float, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=subjects,
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.OLD,
        max_age=max_age,
        num_replicas=replicas,
        max_bytes=max_bytes,
        duplicate_window=_DUPLICATE_WINDOW_SECONDS,
        # Permits reading the last message of one subject.
        allow_direct=True,
    )


async def ensure(jetstream: JetStreamContext, configuration: StreamConfig) -> str:
    """Create the stream if it does not exist; return its creation time."""
    name = configuration.name or ""
    try:
        found = await jetstream.stream_info(name)
    except NotFoundError:
        log.warning("stream %s does not exist, creating it", name)
        found = await jetstream.add_stream(configuration)
    return found.created.isoformat() if found.created else ""


async def update(jetstream: JetStreamContext, configuration: StreamConfig) -> list[str]:
    """Update an existing stream to its configuration; return the names of the changed fields.

    Raises the errors of JetStream, e.g. for fields that cannot be changed.
    """
    found = (await jetstream.stream_info(configuration.name or "")).config
    wanted = {field: value for field, value in vars(configuration).items() if value is not None}
    changed = {field: value for field, value in wanted.items() if getattr(found, field) != value}
    if changed:
        await jetstream.update_stream(found.evolve(**changed))
    return sorted(changed)
