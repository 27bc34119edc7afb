"""The service is light: whoever only serves or asks needs no GPU library."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer import Exit

from service.commands.main import _load

HEAVY = ("torch", "vllm", "transformers", "sentence_transformers", "trl", "numpy", "datasets")


PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

COMMANDS = sorted(
    {entry.split(":")[0] for entry in PROJECT["entry-points"]["prefstream.commands"].values()}
)
"""`prefstream` loads all of them, also where only the service is installed."""


@pytest.mark.parametrize(
    "module",
    [
        *("prefstream", "service.api", "service.client", "service.broker"),
        *("service.commands.inspect", *COMMANDS),
    ],
)
def test_no_heavy_library_is_imported(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_users_import_no_server() -> None:
    """Nor what only a client on Redis needs."""
    program = "import sys, prefstream; print([m for m in ('fastapi', 'redis') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


EACH_FIRST = """
import importlib, pkgutil, sys
import service
names = [m.name for m in pkgutil.walk_packages(service.__path__, "service.")]
for name in names:
    if name != "service.__main__":
        for loaded in [m for m in sys.modules if m.partition(".")[0] == "service"]:
            del sys.modules[loaded]
        importlib.import_module(name)
print(len(names))
"""


def test_every_module_can_be_imported_first() -> None:
    """A circle of imports shows only in who comes first."""
    done = subprocess.run([sys.executable, "-c", EACH_FIRST], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_a_command_whose_room_is_not_installed_says_so() -> None:
    entry = EntryPoint("ponder", "worker.ponder:ponder", "prefstream.commands")
    with pytest.raises(Exit):
        _load(entry)()
