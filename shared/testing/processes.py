"""Child processes that log to a file and cannot outlive the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def _end_with_parent(sign: int) -> Callable[[], None] | None:
    """Return what a child runs before exec, so that the kernel sends it `sign` when its parent is gone."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    # Looked up before the fork: between fork and exec as little as possible should happen.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, sign)
        # The parent may have died before the line above.
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


class Process:
    """A child process that can be started again; its output is appended to one log file.

    Start it from a thread that lives as long as the stack: the kernel ends the child with the *thread* that made it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stop_signal: int = signal.SIGTERM,
        orphan_signal: int = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.cwd = cwd
        self.env = dict(env or {})
        self._stop_signal = stop_signal
        self._orphan_signal = orphan_signal
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._started_at = 0.0
        self.wanted = False

    @property
    def pid(self) -> int | None:
        """The process id, None unless it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def died(self) -> bool:
        """True when it should run and does not."""
        return self.wanted and self.pid is None

    @property
    def uptime(self) -> float:
        """Seconds since it was started last."""
        return time.monotonic() - self._started_at

    @property
    def exit_text(self) -> str:
        """How it ended, for people."""
        if self._child is None:
            return "was never started"
        code = self._child.poll()
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(abs(code)).name}" if code < 0 else f"ended with exit code {code}"

    def start(self) -> None:
        """Start it. Raises OSError when the program or its folder is not there."""
        self.wanted = True
        self._started_at = time.monotonic()
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which then stops in order.
            self._child = subprocess.Popen(  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
                self.command,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(self._orphan_signal),
            )

    def send(self, sign: int) -> None:
        """Send a signal, if it runs."""
        if self._child is not None:
            self._child.send_signal(sign)

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """Send a signal that ends it, on purpose: it is not missed afterwards."""
        self.wanted = False
        self.send(sign)

    def request_stop(self) -> None:
        """Ask it to end."""
        self.kill(self._stop_signal)

    def wait(self, timeout: float) -> None:
        """Wait for its end; after the timeout it and its children are killed."""
        if self._child is None:
            return
        try:
            self._child.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines that it wrote since its last start."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            written = file.read().decode(errors="replace").strip()
        return "\n".join(f"    {line}" for line in written.splitlines()[-lines:]) or "    (it wrote nothing)"


def stop_all(processes: Sequence[Process], timeout: float = 15) -> None:
    """Ask all to end at once, and kill what is left after the timeout."""
    for process in processes:
        process.request_stop()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.wait(deadline - time.monotonic())
