"""Which interpreter `make` sets up with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TORCH = re.findall(r"^torch==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[0]

TOOLS = ("sh", "dirname", "grep", "mktemp", "rm", "sed", "tr")


class Machine:
    """What a search path of its own and an index of its own hold."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "bin"
        self.wheels = folder / "wheels"
        for made in (self.programs, self.wheels):
            made.mkdir()
        for tool in TOOLS:
            found = next(p for d in os.get_exec_path() if (p := Path(d, tool)).exists())
            (self.programs / tool).symlink_to(found)

    def has(self, *names: str) -> None:
        """Interpreters: this one, under other names."""
        for name in names:
            program = self.programs / name
            program.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} "$@"\n')
            program.chmod(0o755)

    def has_one_that_does_not_run(self, name: str) -> None:
        program = self.programs / name
        program.write_text("#!/bin/sh\necho 'not installed' >&2; exit 127\n")
        program.chmod(0o755)

    def has_torch(self, version: str) -> None:
        (self.wheels / f"torch-{version}-py3-none-any.whl").touch()

    def choose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.programs),
            "HOME": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
        }
        return subprocess.run(
            ["/bin/sh", str(ROOT / "scripts/choose_python.sh"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_only_one_is_taken_without_a_question(machine: Machine) -> None:
    """pip would find nothing here."""
    machine.has_one_that_does_not_run("python3.11")
    machine.has("python3.12")
    assert machine.choose("").stdout == "python3.12\n"


def test_the_first_of_several_that_run_and_have_torch(machine: Machine) -> None:
    machine.has("python3.12", "python3.13")
    machine.has_torch(TORCH)
    assert machine.choose().stdout == "python3.12\n"


def test_another_torch_is_not_enough(machine: Machine) -> None:
    machine.has("python3.11", "python3.13")
    machine.has_torch(TORCH.split("+")[0] + ".1")
    chosen = machine.choose()
    assert (chosen.stdout, chosen.returncode) == ("", 1)
    for part in (TORCH, "python3.11 python3.13", "make PYTHON=python3.11"):
        assert part in chosen.stderr


def test_none_runs(machine: Machine) -> None:
    machine.has_one_that_does_not_run("python3.11")
    chosen = machine.choose()
    assert (chosen.stdout, chosen.returncode) == ("", 1)
    assert "make PYTHON=" in chosen.stderr


def test_one_that_is_named_wins(machine: Machine) -> None:
    machine.has("python3.11", "python3")
    assert machine.choose("python3").stdout == "python3\n"
    chosen = machine.choose("python3.13")
    assert (chosen.stdout, chosen.returncode) == ("", 1)
    assert "python3.13 cannot make virtual environments" in chosen.stderr
