"""Child processes that log to a file and are killed with their parent."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def _signal_with_parent(sign: int) -> Callable[[], None] | None:
    """Return a pre-exec function that makes the kernel send `sign` when the parent exits."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    # Resolve before the fork: few operations are safe between fork and exec.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, sign)
        # The parent may have exited before the call above.
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


class Process:
    """A child process that can be restarted; its output is appended to one log file.

    Start it from a thread that lives as long as the stack: the kernel kills it with the *thread* that created it.
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
        """The process id; None if the process is not running."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def died(self) -> bool:
        """Whether the process should be running but has exited."""
        return self.wanted and self.pid is None

    @property
    def uptime(self) -> float:
        """Seconds since the last start."""
        return time.monotonic() - self._started_at

    @property
    def exit_text(self) -> str:
        """Exit status as text."""
        if self._child is None:
            return "was never started"
        code = self._child.poll()
        if code is None:
            return "is running"
        return f"was killed by {signal.Signals(abs(code)).name}" if code < 0 else f"exited with code {code}"

    def start(self) -> None:
        """Start the process. Raises OSError if the program or its folder does not exist."""
        self.wanted = True
        self._started_at = time.monotonic()
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            # In a new session, so that Ctrl-C only reaches the supervisor, which stops the processes in order.
            self._child = subprocess.Popen(  # pylint: disable=consider-using-with,subprocess-popen-preexec-fn
                self.command,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_signal_with_parent(self._orphan_signal),
            )

    def send(self, sign: int) -> None:
        """Send a signal if the process has been started."""
        if self._child is not None:
            self._child.send_signal(sign)

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """Send a signal that terminates the process; it does not count as died afterwards."""
        self.wanted = False
        self.send(sign)

    def request_stop(self) -> None:
        """Send the stop signal."""
        self.kill(self._stop_signal)

    def wait(self, timeout: float) -> None:
        """Wait until the process exits; after the timeout, kill it and its children."""
        if self._child is None:
            return
        try:
            self._child.wait(max(timeout, 0))
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log since the last start."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            written = file.read().decode(errors="replace").strip()
        return "\n".join(f"    {line}" for line in written.splitlines()[-lines:]) or "    (no output)"


def stop_all(processes: Sequence[Process], timeout: float = 15) -> None:
    """Stop all processes concurrently; kill those still running after the timeout."""
    for process in processes:
        process.request_stop()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.wait(deadline - time.monotonic())
