"""Settings every service reads from its environment.

A value may also come from a file: NAME_FILE=/path holds what NAME would (for secrets mounted as files).
"""

import errno
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_WELL_KNOWN = re.compile(
    r"(?:change(?:me|it)|your|my|the|a|replace|me|passw(?:or)?d|pass|secret|token|key|default|example|placeholder|"
    r"test|demo|lab|admin|root|user|guest|bank(?:ing)?|service|account|transaction|postgres|nats|grafana|letmein)*"
)
_LEAST_DIFFERENT = 6
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")


def is_well_known(secret: str) -> bool:
    """Tell whether anybody would guess it: words that stand where a secret should, or a few characters repeated."""
    letters = re.sub(r"[^a-z]", "", secret.lower())
    return _WELL_KNOWN.fullmatch(letters) is not None or len(set(secret)) < _LEAST_DIFFERENT


def _not_well_known(secret: SecretStr) -> SecretStr:
    if is_well_known(secret.get_secret_value()):
        raise ValueError("is a well-known default; make one that nobody can guess")
    return secret


def _with_a_password(url: str) -> str:
    """Refuse the address of another machine without a password, or with one that anybody would try first."""
    for address in url.split(","):
        parts = urlsplit(address.strip())
        if parts.hostname is None or parts.hostname in _THIS_MACHINE:
            continue
        if parts.password is None or is_well_known(unquote(parts.password)):
            raise ValueError(f"has no password for {parts.hostname}, or a well-known default")
    return url


# Secrets that processes share: long, and nobody's default.
SharedSecret = Annotated[SecretStr, Field(min_length=16), AfterValidator(_not_well_known)]


class ProcessSettings(BaseSettings):
    """Settings common to all services; a missing or wrong one stops the start with a line that names it."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    service: str
    host: str = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the service listens on.")
    auth_jwks: str = Field(description="JWKS with the issuer's public keys: a file's path or an http(s) URL.")
    auth_issuer: str = Field("banking-lab", description="Required `iss` of a token.")
    auth_audience: str = Field("banking", description="Required `aud` of a token.")
    app_version: str = Field("dev", description="Version told in responses, metrics and logs.")
    app_track: Literal["stable", "canary"] = Field("stable", description="Track told in responses, metrics and logs.")
    instance: str = Field("", description="Name of this replica in logs.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    otel_exporter_otlp_endpoint: str = Field("", description="Where traces go, e.g. http://tempo:4318; empty: nowhere.")
    access_log: bool = Field(True, description="Log requests.")

    @field_validator("auth_jwks")
    @classmethod
    def _readable_keys(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) and not Path(value).is_file():
            raise ValueError("names neither a URL nor a file that is there")
        return value

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the settings, NAME_FILE variables included.

        Raises pydantic.ValidationError for a missing or wrong value and OSError for an unreadable file.
        """
        from_files: dict[str, Any] = {
            name: _content(Path(environ[f"{name.upper()}_FILE"]))
            for name in cls.model_fields
            if f"{name.upper()}_FILE" in environ
        }
        return cls(**from_files)


class ServiceSettings(ProcessSettings):
    """Settings of the services that have a database and events."""

    database_url: str = Field(repr=False, description="postgresql+asyncpg://… or sqlite+aiosqlite:///…")
    database_role: str = Field(
        "", pattern="^[a-z_]*$", description="Migrations: the role that serves, if it is not the one that migrates."
    )
    database_pool_size: int = Field(
        8, ge=4, le=100, description="Database connections of a process at most; they stay open."
    )
    service_token: SharedSecret = Field(description="Secret the services show each other on /internal.")
    events_url: str = Field(
        "", repr=False, description="Where events travel: nats://…, or feed+http://… of the producer."
    )
    events_ca: str = Field(
        "", description="Certificates (PEM) of the authority of a tls://… broker; empty: the system's."
    )

    @field_validator("database_url")
    @classmethod
    def _known_driver(cls, value: str) -> str:
        if not value.startswith(("postgresql+asyncpg://", "sqlite+aiosqlite:///")):
            raise ValueError("must start with postgresql+asyncpg:// or sqlite+aiosqlite:///")
        return value if value.startswith("sqlite") else _with_a_password(value)

    @field_validator("events_url")
    @classmethod
    def _known_transport(cls, value: str) -> str:
        if value and not value.startswith(("nats://", "tls://", "feed+http://", "feed+https://")):
            raise ValueError("must start with nats://, tls://, feed+http:// or feed+https://")
        # A feed is asked for with the services' token.
        return _with_a_password(value) if value.startswith(("nats://", "tls://")) else value


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, "not UTF-8 text", str(file)) from error


Settings = TypeVar("Settings", bound=ProcessSettings)


def load_or_exit(settings_class: type[Settings]) -> Settings:
    """Read the settings, or end the process with one line per wrong value."""
    try:
        return settings_class.from_environment()
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in problem["loc"]).upper()
            print(f"setting {name}: {problem['msg']} (set it in the environment, or {name}_FILE)", file=sys.stderr)
    except OSError as error:
        print(f"settings: cannot read {error.filename}: {error.strerror}", file=sys.stderr)
    raise SystemExit(2)
