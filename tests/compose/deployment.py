"""`docker compose` as the tests use it: v2 where there is one, else docker-compose 1.29."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.servers import free_port

ROOT = Path(__file__).parents[2]

PROJECT = "prefstream-test"


class NoDocker(RuntimeError):
    """What these tests need is not there."""


class Deployment:
    """compose.yaml under a project name of its own, on a free port."""

    def __init__(self) -> None:
        self._compose = _compose()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str) -> str:
        """Raises: CalledProcessError; what compose said is on the terminal."""
        command = [*self._compose, "--project-name", PROJECT, *arguments]
        environment = os.environ | {"PORT": str(self.port)}
        print("$", " ".join(command), flush=True)
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def containers(self, service: str | None = None, *, ended: bool = False) -> list[str]:
        """Ids, of one service or of all."""
        command = ["ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}"]
        if service:
            command += ["--filter", f"label=com.docker.compose.service={service}"]
        return docker(*command, *(["--all"] if ended else [])).split()

    def inspect(self, container: str) -> dict[str, Any]:
        [found] = json.loads(docker("inspect", container))
        return found

    def name(self, container: str) -> str:
        return self.inspect(container)["Config"]["Labels"]["com.docker.compose.service"]

    def healthy(self) -> bool:
        """Every container's health check passes."""
        states = [self.inspect(c)["State"] for c in self.containers()]
        return all(s["Health"]["Status"] == "healthy" for s in states)

    def metrics(self, container: str) -> str:
        """What a worker or a trainer serves inside its container."""
        return run_python(
            container,
            "from urllib.request import urlopen;"
            "print(urlopen('http://127.0.0.1:9100/metrics').read().decode())",
        )


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def run_python(container: str, program: str) -> str:
    return docker("exec", container, "python", "-c", program)


def logs(container: str) -> list[str]:
    """Lines that its process wrote to the error stream, where it logs."""
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def _compose() -> list[str]:
    if shutil.which("docker") is None:
        raise NoDocker("There is no `docker` here. Install Docker with its compose plugin.")
    if (told := subprocess.run(["docker", "info"], capture_output=True, text=True)).returncode:
        raise NoDocker(f"The Docker engine does not answer: {told.stderr.strip()}")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise NoDocker("Docker is here, but neither `docker compose` nor `docker-compose` is.")
