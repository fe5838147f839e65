"""The local stack of `make run`, tests and benchmarks: both services behind NGINX as processes, SQLite by default."""

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from shared.testing.paths import ROOT
from shared.testing import lab_keys
from shared.testing.processes import Process, stop_all
from shared.testing.nginx_config import render

ADDRESS = "127.0.0.1"
ACCOUNT = "account-service"
TRANSACTION = "transaction-service"
SERVICES = (ACCOUNT, TRANSACTION)

_READY_SECONDS = 60
_MIGRATION_SECONDS = 120
_MAX_BACKOFF_SECONDS = 30


class StackError(Exception):
    """The stack cannot run; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Replicas, ports and database of one service."""

    first_port: int
    replicas: int = 1
    database_url: str = ""
    """Empty: SQLite in the directory of the stack."""

    @property
    def ports(self) -> list[int]:
        """One port per replica."""
        return list(range(self.first_port, self.first_port + self.replicas))


class LocalStack:
    """The services and NGINX as child processes, with their data, logs and secrets in one directory."""

    def __init__(
        self,
        var_dir: Path,
        *,
        http_port: int = 8080,
        account: Setting = Setting(8101),
        transaction: Setting = Setting(8201),
        events_url: str = "",
        extra_env: Mapping[str, str] | None = None,
        with_nginx: bool = True,
        nginx_variables: Mapping[str, Any] | None = None,
        services_root: Path = ROOT,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.var_dir = var_dir.absolute()
        self.http_port = http_port
        self.settings = {ACCOUNT: account, TRANSACTION: transaction}
        self.with_nginx = with_nginx
        self.processes: dict[str, list[Process]] = {service: [] for service in SERVICES}
        self.nginx: Process | None = None
        self._events_url = events_url
        self._extra_env = dict(extra_env or {})
        self._nginx_variables = dict(nginx_variables or {})
        self._services_root = services_root
        self._report = report
        self._version = _version()
        self._lock: IO[str] | None = None
        self._restart_at: dict[str, float] = {}
        self._backoffs: dict[str, int] = {}

    # Paths and URLs ------------------------------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        """Base URL of the API, served by NGINX."""
        return f"http://{ADDRESS}:{self.http_port}"

    def urls(self, service: str) -> list[str]:
        """Return the base URL of every replica."""
        return [f"http://{ADDRESS}:{port}" for port in self.settings[service].ports]

    @property
    def secrets(self) -> lab_keys.LabSecrets:
        """Key and JWKS of the lab issuer and the service token, created on first use."""
        return lab_keys.ensure(self.var_dir / "secrets")

    @property
    def state_file(self) -> Path:
        """JSON file with URLs, process ids and environments; exists while the stack is running."""
        return self.var_dir / "run" / "stack.json"

    def environment(self, service: str, index: int = 0) -> dict[str, str]:
        """Return the environment variables of a replica, in addition to those of this process."""
        other = TRANSACTION if service == ACCOUNT else ACCOUNT
        setting = self.settings[service]
        sqlite = f"sqlite+aiosqlite:///{self.var_dir}/data/{service.removesuffix('-service')}s.db"
        environment = {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": setting.database_url or sqlite,
            "HOST": ADDRESS,
            "PORT": str(setting.ports[index]),
            "AUTH_JWKS": str(self.secrets.jwks),
            "SERVICE_TOKEN_FILE": str(self.secrets.service_token),
            "EVENTS_URL": self._events_url or ",".join(f"feed+{url}" for url in self.urls(other)),
            "APP_VERSION": self._version,
            "APP_TRACK": "stable",
            "INSTANCE": f"{service}-{index}",
            "LOG_LEVEL": os.environ.get("LOG_LEVEL", "INFO"),
        }
        if service == TRANSACTION:
            own = {"ACCOUNT_SERVICE_URL": self.urls(ACCOUNT)[0], "WEBHOOK_KEY_FILE": str(self.secrets.webhook_key)}
        else:
            own = {"LEDGER_SIGNING_KEY_FILE": str(self.secrets.ledger_key)}
        return environment | own | self._extra_env

    # Start and stop -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Migrate and start everything and wait until it is ready. Raises StackError, with nothing left running."""
        try:
            self._prepare()
            self._migrate()
            self._start_services()
            if self.with_nginx:
                self._start_nginx()
            self._write_state()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise StackError(str(error)) from error
            raise

    def stop(self) -> None:
        """Stop everything gracefully, NGINX before the services."""
        stop_all([self.nginx] if self.nginx else [])
        stop_all([process for replicas in self.processes.values() for process in replicas])
        if self._lock is not None:
            self.state_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def kill(self, service: str, index: int = 0, sign: int = signal.SIGKILL) -> None:
        """Send a replica a signal and wait until it has exited; it stays down until `restart`."""
        process = self.processes[service][index]
        process.kill(sign)
        process.wait(_READY_SECONDS)

    def restart(self, service: str, index: int = 0) -> None:
        """Start a replica again (stopping it first if it runs) and wait until it is ready. Raises StackError."""
        process = self.processes[service][index]
        stop_all([process])
        process.start()
        self._wait_ready(process, self.settings[service].ports[index], "/health/ready")
        self._write_state()

    def supervise_once(self) -> list[str]:
        """Restart processes that have exited; return messages about it.

        The back-off doubles with each restart: 1, 2, 4 … up to 30 seconds.
        """
        messages = []
        now = time.monotonic()
        for process in self._all():
            due = self._restart_at.get(process.name)
            if not process.died:
                if process.uptime > _MAX_BACKOFF_SECONDS:
                    self._backoffs.pop(process.name, None)
            elif due is None:
                backoff = self._backoffs.get(process.name, 1)
                self._backoffs[process.name] = min(backoff * 2, _MAX_BACKOFF_SECONDS)
                self._restart_at[process.name] = now + backoff
                messages.append(
                    f"{process.name} {process.exit_text}; restarting it in {backoff} s. Last lines of its log:\n"
                    f"{process.log_tail()}"
                )
            elif due <= now:
                del self._restart_at[process.name]
                process.start()
                self._write_state()
                messages.append(f"{process.name} restarted")
        return messages

    # Steps of start ----------------------------------------------------------------------------------------------

    def _all(self) -> list[Process]:
        services = [process for replicas in self.processes.values() for process in replicas]
        return services + ([self.nginx] if self.nginx else [])

    def _prepare(self) -> None:
        folders = [self.var_dir / name for name in ("run", "data", "log", "nginx/temp")]
        try:
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # An existing directory may not be writable.
            (self.var_dir / "data" / ".writable").touch()
            (self.var_dir / "data" / ".writable").unlink()
            self._lock = (self.var_dir / "run" / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StackError(
                f"cannot write to {self.var_dir} ({error.strerror}); set VAR_DIR to another directory"
            ) from error
        self._acquire_lock(self._lock)
        self._check_ports()
        _ = self.secrets
        self._report("ports, directory and keys checked")

    def _acquire_lock(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            # stop() must not remove the files of the other stack.
            self._lock = None
            lock.close()
            raise StackError(
                f"a stack is already running in {self.var_dir} (process {holder}); " "stop it, or set VAR_DIR and PORT"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()

    def _check_ports(self) -> None:
        ports = [(port, "ACCOUNT_PORT") for port in self.settings[ACCOUNT].ports]
        ports += [(port, "TRANSACTION_PORT") for port in self.settings[TRANSACTION].ports]
        if self.with_nginx:
            ports.insert(0, (self.http_port, "PORT"))
        for port, name in ports:
            with socket.socket() as probe:
                # Ignore connections of an earlier run in TIME_WAIT.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((ADDRESS, port))
                except OSError as error:
                    raise StackError(f"port {port}: {error.strerror}; set {name} to another port") from error

    def _migrate(self) -> None:
        with ThreadPoolExecutor(len(SERVICES)) as pool:
            list(pool.map(self._migrate_one, SERVICES))
        self._report("databases migrated")

    def _migrate_one(self, service: str) -> None:
        try:
            result = subprocess.run(
                [sys.executable, "-m", "app.migrate"],
                cwd=self._services_root / service,
                env={**os.environ, **self.environment(service)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_MIGRATION_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"migrating {service} took more than {_MIGRATION_SECONDS} s") from error
        if result.returncode != 0:
            tail = "\n".join(f"    {line}" for line in result.stdout.strip().splitlines()[-5:])
            raise StackError(f"migrating {service} failed with exit code {result.returncode}:\n{tail}")

    def _start_services(self) -> None:
        for service in SERVICES:
            self.processes[service] = [
                Process(
                    f"{service}-{index}",
                    [sys.executable, "-m", "app"],
                    self.var_dir / "log" / f"{service}-{index}.log",
                    cwd=self._services_root / service,
                    env=self.environment(service, index),
                )
                for index in range(self.settings[service].replicas)
            ]
        for process in self._all():
            process.start()
        for service in SERVICES:
            for process, port in zip(self.processes[service], self.settings[service].ports):
                self._wait_ready(process, port, "/health/ready")
            count = len(self.processes[service])
            self._report(f"{service} ready" + (f" ({count} replicas)" if count > 1 else ""))

    def _start_nginx(self) -> None:
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise StackError("NGINX is not installed; on Debian: apt-get install nginx")
        folder = self.var_dir / "nginx"
        pools = {service: [f"{ADDRESS}:{port}" for port in self.settings[service].ports] for service in SERVICES}
        variables = {
            "nginx_listen": f"{ADDRESS}:{self.http_port}",
            "nginx_pools": pools,
            "nginx_page": str(ROOT / "ops-page"),
            **self._nginx_variables,
        }
        (folder / "nginx.conf").write_text(render(**variables), encoding="utf-8")
        # Set the error log on the command line, because only root may write to the default path.
        command = [program, "-p", f"{folder}/", "-c", "nginx.conf", "-e", f"{folder}/error.log"]
        test = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        if test.returncode != 0:
            raise StackError(f"NGINX rejects its configuration: {test.stderr.strip().splitlines()[0]}")
        self.nginx = Process(
            "nginx",
            # Otherwise the workers of a master that runs as root could not read the operations page.
            [*command, "-g", "daemon off;" + (" user root;" if os.geteuid() == 0 else "")],
            self.var_dir / "log" / "nginx.log",
            stop_signal=signal.SIGQUIT,
            # The master stops its workers on SIGTERM; on SIGKILL they would keep running.
            orphan_signal=signal.SIGTERM,
        )
        self.nginx.start()
        self._wait_ready(self.nginx, self.http_port, None)
        self._report(f"NGINX listens on {self.api_url}")

    def _wait_ready(self, process: Process, port: int, path: str | None) -> None:
        """Wait until GET on the path returns 200 or, without a path, any response."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            status = _status(port, path or "/")
            if process.died:
                raise StackError(
                    f"{process.name} {process.exit_text} while starting. Last lines of its log:\n{process.log_tail()}"
                )
            if status == 200 or (path is None and status is not None):
                return
            time.sleep(0.05)
        raise StackError(
            f"{process.name} was not ready after {_READY_SECONDS} s. Last lines of its log:\n{process.log_tail()}"
        )

    def _write_state(self) -> None:
        state = {
            "api_url": self.api_url if self.with_nginx else None,
            "supervisor_pid": os.getpid(),
            "nginx_pid": self.nginx.pid if self.nginx else None,
            "services": {
                service: [
                    {
                        "name": process.name,
                        "url": url,
                        "metrics_url": f"{url}/metrics",
                        "pid": process.pid,
                        "log": str(process.log),
                        "cwd": str(process.cwd),
                        "environment": process.env,
                    }
                    for process, url in zip(self.processes[service], self.urls(service))
                ]
                for service in SERVICES
            },
        }
        # Replace the file atomically; only the owner may read it, because database URLs may contain passwords.
        temporary = self.state_file.with_suffix(".tmp")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.state_file)


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _version() -> str:
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "dev"
    return result.stdout.strip() or "dev"
