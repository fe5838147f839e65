"""Limit the size of Loki's volume: `python -m shared.observability.log_retention`. Loki deletes logs by age only.

When its files exceed LOKI_RETENTION_BYTES, the logs of the oldest ones are deleted through Loki's API; the compactor
removes them some minutes later.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlencode

from shared import logging_config

log = logging.getLogger(__name__)

# As in docker-compose.yml and monitoring/loki-config.yml.
ADDRESS = "loki:3100"
CHUNKS = Path("/loki/chunks")

_INTERVAL_SECONDS = 60
_REQUEST_SECONDS = 10
# Deleted logs stay on disk until the compactor has run, so that each pass finds the same files.
_STEP_SECONDS = 3600
# Loki accepts times in seconds with ten digits only.
_START = 10**9
_ALL = '{project=~".+"}'


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A file of Loki's: size, and time of its last log line or later."""

    modified: float
    size: int


def chunk_files(folder: Path) -> Iterator[ChunkFile]:
    """Yield the files in a folder; Loki may delete some meanwhile."""
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(path, name))
            except FileNotFoundError:
                continue
            yield ChunkFile(status.st_mtime, status.st_size)


def deletion_time(files: Iterable[ChunkFile], limit_bytes: int) -> int | None:
    """Return the time whose logs and all older ones exceed the limit, or None if everything fits."""
    used = 0
    for file in sorted(files, key=lambda stored: stored.modified, reverse=True):
        used += file.size
        if used > limit_bytes:
            return int(file.modified)
    return None


def delete_logs(address: str, until: int) -> None:
    """Request the deletion of all logs until a time. Raises OSError or HTTPException."""
    connection = HTTPConnection(address, timeout=_REQUEST_SECONDS)
    try:
        connection.request("POST", "/loki/api/v1/delete?" + urlencode({"query": _ALL, "start": _START, "end": until}))
        response = connection.getresponse()
        if response.status != 204:
            raise HTTPException(f"Loki responded {response.status}: {response.read(200).decode(errors='replace')}")
    finally:
        connection.close()


def enforce(folder: Path, limit_bytes: int, address: str, deleted_until: int) -> int:
    """Delete what is too much; return the time until which logs have been deleted."""
    until = deletion_time(chunk_files(folder), limit_bytes)
    if until is None or until < deleted_until + _STEP_SECONDS:
        return deleted_until
    try:
        delete_logs(address, until)
    except (OSError, HTTPException) as error:
        log.error("logs could not be deleted", extra={"error": str(error)})
        return deleted_until
    log.warning("deleting the oldest logs: size limit reached", extra={"until": until, "limit_bytes": limit_bytes})
    return until


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Enforce the limit every minute until SIGTERM."""
    logging_config.configure("loki-retention", environ.get("APP_VERSION", "dev"), "stable", "INFO")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    limit_bytes, deleted_until = int(environ["LOKI_RETENTION_BYTES"]), 0
    while True:
        deleted_until = enforce(CHUNKS, limit_bytes, ADDRESS, deleted_until)
        time.sleep(_INTERVAL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
