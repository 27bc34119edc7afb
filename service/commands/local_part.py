"""One process of `prefstream up`: started, started again when it falls, given up, ended.

It lives in a session of its own, so that Ctrl-C reaches `prefstream up` alone. Should that be
killed, the kernel tells it.
"""

import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from service.commands.console import REFUSED

STOP_TIMEOUT_S = 45.0
"""Seconds that a part may take to end in order: longer than a worker drains."""

FIRST_PAUSE_S = 1.0
"""Before a part is started again. After each further fall in a row, twice as long."""

MAX_FALLS = 5
"""Falls in a row after which a part is given up."""

WELL_S = 300.0
"""After so many seconds without a fall, the next one is the first in a row."""

LOG_TAIL = 64 * 1024
"""Bytes at the end of a log in which its last words are looked for."""

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class LocalStackError(RuntimeError):
    """A part did not start, or was given up."""


class LocalPart:
    """A process that shall live until it is told to stop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        say: Callable[[str], None],
        *,
        may_finish: bool = False,
    ) -> None:
        """Starts it. `say` is told, in a line, of each fall; `may_finish`: status 0 is no fall, but
        the end of its work."""
        self.name = name
        self._command = command
        self._environment = environment
        self._log = log
        self._say = say
        self._may_finish = may_finish
        self._falls = 0
        self._start()

    def _start(self) -> None:
        with self._log.open("ab") as output:
            self._log_start = output.tell()
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._started_at = time.monotonic()
        self._start_again_at = math.inf

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def keep_alive(self) -> None:
        """Looks whether it fell, and starts it again when it is time. Raises: LocalStackError, if
        it is given up."""
        if self._process is None:
            if time.monotonic() >= self._start_again_at:
                self._start()
            return
        status = self._process.poll()
        if status is None:
            return
        self.kill()  # what it left behind
        self._process = None
        if status == 0 and self._may_finish:
            return
        first = self._falls == 0
        self._falls = 1 if time.monotonic() - self._started_at > WELL_S else self._falls + 1
        if first and status == REFUSED:  # it would say the same again
            raise LocalStackError(
                f"The {self.name} ended with a message, and would again. {self._last_words()}"
            )
        if self._falls >= MAX_FALLS:
            raise LocalStackError(
                f"The {self.name} fell {self._falls} times in a row, the last time "
                f"{_how(status)}, and is given up. {self._last_words()}"
            )
        pause_s = FIRST_PAUSE_S * 2 ** (self._falls - 1)
        self._start_again_at = time.monotonic() + pause_s
        self._say(
            f"The {self.name} fell {_how(status)} ({self._falls} of {MAX_FALLS} falls in a row); "
            f"it is started again in {pause_s:.0f} s. Its log: {self._log}"
        )

    def stop(self) -> None:
        """Ends it in order, or kills it after a while; and what it left behind."""
        self._start_again_at = math.inf
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()
        if self._process is not None:
            self._process.wait()

    def kill(self) -> None:
        """At once, with all processes that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # nobody left in it
                os.killpg(self._process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        """The errors that its log names since it was started last, each once, or how it ends."""
        with self._log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
        errors = dict.fromkeys(line for line in lines if re.search(r"\w(Error|Exception): ", line))
        return "\n".join([f"From {self._log}:", *(list(errors)[-5:] or lines[-10:])])


def _how(status: int) -> str:
    """In words, how a process ended; `status`: as of `subprocess`."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:  # real-time signals have no names
        return f"by signal {-status}"


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent is gone; elsewhere nothing."""
    if _libc is not None:
        pr_set_pdeathsig = 1
        _libc.prctl(pr_set_pdeathsig, signal.SIGTERM)
