"""An annotator that always decides, and at no cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.annotator import GROUP, Case, Verdict


def earlier(case: Case) -> Verdict:
    """The response that comes first in a dictionary."""
    return Verdict("first" if case.first < case.second else "second")


@contextmanager
def installed(folder: Path) -> Iterator[str]:
    """Its name, for workers that start meanwhile: installed as a package would be."""
    info = folder / "alphabet-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alphabet\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nalphabet = {__name__}:earlier\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")
        yield "alphabet"
