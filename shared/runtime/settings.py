"""Settings that every service reads from its environment.

A value may also be read from a file: NAME_FILE=/path replaces NAME (for secrets mounted as files).
"""

import errno
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.runtime.renamed_settings import renamed

_WELL_KNOWN = re.compile(
    r"(?:change(?:me|it)|your|my|the|a|replace|me|passw(?:or)?d|pass|secret|token|key|default|example|placeholder|"
    r"test|demo|lab|admin|root|user|guest|bank(?:ing)?|service|account|transaction|postgres|nats|grafana|letmein)*"
)
_MIN_DISTINCT_CHARACTERS = 6
_MIN_SECRET_CHARACTERS = 16
# At 1,000 transfers per second the events of about 40 minutes.
DEFAULT_STREAM_BYTES = 4 * 2**30
MIN_STREAM_BYTES = 2**20
# The stream drops older events. Consumers that are away for longer read the producer's feed.
STREAM_DAYS = 3
_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


def is_well_known(secret: str) -> bool:
    """Return whether a secret is easy to guess: placeholder words only, or too few distinct characters."""
    letters = re.sub(r"[^a-z]", "", secret.lower())
    return _WELL_KNOWN.fullmatch(letters) is not None or len(set(secret)) < _MIN_DISTINCT_CHARACTERS


def _reject_well_known(secret: SecretStr) -> SecretStr:
    if is_well_known(secret.get_secret_value()):
        raise ValueError("is a well-known default; generate a random secret")
    return secret


def _reject_weak(secret: SecretStr) -> SecretStr:
    if 0 < len(secret) < _MIN_SECRET_CHARACTERS:
        raise ValueError(f"must be empty or have at least {_MIN_SECRET_CHARACTERS} characters")
    return _reject_well_known(secret) if secret else secret


def _require_password(url: str) -> str:
    """Reject a URL of another host without a password or with a well-known one."""
    for address in url.split(","):
        parts = urlsplit(address.strip())
        # Several hosts of a database are parameters: ?host=a:5432&host=b:5432.
        hosts = [f"//{host}" for host in parse_qs(parts.query).get("host", [])] if parts.hostname is None else [address]
        for host in (urlsplit(each).hostname for each in hosts):
            # None is the folder of a Unix socket.
            if host in (None, *_LOOPBACK_HOSTS):
                continue
            if parts.password is None or is_well_known(unquote(parts.password)):
                raise ValueError(f"has no password or a well-known one for {host}; set a random password")
    return url


# Secrets shared between processes: not too short, and no well-known default.
SharedSecret = Annotated[SecretStr, Field(min_length=_MIN_SECRET_CHARACTERS), AfterValidator(_reject_well_known)]
# The same, or empty for a feature that is off.
OptionalSecret = Annotated[SecretStr, AfterValidator(_reject_weak)]


class RenamedSettings(Exception):
    """Variables have old names; the arguments are messages with the new ones."""


class ProcessSettings(BaseSettings):
    """Settings of all services, read from the environment; an invalid value stops the process with an error message."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    service: str
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    auth_jwks: str = Field(description="JWKS with the public keys of the token issuer: a file path or an http(s) URL.")
    auth_issuer: str = Field("banking-lab", description="Required `iss` claim of tokens.")
    auth_audience: str = Field("banking", description="Required `aud` claim of tokens.")
    app_version: str = Field("dev", description="Version in responses, metrics and logs.")
    app_track: Literal["stable", "canary"] = Field(
        "stable", description="Track in responses, metrics and logs: `stable` or `canary`."
    )
    instance: str = Field("", description="Name of this replica in logs.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Minimum log level.")
    otel_exporter_otlp_endpoint: str = Field(
        "", description="OTLP endpoint for traces, e.g. http://tempo:4318; empty: no tracing."
    )
    access_log: bool = Field(True, description="Whether requests are logged.")

    @field_validator("auth_jwks")
    @classmethod
    def _readable_keys(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) and not Path(value).is_file():
            raise ValueError("is neither an http(s) URL nor an existing file")
        return value

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings, NAME_FILE variables included.

        Raises pydantic.ValidationError for a missing or invalid value, OSError for an unreadable file and
        RenamedSettings for a variable with an old name.
        """
        if messages := renamed(environ, cls.model_fields):
            raise RenamedSettings(messages)
        from_files: dict[str, Any] = {
            name: _content(Path(environ[f"{name.upper()}_FILE"]))
            for name in cls.model_fields
            if f"{name.upper()}_FILE" in environ
        }
        return cls(**from_files)


