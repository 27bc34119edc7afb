"""requirements.lock holds for each Python that prefstream runs on: read in the metadata of what is
installed from it, and asked of pip."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

PYTHONS = ["3.11", "3.12", "3.13"]

EXTRAS = ["worker-cpu", "trainer", "embedded", "tracing", "experiment", "s3", "gcs", "dev"]
"""As in the Makefile's `lock`."""

LEFT_OUT = {"torchaudio", "torchcodec"}
"""The Makefile says why."""

LOCKED = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(python: str) -> Iterator[Requirement]:
    """All that a set-up on this Python needs, as the installed packages say."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        yield requirement
        if key in seen or key[0] not in LOCKED:
            continue
        seen.add(key)
        for line in distribution(key[0]).requires or []:
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate(environment | {"extra": extra})
                for extra in ("", *requirement.extras)
            ):
                waiting.append(further)


@pytest.mark.parametrize("python", PYTHONS)
def test_it_names_all_that_is_needed(python: str) -> None:
    wrong = {
        str(requirement)
        for requirement in needed(python)
        if (name := canonicalize_name(requirement.name)) not in LEFT_OUT
        and not requirement.specifier.contains(LOCKED.get(name, "0.dev0"), prereleases=True)
    }
    assert wrong == set()


@pytest.mark.parametrize("python", PYTHONS)
def test_no_version_refuses_the_python(python: str) -> None:
    assert python in SpecifierSet(PROJECT["requires-python"])
    refusing = {
        name
        for name in LOCKED
        if f"{python}.9" not in SpecifierSet(distribution(name).metadata["Requires-Python"] or "")
    }
    assert refusing == set()


def check_lock(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/check_lock.py", *names],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wheel_that_pip_does_not_find_is_named(tmp_path: Path) -> None:
    release = f"pyyaml-{LOCKED['pyyaml']}"
    for python in ("cp311", "cp312"):
        (tmp_path / f"{release}-{python}-{python}-manylinux_2_28_x86_64.whl").touch()
    own_index = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    done = check_lock("pyyaml", **own_index)
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == [
        "pip finds 1 of 1 wheels.",
        "pip finds 1 of 1 wheels.",
        f"pip finds 0 of 1 wheels. pyyaml=={LOCKED['pyyaml']}",
    ]


def test_pip_finds_wheels_for_each_python() -> None:
    """Of a few here; `make lock` asks for all."""
    if subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "pip"], capture_output=True, check=False
    ).returncode:
        pytest.skip("pip has no index here")
    done = check_lock("pyyaml", "pydantic-core", "hiredis")
    assert done.returncode == 0, done.stdout + done.stderr
