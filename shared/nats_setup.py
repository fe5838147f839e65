"""Create and update the NATS streams: `python -m shared.nats_setup`.

Reads EVENTS_URL_FILE, EVENTS_CA_FILE, EVENTS_STREAM_BYTES and EVENTS_STREAM_REPLICAS.

Every deployment runs it as the NATS user `setup`; the services are not permitted to update streams.
"""

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from shared import logging_config
from shared.messaging import streams
from shared.messaging.transport import NatsConnection
from shared.runtime.settings import DEFAULT_STREAM_BYTES, MIN_STREAM_BYTES


async def configure_streams(url: str, ca: str, stream_bytes: int, replicas: int = 1) -> dict[str, list[str]]:
    """Create missing streams and update the others; return the changed fields by stream. Raises on outage."""
    bus = NatsConnection(url, ca, stream_bytes, replicas)
    try:
        jetstream = await bus.jetstream()
        return {
            str(wanted.name): await streams.update(jetstream, wanted)
            for wanted in streams.configurations(stream_bytes, replicas)
        }
    finally:
        await bus.close()


def read_stream_bytes(environ: Mapping[str, str]) -> int:
    """Return the maximum size of the stream of events. Raises ValueError for an invalid EVENTS_STREAM_BYTES."""
    text = environ.get("EVENTS_STREAM_BYTES", str(DEFAULT_STREAM_BYTES))
    # NATS has 64 bits for it.
    if not re.fullmatch("[0-9]{1,18}", text) or int(text) < MIN_STREAM_BYTES:
        raise ValueError(f"EVENTS_STREAM_BYTES={text:.40}: must be a number of bytes of at least {MIN_STREAM_BYTES}")
    return int(text)


def read_replicas(environ: Mapping[str, str]) -> int:
    """Return the number of servers that store each event. Raises ValueError for an invalid EVENTS_STREAM_REPLICAS."""
    text = environ.get("EVENTS_STREAM_REPLICAS", "1")
    if not re.fullmatch("[1-5]", text):
        raise ValueError(f"EVENTS_STREAM_REPLICAS={text:.40}: must be 1 to 5, and at most the number of servers")
    return int(text)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Configure the streams and print what changed."""
    try:
        stream_bytes, replicas = read_stream_bytes(environ), read_replicas(environ)
    except ValueError as error:
        print(f"nats-setup: {error}", file=sys.stderr)
        return 1
    logging_config.configure("nats-setup", environ.get("APP_VERSION", "dev"), "stable", "INFO")
    url = Path(environ["EVENTS_URL_FILE"]).read_text(encoding="utf-8").strip()
    ca = Path(environ["EVENTS_CA_FILE"]).read_text(encoding="utf-8") if url.startswith("tls://") else ""
    for name, changed in asyncio.run(configure_streams(url, ca, stream_bytes, replicas)).items():
        print(f"stream {name}: {', '.join(changed) + ' changed' if changed else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
