"""Create and update the NATS streams: `python -m shared.nats_setup`. Reads EVENTS_URL_FILE and EVENTS_CA_FILE.

Every deployment runs it as the NATS user `setup`; the services are not permitted to update streams.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from shared import logging_config
from shared.messaging import streams
from shared.messaging.transport import NatsConnection


async def configure_streams(url: str, ca: str = "") -> dict[str, list[str]]:
    """Create missing streams and update the others; return the changed fields by stream. Raises on outage."""
    bus = NatsConnection(url, ca)
    try:
        jetstream = await bus.jetstream()
        return {name: await streams.update(jetstream, name) for name in streams.CONFIGURATIONS}
    finally:
        await bus.close()


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Configure the streams and print what changed."""
    logging_config.configure("nats-setup", environ.get("APP_VERSION", "dev"), "stable", "INFO")
    url = Path(environ["EVENTS_URL_FILE"]).read_text(encoding="utf-8").strip()
    ca = Path(environ["EVENTS_CA_FILE"]).read_text(encoding="utf-8") if url.startswith("tls://") else ""
    for name, changed in asyncio.run(configure_streams(url, ca)).items():
        print(f"stream {name}: {', '.join(changed) + ' changed' if changed else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
