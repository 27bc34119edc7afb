"""That benchmarks still fit what they measure: nothing else imports them."""

import importlib
import os
import pkgutil

import pytest

import tests.bench

RIVALS = {"taskiq", "taskiq_redis", "docket"}
"""What `make bench` installs."""


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(tests.bench.__path__)])
def test_every_benchmark_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # some set what they run under
    try:
        importlib.import_module(f"tests.bench.{name}")
    except ModuleNotFoundError as missing:
        if missing.name not in RIVALS:
            raise
