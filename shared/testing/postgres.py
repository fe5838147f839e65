"""A temporary PostgreSQL server for tests and benchmarks, with its own data directory and port."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.testing.ports import free_port

_USER = "bank"
_START_SECONDS = 60


class PostgresNotInstalled(Exception):
    """PostgreSQL is not installed."""


def find_programs() -> Path:
    """Return the folder of initdb and pg_ctl of the latest version. Raises PostgresNotInstalled."""
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True
    )
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise PostgresNotInstalled("PostgreSQL is not installed; on Debian: apt-get install postgresql")


class PostgresServer:
    """A running server, as a context manager: a new one, or a standby of another one.

    `settings` are those of postgresql.conf.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, standby_of: "PostgresServer | None" = None) -> None:
        self._primary = standby_of
        self._programs = find_programs()
        self._settings = {"listen_addresses": "127.0.0.1", "max_connections": "200", **(settings or {})}
        self._folder = Path()
        self.port = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="bank-postgres-"))
        data = self._folder / "data"
        if os.getuid() == 0:
            # PostgreSQL does not run as root.
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        if self._primary is not None:
            # -R writes the settings of a standby.
            address = ("-h", "127.0.0.1", "-p", str(self._primary.port), "-U", _USER)
            self._run("pg_basebackup", *address, "-D", str(data), "-R", "--checkpoint=fast", "--no-sync")
        else:
            options = ("-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
            self._run("initdb", "-D", str(data), *options)
        self.port = free_port()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; `fast` disconnects clients first, `immediate` simulates a crash."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", mode, "-w", "stop", check=False)

    def start(self) -> None:
        """Start the server again after `stop`, with the same data and port."""
        options = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        options += f" -p {self.port} -k {self._folder}"
        log = str(self._folder / "log")
        data = str(self._folder / "data")
        self._run("pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "-t", str(_START_SECONDS), "start")

    def promote(self) -> None:
        """Make this standby a primary."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "promote")

    @property
    def pid(self) -> int:
        """Process id of the server; sessions are its children."""
        return int((self._folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])

    def url(self, database: str, driver: str = "postgresql+asyncpg") -> str:
        """Return the URL of a database for SQLAlchemy or, with driver `postgresql`, for libpq."""
        return f"{driver}://{_USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL for SQLAlchemy."""
        self.sql("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def sql(self, database: str, *statements: str) -> str:
        """Execute statements with psql and return its output: one line per row, columns separated by |."""
        command = [str(self.program("psql")), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["-c", statement]
        command.append(self.url(database, "postgresql"))
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def program(self, name: str) -> Path:
        """Return the path of a PostgreSQL program."""
        path = self._programs / name
        return path if path.exists() else Path(shutil.which(name) or name)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        command = [str(self._programs / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--", *command]
        result = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        if check and result.returncode != 0:
            raise RuntimeError(f"{program} failed: {result.stderr.strip() or result.stdout.strip()}")
