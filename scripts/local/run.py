"""`make run` and `make rebuild`: run the local stack in the foreground; rebuild the history of a running one.

    python -m scripts.local.run             runs until SIGINT, SIGTERM or SIGHUP
    python -m scripts.local.run --rebuild   rebuilds transaction-service's data from the events

Environment: PORT (8080), ACCOUNT_PORT (8101), TRANSACTION_PORT (8201), REPLICAS (1), VAR_DIR (var).
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import FrameType

from shared.testing import lab_keys
from shared.testing.local_stack import SERVICES, TRANSACTION, LocalStack, Setting, StackError
from shared.testing.progress import style

_MAX_REPLICAS = 50


class _StopRequested(BaseException):
    """Raised by the signal handler."""


def _request_stop(_sign: int, _frame: FrameType | None) -> None:
    # Ignore further signals: the shutdown takes at most 30 seconds, because remaining children are killed.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_IGN)
    raise _StopRequested


def _number(name: str, default: int, maximum: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= maximum:
        raise StackError(f"{name}={text} is invalid; use a number from 1 to {maximum}")
    return int(text)


def _step(line: str) -> None:
    print(f"{style('✓', '32', sys.stdout)} {line}", flush=True)


def _configured() -> LocalStack:
    replicas = _number("REPLICAS", 1, _MAX_REPLICAS)
    last_port = 65535 - replicas + 1
    return LocalStack(
        lab_keys.var_dir(),
        http_port=_number("PORT", 8080, 65535),
        account=Setting(_number("ACCOUNT_PORT", 8101, last_port), replicas),
        transaction=Setting(_number("TRANSACTION_PORT", 8201, last_port), replicas),
        report=_step,
    )


def _welcome(stack: LocalStack) -> str:
    api = f"{stack.api_url}/api/v1"
    token = lab_keys.sign(stack.secrets.key, "alice")
    post = '-H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -H "Idempotency-Key: '
    urls = [("operations page", f"{stack.api_url}/"), ("API", api)]
    urls += [(f"{service} docs", f"{stack.api_url}/docs/{service}/") for service in SERVICES]
    urls += [(f"{service} metrics", f"{url}/metrics") for service in SERVICES for url in stack.urls(service)]
    width = max(len(name) for name, _ in urls)
    lines = [f"  {name:<{width}}  {style(url, '36', sys.stdout)}" for name, url in urls]
    return "\n".join(
        [
            "",
            *lines,
            "",
            f"Logs and data are in {stack.var_dir}. A token for alice, and a first deposit (paste all four lines):",
            "",
            f"TOKEN={token}",
            f'ACCOUNT=$(curl -sS {api}/accounts {post}open-$(date +%s)" '
            '-d \'{"currency": "USD", "name": "Everyday"}\' | sed -E \'s/.*"id": *"([^"]+)".*/\\1/\'); echo "$ACCOUNT"',
            f'curl -sS {api}/accounts/$ACCOUNT/deposits {post}deposit-$(date +%s)" '
            '-d \'{"amount": 1050, "currency": "USD"}\'; echo',
            f'curl -sS "{api}/transactions?account_id=$ACCOUNT" -H "Authorization: Bearer $TOKEN"; echo',
            "",
            "For a tour of the API, run `make demo` in another terminal. Ctrl-C stops everything.",
        ]
    )


def run() -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP."""
    stack = _configured()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, _request_stop)
    try:
        with stack:
            print(_welcome(stack), flush=True)
            while True:
                for line in stack.supervise_once():
                    print(f"{style('!', '33', sys.stdout)} {line}", flush=True)
                time.sleep(0.5)
    except _StopRequested:
        # The terminal, or the reader of a pipe, may have been closed.
        with contextlib.suppress(OSError):
            print("\nStopped; data is kept.", file=sys.stderr)
    return 0


def rebuild() -> int:
    """Run transaction-service's rebuild with the environment of its first running replica."""
    state_file = _configured().state_file
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        os.kill(state["supervisor_pid"], 0)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise StackError("the local stack is not running; start it with `make run`") from error
    replica = state["services"][TRANSACTION][0]
    environment = {**os.environ, **replica["environment"]}
    return subprocess.run(
        [sys.executable, "-m", "app.rebuild"], cwd=replica["cwd"], env=environment, check=False
    ).returncode


def main() -> int:
    """Run the stack or, with --rebuild, rebuild its history."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rebuild", action="store_true", help="rebuild transaction-service's data from the events")
    arguments = parser.parse_args()
    try:
        return rebuild() if arguments.rebuild else run()
    except StackError as error:
        print(f"{style('✗', '31', sys.stderr)} {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
