"""Runs a module whose wall clock is wrong.

    python -m tests.faults.shifted_clock SECONDS MODULE ARGUMENTS...

`time.time` and `datetime.now` are ahead by SECONDS (behind, if negative); what counts durations,
`time.monotonic`, is as it was.
"""

import datetime
import runpy
import sys
import time
from typing import Any, Self


def shift(seconds: float) -> None:
    right = time.time

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: right() + seconds
    time.time_ns = lambda: int(time.time() * 1e9)
    datetime.datetime = Shifted  # pyright: ignore  before anybody imports it by name


if __name__ == "__main__":
    shift(float(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
