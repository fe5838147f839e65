"""Importing this ends the process on SIGTERM from now on; entry points import it before anything else.

PID 1 of a container ignores a signal without a handler. A replica that was told to stop while it started would go on,
and be killed with requests in flight when its time to stop is over.
"""

import signal
import sys


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, _end)
