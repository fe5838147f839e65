"""Importing this module makes SIGTERM end the process; entry points import it before anything else.

PID 1 of a container ignores a signal without a handler, so a replica that is stopped while it starts would continue,
and be killed with requests in flight at the end of the grace period.

It also disables the garbage collector until `shared.runtime.server.run`: during imports it scans permanent objects
repeatedly, which takes a tenth of the CPU time of a start.
"""

import gc
import signal
import sys


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, _end)
gc.disable()
