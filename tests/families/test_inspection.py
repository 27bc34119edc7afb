"""`prefstream inspect` has nothing to say against any family's inputs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.checkpoints.inspection import inspect_checkpoint
from service.checkpoints.settings import InputSettings
from tests.families.family import FAMILIES, Family

JUDGED_ELSEWHERE = {"family_unsupported", "no_adapter"}
"""What worker and trainer say."""


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_inputs_of_each_family_are_understood(
    family: Family, checkpoint: Callable[[str], Path]
) -> None:
    report = inspect_checkpoint(
        str(checkpoint(family.name)), InputSettings(), trust_remote_code=family.trust_remote_code
    )
    assert [p for p in report.problems if p.code not in JUDGED_ELSEWHERE] == []
    assert report.image_token == (family.placeholder or family.image_token)
    assert report.architecture == family.architecture
    assert report.digest is not None
    assert not any(example.refused for example in report.examples[:2])
    assert all(sizes.tokens > 0 for sizes in report.image_tokens)
    assert bool(report.image_tokens) == (not family.trust_remote_code)
