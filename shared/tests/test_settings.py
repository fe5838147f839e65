"""Settings from the environment or from files, and one error line per invalid value."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.runtime.settings import ServiceSettings, load_or_exit

SECRET = "kept-by-nobody-else-17"


class MySettings(ServiceSettings):
    """Settings of a service."""

    service: str = "some-service"


@pytest.fixture
def valid_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A valid environment."""
    keys = tmp_path / "jwks.json"
    keys.write_text("{}")
    values = {
        "DATABASE_URL": "sqlite+aiosqlite:///x.db",
        "AUTH_JWKS": str(keys),
        "SERVICE_TOKEN": SECRET,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.mark.usefixtures("valid_environment")
def test_settings_are_read_from_the_environment_and_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8123")
    settings = load_or_exit(MySettings)
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://bank:9c1dUxr4@db/bank")
    monkeypatch.setenv("EVENTS_URL", "nats://bank:9c1dUxr4@nats:4222")
    assert "9c1dUxr4" not in repr(load_or_exit(MySettings))
    assert (settings.port, settings.service, settings.app_track) == (8123, "some-service", "stable")
    assert SECRET not in repr(settings) and settings.service_token.get_secret_value() == SECRET


def test_file_variable_replaces_the_variable(
    valid_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("  of-a-file-0123456789\n")
    monkeypatch.setenv("SERVICE_TOKEN_FILE", str(secret))
    assert load_or_exit(MySettings).service_token.get_secret_value() == "of-a-file-0123456789"
    monkeypatch.delenv("SERVICE_TOKEN")
    assert load_or_exit(MySettings).service_token.get_secret_value() == "of-a-file-0123456789"
    assert valid_environment["SERVICE_TOKEN"] != "of-a-file-0123456789"


@pytest.mark.usefixtures("valid_environment")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("DATABASE_URL", "postgresql://x"),
        ("DATABASE_URL", None),
        ("AUTH_JWKS", "/nowhere"),
        ("AUTH_JWKS", "ftp://x"),
        ("SERVICE_TOKEN", "tooshortsecret"),
        ("SERVICE_TOKEN", "changeme-changeme"),
        ("SERVICE_TOKEN", "Change_Me_1234567"),
        ("SERVICE_TOKEN", "your-secret-token"),
        ("SERVICE_TOKEN", "service-token-123456"),
        ("SERVICE_TOKEN", "0123012301230123"),
        ("DATABASE_URL", "postgresql+asyncpg://postgres:postgres@db/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank:Password1@db:5432/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank:%63hangeme@db:5432/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank:@db/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank@db/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank@/bank?host=127.0.0.1:5432&host=db2:5432"),
        ("EVENTS_URL", "nats://nats:4222"),
        ("EVENTS_URL", "nats://account:account@nats:4222"),
        ("EVENTS_URL", "tls://account:9c1dUxr4@one:4222,tls://account:secret@two:4222"),
        ("EVENTS_URL", "http://x"),
        ("OUTBOX_RETENTION_DAYS", "-1"),
        ("OUTBOX_RETENTION_DAYS", "1"),
        ("OUTBOX_RETENTION_DAYS", "2"),
        ("PORT", "0"),
        ("PORT", "eighty"),
        ("DATABASE_POOL_SIZE", "3"),
        ("APP_TRACK", "blue"),
        ("LOG_LEVEL", "debug"),
        ("ACCESS_LOG", "perhaps"),
    ],
)
def test_invalid_value_exits_with_one_line(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        load_or_exit(MySettings)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"setting {name}: ") and f"{name}_FILE" in line
    assert name != "SERVICE_TOKEN" or str(value) not in line
    password = urlsplit(str(value)).password
    assert not password or password not in line


@pytest.mark.usefixtures("valid_environment")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql+asyncpg://bank@127.0.0.1:5432/bank"),
        ("DATABASE_URL", "postgresql+asyncpg:///bank?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql+asyncpg://bank:9c1dUxr4@db/bank"),
        ("DATABASE_URL", "postgresql+asyncpg://bank@/bank?host=127.0.0.1:5432&host=[::1]:5433"),
        ("DATABASE_URL", "postgresql+asyncpg://bank:9c1dUxr4@/bank?host=db1:5432&host=db2:5432"),
        ("EVENTS_URL", "nats://localhost:4222"),
        ("EVENTS_URL", "nats://account:9c1dUxr4@nats:4222"),
        ("EVENTS_URL", "feed+http://account-service:8000"),
    ],
)
def test_only_loopback_urls_may_omit_the_password(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_or_exit(MySettings), name.lower()) == value


@pytest.mark.usefixtures("valid_environment")
def test_each_invalid_value_has_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("APP_TRACK", "x")
    with pytest.raises(SystemExit):
        load_or_exit(MySettings)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "setting PORT",
        "setting APP_TRACK",
    ]


@pytest.mark.usefixtures("valid_environment")
@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SERVICE_TOKEN_FILE", str(file))
    with pytest.raises(SystemExit) as caught:
        load_or_exit(MySettings)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
