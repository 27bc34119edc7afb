"""The processes of a chaos run, and the ways in which they are hurt."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.servers import Server, free_port


class Stage:
    """A server, a service, workers and subscribers. Whoever dies is replaced by `mend`."""

    def __init__(self, server: Server, folder: Path, environment: dict[str, str]) -> None:
        self.server = server
        self.folder = folder
        self.port = free_port()
        self.deaths: dict[str, int] = {}
        self._environment = os.environ | environment
        self._casts: dict[str, list[str]] = {}
        self._actors: dict[str, subprocess.Popen[bytes]] = {}
        self._number = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cast(self, role: str, *command: str) -> None:
        """Adds a process. `{}` in its command stands for a number new with every start."""
        self._casts[role] = list(command)
        self.mend()

    def mend(self) -> None:
        for role, command in self._casts.items():
            actor = self._actors.get(role)
            if actor is None or actor.poll() is not None:
                if actor is not None:
                    self.deaths[role] = self.deaths.get(role, 0) + 1
                self._number += 1
                self._actors[role] = self._start(role, [c.format(self._number) for c in command])

    def _start(self, role: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=log, env=self._environment
            )

    def kill(self, role: str) -> None:
        if self._actors[role].poll() is None:
            self._actors[role].kill()
            self._actors[role].wait(10)

    def terminate(self, role: str) -> None:
        """An orderly stop, as at a rollout."""
        self._actors[role].terminate()

    def retire(self, role: str) -> None:
        """Ends a process that is not replaced."""
        del self._casts[role]
        self.kill(role)

    def roles(self, kind: str) -> list[str]:
        return [role for role in self._casts if role.startswith(kind)]

    def any(self, kind: str) -> str:
        return random.choice(self.roles(kind))

    def role(self, pid: int) -> str | None:
        """Whose process this is, if it lives."""
        return next((r for r, a in self._actors.items() if a.pid == pid and a.poll() is None), None)

    def frozen(self) -> list[str]:
        """Roles whose process has stopped itself."""
        return [
            role
            for role, actor in self._actors.items()
            if actor.poll() is None and psutil.Process(actor.pid).status() == psutil.STATUS_STOPPED
        ]

    def thaw(self, role: str) -> None:
        if self._actors[role].poll() is None:
            self._actors[role].send_signal(signal.SIGCONT)

    def restart_server(self) -> None:
        self.server.kill()
        self.server.start()

    def fill_disk(self) -> None:
        """The server runs into the end of its disk, ends of it, and is started where there is
        room."""
        self.server.fill_disk()
        end = time.monotonic() + 10
        while self.server.alive and time.monotonic() < end:
            time.sleep(0.02)
        assert not self.server.alive, "somebody writes all the time"
        self.restart_server()

    def freeze(self, role: str) -> None:
        if self._actors[role].poll() is None:
            self._actors[role].send_signal(signal.SIGSTOP)

    def close(self) -> None:
        for actor in self._actors.values():
            if actor.poll() is None:
                actor.kill()
                actor.wait(10)

    def states(self) -> dict[str, str]:
        return {
            role: psutil.Process(actor.pid).status() if actor.poll() is None else "dead"
            for role, actor in self._actors.items()
        }

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text()[-1500:]}"
            for path in sorted(self.folder.glob("*.log"))
        )