class ServiceSettings(ProcessSettings):
    """Settings of services with a database and events, read from the environment."""

    database_url: str = Field(
        repr=False,
        description="Database URL: postgresql+asyncpg://… or sqlite+aiosqlite:///…. Several hosts, of which the one"
        " that accepts writes is used: postgresql+asyncpg://user:password@/database?host=a:5432&host=b:5432.",
    )
    database_role: str = Field(
        "",
        pattern="^[a-z_]*$",
        description="PostgreSQL role of the running service, for migrations; empty: the migrating role.",
    )
    database_pool_size: int = Field(
        8, ge=4, le=100, description="Maximum number of database connections per process; they stay open."
    )
    service_token: SharedSecret = Field(description="Shared secret for requests between services (/internal).")
    events_url: str = Field(
        "",
        repr=False,
        description="Source and destination of events: nats://… (servers of a cluster separated by commas), or"
        " feed+http://… of the producer.",
    )
    events_ca: str = Field("", description="CA certificates (PEM) for a tls://… broker; empty: the system's.")
    events_stream_bytes: int = Field(
        DEFAULT_STREAM_BYTES,
        ge=MIN_STREAM_BYTES,
        description="Maximum size of the broker's stream of events, in bytes; the oldest events are dropped.",
    )
    events_stream_replicas: int = Field(
        1, ge=1, le=5, description="Number of NATS servers that store each event: 3 in a cluster, else 1."
    )
    outbox_retention_days: int = Field(
        7,
        ge=0,
        description="Retention of published events in the outbox, in days: 0 (unlimited) or at least the "
        f"{STREAM_DAYS} days of the broker's stream. A consumer that is away for longer reads the ledger instead.",
    )

    @field_validator("database_url")
    @classmethod
    def _known_driver(cls, value: str) -> str:
        if not value.startswith(("postgresql+asyncpg://", "sqlite+aiosqlite:///")):
            raise ValueError("must start with postgresql+asyncpg:// or sqlite+aiosqlite:///")
        return value if value.startswith("sqlite") else _require_password(value)

    @field_validator("outbox_retention_days")
    @classmethod
    def _retention_of_the_stream(cls, value: int) -> int:
        if 0 < value < STREAM_DAYS:
            raise ValueError(
                f"must be 0 (unlimited) or at least {STREAM_DAYS}: the broker's stream keeps events for {STREAM_DAYS} "
                "days, and what it loses meanwhile is read from the outbox"
            )
        return value

    @field_validator("events_url")
    @classmethod
    def _known_transport(cls, value: str) -> str:
        if value and not value.startswith(("nats://", "tls://", "feed+http://", "feed+https://")):
            raise ValueError("must start with nats://, tls://, feed+http:// or feed+https://")
        # Feed requests authenticate with the service token instead.
        return _require_password(value) if value.startswith(("nats://", "tls://")) else value


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "not UTF-8 text", str(file)) from error


Settings = TypeVar("Settings", bound=ProcessSettings)


def load_or_exit(settings_class: type[Settings]) -> Settings:
    """Read the settings; print one line per invalid value or old name and exit with code 2 on errors."""
    try:
        return settings_class.from_environment()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            print(f"setting {name}: {problem['msg']} (set it in the environment, or {name}_FILE)", file=sys.stderr)
    except RenamedSettings as error:
        print(*(f"setting {message}" for message in error.args[0]), sep="\n", file=sys.stderr)
    except OSError as error:
        print(f"settings: cannot read {error.filename}: {error.strerror}", file=sys.stderr)
    raise SystemExit(2)
