"""Processes that a test started: `prefstream up`, and its end."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from tests.proxy import PROXY_VARIABLES
from tests.servers import free_port

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


def users_environment() -> dict[str, str]:
    """A user's, who says nothing of memory: the workers' tests set it for theirs."""
    return {k: v for k, v in os.environ.items() if k != "VLLM_CPU_KVCACHE_SPACE"}


class Up:
    """`prefstream up` on a tiny checkpoint."""

    def __init__(self, model: Path, data: Path, **environment: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = data
        data.mkdir()
        self.said = data / "said"
        said = self.said.open("wb")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "service", "up", "--model", str(model)),
                *("--port", str(self.port), "--data", str(data)),
            ],
            env=users_environment()
            | {
                "HF_HUB_OFFLINE": "1",
                "PREFSTREAM_WORKER_ENFORCE_EAGER": "1",
                "PREFSTREAM_WORKER_MAX_LORA_RANK": "8",
                **dict.fromkeys(PROXY_VARIABLES, f"http://127.0.0.1:{free_port()}"),  # of nobody
                **environment,
            },
            stderr=said,
        )
        said.close()

    def wait_until_ready(self) -> None:
        wait_until_up(self.process, self.said, self.data / "worker.log")
        assert httpx.get(f"{self.url}/health/ready").status_code == 200

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, name: str) -> psutil.Process:
        """A part's process, once it is there; `name`: of its program, or of its command."""
        end = time.monotonic() + READY_S
        while True:
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if name in (child.name(), *child.cmdline()[:4]):
                        return child
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.02)

    def wait_until_said(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + READY_S
        while self.said.read_text().count(text) < times:
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.02)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
