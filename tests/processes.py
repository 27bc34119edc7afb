"""Processes that a test started: `prefstream up`, and its end."""

import subprocess
import time
from pathlib import Path

import psutil

READY_S = 240


def wait_until_up(process: subprocess.Popen[bytes], said: Path, worker_log: Path) -> None:
    """Until `prefstream up` said on its error stream, which goes to `said`, that it is."""
    end = time.monotonic() + READY_S
    while "prefstream is up" not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < end, worker_log.read_text()
        time.sleep(0.1)


def alive_after_a_while(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still live after a while."""
    return psutil.wait_procs(processes, 60)[1]
